/*
 * callee.c
 *	  The SQL functions as they were declared: how a call becomes core's input.
 *
 * A description is kept for the session, since each execution of a statement
 * comes with a FmgrInfo of its own; with it, the request that core made for an
 * earlier call, if that serves others too.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "core/dispatch.h"
#include "etcd/wire.h"
#include "function/callee.h"
#include "constants.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

static void
describe_result(Callee *callee, FunctionCallInfo fcinfo)
{
	Oid			type;
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, &type, &desc) == TYPEFUNC_COMPOSITE)
		callee->desc = CreateTupleDescCopy(desc);
	else
	{
		callee->desc = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(callee->desc, 1, "value", type, -1, 0);
	}
	callee->columns = palloc0(callee->desc->natts * sizeof(ResultColumn));
	for (int i = 0; i < callee->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(callee->desc, i);
		ResultColumn *column = &callee->columns[i];

		column->name = NameStr(att->attname);
		column->type = att->atttypid;
		column->typmod = att->atttypmod;
		getTypeInputInfo(att->atttypid, &column->input, &column->ioparam);
	}
}

static void
describe(Callee *callee, FunctionCallInfo fcinfo)
{
	MemoryContext old = MemoryContextSwitchTo(callee->context);
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(callee->oid));
	char	   *modes;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", callee->oid);
	callee->hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(callee->oid));
	callee->name = pstrdup(NameStr(((Form_pg_proc) GETSTRUCT(tuple))->proname));
	callee->returns_set = ((Form_pg_proc) GETSTRUCT(tuple))->proretset;
	(void) get_func_arg_info(tuple, &callee->argtypes, &callee->argnames, &modes);
	callee->nargs = ((Form_pg_proc) GETSTRUCT(tuple))->pronargs;
	ReleaseSysCache(tuple);
	callee->names_server = callee->nargs > 0 && strcmp(callee->argnames[0], "server") == 0;
	callee->for_monitors = strcmp(callee->name, "etcd_fdw_certificate_rows") == 0;
	callee->known = NULL;
	describe_result(callee, fcinfo);
	MemoryContextSwitchTo(old);
}

static HTAB *callees = NULL;

static void
function_altered(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	Callee	   *callee;

	(void) arg;
	(void) cacheid;
	hash_seq_init(&scan, callees);
	while ((callee = hash_seq_search(&scan)) != NULL)
	{
		if (hashvalue == 0 || callee->hash == hashvalue)
			callee->valid = false;
	}
}

/*
 * The description of the called function.  One that was altered is described
 * anew; the old description lives until the end of the transaction, since a
 * call of it may be under way.
 */
Callee *
etcd_callee_find(FunctionCallInfo fcinfo)
{
	Oid			oid = fcinfo->flinfo->fn_oid;
	bool		found;
	Callee	   *callee;

	if (callees == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(Callee);
		ctl.hcxt = TopMemoryContext;
		callees = hash_create("etcd_fdw functions", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		CacheRegisterSyscacheCallback(PROCOID, function_altered, (Datum) 0);
	}
	callee = hash_search(callees, &oid, HASH_ENTER, &found);
	if (!found)
		memset((char *) callee + sizeof(Oid), 0, sizeof(Callee) - sizeof(Oid));
	if (!callee->valid)
	{
		if (callee->context != NULL)
			MemoryContextSetParent(callee->context, TopTransactionContext);
		callee->context = AllocSetContextCreate(TopMemoryContext, "etcd_fdw function description",
												ALLOCSET_SMALL_SIZES);
		callee->valid = true;
		PG_TRY();
		{
			describe(callee, fcinfo);
		}
		PG_CATCH();
		{
			callee->valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	return callee;
}

static void
append_text_hex(StringInfo buf, Datum datum)
{
	text	   *value = DatumGetTextPP(datum);
	char	   *utf8 = pg_server_to_any(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), PG_UTF8);
	int			len = utf8 == VARDATA_ANY(value) ? (int) VARSIZE_ANY_EXHDR(value) : (int) strlen(utf8);

	appendStringInfoChar(buf, '"');
	etcd_append_hex(buf, utf8, len);
	appendStringInfoChar(buf, '"');
}

static void
append_texts(StringInfo buf, const Callee *callee, int i, Datum datum)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	appendStringInfoChar(buf, '[');
	for (int at = 0; at < count; at++)
	{
		if (nulls[at])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" of %s() must not hold nulls", callee->argnames[i], callee->name)));
		if (at > 0)
			appendStringInfoChar(buf, ',');
		append_text_hex(buf, elements[at]);
	}
	appendStringInfoChar(buf, ']');
}

/*
 * An argument as FunctionInput of protocol.ts has it.
 */
