/*
 * engine.c
 *	  Which engine runs core: plv8, or the embedded one.
 *
 * The engine is a property of one SQL function, etcd_fdw_dispatch.  Changing
 * the engine replaces the function: LANGUAGE plv8 with core's source as its
 * body, or LANGUAGE c into engine_quickjs.c.
 *
 * With plv8 the function is SECURITY DEFINER: plv8 has one isolate per role,
 * and in that of the calling user the user could have replaced core, and with
 * it the rule which keys a foreign table shows.  The SET clause keeps
 * plv8.start_proc, which any user may set, from running in the owner's isolate;
 * it names the function itself, which then loads core and does nothing.
 */
#include "postgres.h"

#include "constants.h"
#include "core/dispatch.h"
#include "core/engine.h"

#include "access/htup_details.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/proclang.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#define DISPATCH_NAME	"etcd_fdw_dispatch"
#define START_PROC		"plv8.start_proc"

PG_FUNCTION_INFO_V1(etcd_fdw_engine);
PG_FUNCTION_INFO_V1(etcd_fdw_use_engine);

Oid
etcd_dispatch_in_schema(Oid namespace)
{
	Oid			argtypes[] = {TEXTOID, TEXTOID, BYTEAOID};
	Oid			function;

	function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							   CStringGetDatum(DISPATCH_NAME),
							   PointerGetDatum(buildoidvector(argtypes, 3)),
							   ObjectIdGetDatum(namespace));
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s is missing in schema \"%s\"", DISPATCH_NAME, get_namespace_name(namespace)),
				 errhint("Create extension etcd_fdw anew.")));
	return function;
}

static Oid
function_language(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			language;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
	ReleaseSysCache(tuple);
	return language;
}

static Oid
extension_schema(FunctionCallInfo fcinfo)
{
	return get_func_namespace(fcinfo->flinfo->fn_oid);
}

/*
 * etcd_fdw_engine() returns text
 */
Datum
etcd_fdw_engine(PG_FUNCTION_ARGS)
{
	Oid			language = function_language(etcd_dispatch_in_schema(extension_schema(fcinfo)));

	PG_RETURN_TEXT_P(cstring_to_text(language == ClanguageId ? "embedded" : get_language_name(language, false)));
}

static void
run_sql(const char *sql)
{
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
}

static void
use_embedded(const char *schema)
{
#ifdef ETCD_FDW_WITH_QUICKJS
	run_sql(psprintf("CREATE OR REPLACE FUNCTION %s." DISPATCH_NAME "(op text, input text, bytes bytea)"
					 " RETURNS %s.etcd_fdw_answer LANGUAGE c STRICT PARALLEL RESTRICTED"
					 " AS '$libdir/etcd_fdw', 'etcd_fdw_dispatch_embedded'",
					 schema, schema));
#else
	(void) schema;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("this build of etcd_fdw has no embedded engine"),
			 errhint("CREATE EXTENSION plv8, or build etcd_fdw with the source of QuickJS at hand.")));
#endif
}

/*
 * The body finds core in the isolate's global object or puts it there, which
 * also serves after plv8_reset().
 */
static void
use_plv8(const char *schema)
{
	char	   *body;

	if (!OidIsValid(get_language_oid("plv8", true)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("language \"plv8\" does not exist"),
				 errhint("CREATE EXTENSION plv8 first.")));
	/* Under its version: an isolate may hold that of before ALTER EXTENSION. */
	body = psprintf("return (globalThis[\"__etcd_fdw " ETCD_FDW_VERSION "\"] ||= (\n%s\n)).dispatch(op, input, bytes)",
					(const char *) etcd_fdw_core_source);
	run_sql(psprintf("CREATE OR REPLACE FUNCTION %s." DISPATCH_NAME "(op text, input text, bytes bytea)"
					 " RETURNS %s.etcd_fdw_answer LANGUAGE plv8 STRICT PARALLEL RESTRICTED SECURITY DEFINER"
					 " SET " START_PROC " = 'pg_catalog.version' AS %s",
					 schema, schema,
					 quote_literal_cstr(body)));
}

/*
 * etcd_fdw_use_engine(engine text) returns text
 *
 * NULL takes plv8 when the database has it: so the extension's script chooses.
 */
Datum
etcd_fdw_use_engine(PG_FUNCTION_ARGS)
{
	Oid			namespace = extension_schema(fcinfo);
	char	   *schema = pstrdup(quote_identifier(get_namespace_name(namespace)));
	char	   *engine;
	StringInfoData input;
	EtcdAnswer	answer;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to change the engine of etcd_fdw"),
				 errhint("Only a superuser may change it.")));
	if (!PG_ARGISNULL(0))
		engine = text_to_cstring(PG_GETARG_TEXT_PP(0));
	else
		engine = OidIsValid(get_language_oid("plv8", true)) ? "plv8" : "embedded";

	SPI_connect();
	if (strcmp(engine, "plv8") == 0)
		use_plv8(schema);
	else if (strcmp(engine, "embedded") == 0)
		use_embedded(schema);
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown engine \"%s\"", engine),
				 errhint("The engines are plv8 and embedded.")));
	run_sql(psprintf("REVOKE ALL ON FUNCTION %s." DISPATCH_NAME "(text, text, bytea) FROM PUBLIC", schema));
	SPI_finish();

	/* An engine that cannot run core is an error now, not at the first query. */
	CommandCounterIncrement();
	initStringInfo(&input);
	appendStringInfoString(&input, "{}");
	etcd_dispatch(etcd_dispatch_in_schema(namespace), "about", &input, &answer);
	PG_RETURN_TEXT_P(cstring_to_text(engine));
}