static void
append_argument(StringInfo buf, const Callee *callee, int i, Datum datum)
{
	Interval   *span;
	bytea	   *bytes;

	switch (callee->argtypes[i])
	{
		case TEXTOID:
			append_text_hex(buf, datum);
			break;
		case BYTEAOID:
			bytes = DatumGetByteaPP(datum);
			appendStringInfoChar(buf, '"');
			etcd_append_hex(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
			appendStringInfoChar(buf, '"');
			break;
		case INT8OID:
			appendStringInfo(buf, "\"" INT64_FORMAT "\"", DatumGetInt64(datum));
			break;
		case BOOLOID:
			appendStringInfoString(buf, DatumGetBool(datum) ? "true" : "false");
			break;
		case INTERVALOID:
			span = DatumGetIntervalP(datum);
			appendStringInfo(buf, "\"" INT64_FORMAT "\"",
							 span->time / 1000 +
							 ((int64) span->month * DAYS_PER_MONTH + span->day) * SECS_PER_DAY * 1000);
			break;
		case JSONBOID:
			escape_json(buf, OidOutputFunctionCall(F_JSONB_OUT, datum));
			break;
		case TEXTARRAYOID:
			append_texts(buf, callee, i, datum);
			break;
		default:
			elog(ERROR, "%s() has an argument of type %s", callee->name, format_type_be(callee->argtypes[i]));
	}
}

static bool
is_templated(const Template *template, int arg)
{
	for (int i = 0; template != NULL && i < template->nargs; i++)
	{
		if (template->args[i] == arg)
			return true;
	}
	return false;
}

/*
 * The arguments but for those of the template, as an object.
 */
static void
describe_arguments(StringInfo buf, const Callee *callee, FunctionCallInfo fcinfo, const Template *template)
{
	const char *separator = "";

	appendStringInfoChar(buf, '{');
	for (int i = callee->names_server ? 1 : 0; i < callee->nargs; i++)
	{
		if (PG_ARGISNULL(i) || is_templated(template, i))
			continue;
		appendStringInfo(buf, "%s\"%s\":", separator, callee->argnames[i]);
		append_argument(buf, callee, i, PG_GETARG_DATUM(i));
		separator = ",";
	}
	appendStringInfoChar(buf, '}');
}

void
etcd_callee_arguments(StringInfo buf, const Callee *callee, FunctionCallInfo fcinfo)
{
	appendStringInfo(buf, "{\"function\":\"%s\",\"args\":", callee->name);
	describe_arguments(buf, callee, fcinfo, NULL);
	appendStringInfoChar(buf, '}');
}

/*
 * Notes a request that serves calls with other bytes too, if core says so.
 */
void
etcd_callee_keep(Callee *callee, FunctionCallInfo fcinfo, const EtcdAnswer *step, int rows, bool writes)
{
	List	   *names = etcd_json_strings(step->control, "template");
	MemoryContext old;
	Template   *template;
	StringInfoData others;
	const char *rest = step->payload + FRAME_HEADER;
	EtcdField	field;
	ListCell   *lc;

	if (names == NIL || list_length(names) > TEMPLATE_ARGS)
		return;
	if (callee->known != NULL)
	{
		pfree(callee->known->others);
		pfree(callee->known->header);
		pfree(callee->known->rest);
		pfree(callee->known);
		callee->known = NULL;
	}
	old = MemoryContextSwitchTo(callee->context);
	template = palloc0(sizeof(Template));
	foreach(lc, names)
	{
		for (int i = 0; i < callee->nargs; i++)
		{
			if (strcmp(callee->argnames[i], lfirst(lc)) == 0)
				template->args[template->nargs++] = i;
		}
		(void) etcd_next_field(&rest, step->payload + step->payload_len, &field);
	}
	initStringInfo(&others);
	describe_arguments(&others, callee, fcinfo, template);
	template->others = others.data;
	template->header = memcpy(palloc(FRAME_HEADER), step->payload, FRAME_HEADER);
	template->rest_len = (int) (step->payload + step->payload_len - rest);
	template->rest = memcpy(palloc(template->rest_len + 1), rest, template->rest_len);
	template->rows = rows;
	template->writes = writes;
	callee->known = template;
	MemoryContextSwitchTo(old);
}

/*
 * The frame for this call by the template; false when it does not fit.
 */
bool
etcd_callee_repeat(const Callee *callee, FunctionCallInfo fcinfo, EtcdAnswer *step)
{
	const Template *template = callee->known;
	StringInfoData buf;

	if (template == NULL)
		return false;
	initStringInfo(&buf);
	describe_arguments(&buf, callee, fcinfo, template);
	if (strcmp(buf.data, template->others) != 0)
		return false;
	resetStringInfo(&buf);
	appendBinaryStringInfo(&buf, template->header, FRAME_HEADER);
	for (int i = 0; i < template->nargs; i++)
	{
		int			arg = template->args[i];
		struct varlena *value;
		char	   *bytes;
		int			len;

		if (PG_ARGISNULL(arg))
			return false;
		value = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(arg));
		bytes = VARDATA_ANY(value);
		len = (int) VARSIZE_ANY_EXHDR(value);
		if (callee->argtypes[arg] == TEXTOID)
		{
			char	   *utf8 = pg_server_to_any(bytes, len, PG_UTF8);

			len = utf8 == bytes ? len : (int) strlen(utf8);
			bytes = utf8;
		}
		appendStringInfoChar(&buf, (char) ((i + 1) << 3 | 2));
		etcd_append_varint(&buf, (uint64) len);
		appendBinaryStringInfo(&buf, bytes, len);
	}
	appendBinaryStringInfo(&buf, template->rest, template->rest_len);
	step->payload = buf.data;
	step->payload_len = buf.len;
	return true;
}
