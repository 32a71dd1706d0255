/*
 * function.c
 *	  The SQL functions: arguments in, core and etcd asked, rows out.
 *
 * All of them are one C function.  What a call means is known by the name and
 * the parameters of the SQL function through which it came, and decided by
 * core (src/core/functions); what its columns are, by its declaration.
 */
#include "postgres.h"

#include "compat.h"
#include "converse.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "server.h"

PG_FUNCTION_INFO_V1(etcd_fdw_call);

/* One column of the result. */
typedef struct ResultColumn
{
	const char *name;
	Oid			type;
	int32		typmod;
	Oid			ioparam;
	FmgrInfo	input;
} ResultColumn;

/* The SQL function, as it was declared; kept as long as the call's FmgrInfo. */
typedef struct Callee
{
	char	   *name;
	int			nargs;
	char	  **argnames;
	Oid		   *argtypes;
	bool		names_server;	/* by its first argument */
	bool		for_monitors;	/* pg_monitor may call it without USAGE */
	bool		returns_set;
	TupleDesc	desc;
	ResultColumn *columns;
} Callee;

/* A call under way. */
typedef struct Call
{
	Callee	   *callee;
	FunctionCallInfo fcinfo;
	Oid			serverid;		/* InvalidOid: not looked for yet */
	Tuplestorestate *store;		/* NULL: the first row's only column is the result */
	bool		has_value;
	Datum		value;
	bool		isnull;
	int64		position;		/* bytes that were taken */
	MemoryContext row;			/* reset for each row */
	MemoryContext result;
} Call;

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
		Oid			input;

		column->name = NameStr(att->attname);
		column->type = att->atttypid;
		column->typmod = att->atttypmod;
		getTypeInputInfo(att->atttypid, &input, &column->ioparam);
		fmgr_info_cxt(input, &column->input, CurrentMemoryContext);
	}
}

static Callee *
describe(FunctionCallInfo fcinfo)
{
	Oid			oid = fcinfo->flinfo->fn_oid;
	MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	Callee	   *callee = palloc0(sizeof(Callee));
	char	   *modes;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", oid);
	callee->name = pstrdup(NameStr(((Form_pg_proc) GETSTRUCT(tuple))->proname));
	callee->returns_set = ((Form_pg_proc) GETSTRUCT(tuple))->proretset;
	(void) get_func_arg_info(tuple, &callee->argtypes, &callee->argnames, &modes);
	callee->nargs = ((Form_pg_proc) GETSTRUCT(tuple))->pronargs;
	ReleaseSysCache(tuple);
	callee->names_server = callee->nargs > 0 && strcmp(callee->argnames[0], "server") == 0;
	callee->for_monitors = strcmp(callee->name, "etcd_fdw_certificate_rows") == 0;
	describe_result(callee, fcinfo);
	MemoryContextSwitchTo(old);
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

static void
describe_call(StringInfo buf, const Callee *callee, FunctionCallInfo fcinfo)
{
	const char *separator = "";

	appendStringInfo(buf, "{\"function\":\"%s\",\"args\":{", callee->name);
	for (int i = callee->names_server ? 1 : 0; i < callee->nargs; i++)
	{
		if (PG_ARGISNULL(i))
			continue;
		appendStringInfo(buf, "%s\"%s\":", separator, callee->argnames[i]);
		append_argument(buf, callee, i, PG_GETARG_DATUM(i));
		separator = ",";
	}
	appendStringInfoString(buf, "}}");
}

/*
 * The server that the call names, or the one that is meant.
 */
static Oid
server_of(void *arg)
{
	Call	   *call = arg;
	FunctionCallInfo fcinfo = call->fcinfo;

	if (OidIsValid(call->serverid))
		return call->serverid;
	if (!call->callee->names_server)
		call->serverid = etcd_default_server(call->callee->name);
	else if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"server\" of %s() must not be null", call->callee->name)));
	else
		call->serverid = etcd_server_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	etcd_check_usage(call->serverid, call->callee->for_monitors);
	return call->serverid;
}

/*
 * The value of a column that takes bytes as they are.
 */
static Datum
make_bytes(const Callee *callee, const ResultColumn *column, const char *data, uint32 len)
{
	Datum		value;
	bytea	   *bytes;

	if (column->type == TEXTOID)
	{
		value = PointerGetDatum(etcd_text_from_utf8(data, len));
		if (DatumGetPointer(value) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					 errmsg("%s() cannot show \"%s\" as text", callee->name, etcd_printable(data, Min(len, 100))),
					 errdetail("Its bytes are not valid text in encoding \"%s\".", GetDatabaseEncodingName()),
					 errhint("Give the key as bytea: %s('...'::bytea) shows bytea.", callee->name)));
		return value;
	}
	bytes = palloc(VARHDRSZ + len);
	SET_VARSIZE(bytes, VARHDRSZ + len);
	memcpy(VARDATA(bytes), data, len);
	return PointerGetDatum(bytes);
}

static bool
takes_bytes(const ResultColumn *column)
{
	return column->type == TEXTOID || column->type == BYTEAOID;
}

static void
put_row(Call *call, Datum *values, bool *isnull)
{
	Form_pg_attribute att = TupleDescAttr(call->callee->desc, 0);
	MemoryContext old;

	if (call->store != NULL)
		tuplestore_putvalues(call->store, call->callee->desc, values, isnull);
	else if (!call->has_value)
	{
		old = MemoryContextSwitchTo(call->result);
		call->has_value = true;
		call->isnull = isnull[0];
		call->value = isnull[0] ? (Datum) 0 : datumCopy(values[0], att->attbyval, att->attlen);
		MemoryContextSwitchTo(old);
	}
}

static bool
key_value(const Callee *callee, const ResultColumn *column, const EtcdKeyValue *kv, bool with_values, Datum *value)
{
	static const char *const numbers[] = {"create_revision", "mod_revision", "version", "lease"};

	if (strcmp(column->name, "key") == 0)
		*value = make_bytes(callee, column, kv->key, kv->key_len);
	else if (strcmp(column->name, "value") == 0)
	{
		if (!with_values)
			return false;
		*value = make_bytes(callee, column, kv->value, kv->value_len);
	}
	else
	{
		for (int i = 0; i < (int) lengthof(numbers); i++)
		{
			if (strcmp(column->name, numbers[i]) == 0)
			{
				*value = Int64GetDatum(kv->numbers[i]);
				return true;
			}
		}
		elog(ERROR, "column \"%s\" of %s() is no field of a key", column->name, callee->name);
	}
	return true;
}

static void
take_key(void *arg, const EtcdKeyValue *kv, bool with_values)
{
	Call	   *call = arg;
	Callee	   *callee = call->callee;
	MemoryContext old = MemoryContextSwitchTo(call->row);
	Datum	   *values = palloc(callee->desc->natts * sizeof(Datum));
	bool	   *isnull = palloc(callee->desc->natts * sizeof(bool));

	for (int i = 0; i < callee->desc->natts; i++)
		isnull[i] = !key_value(callee, &callee->columns[i], kv, with_values, &values[i]);
	put_row(call, values, isnull);
	MemoryContextSwitchTo(old);
	MemoryContextReset(call->row);
}

/*
 * A piece of a large answer: its position and its bytes.
 */
static void
take_bytes(void *arg, const char *data, uint32 len)
{
	Call	   *call = arg;
	Datum		values[2];
	bool		isnull[2] = {false, false};
	MemoryContext old = MemoryContextSwitchTo(call->row);

	values[0] = Int64GetDatum(call->position);
	values[1] = make_bytes(call->callee, &call->callee->columns[1], data, len);
	put_row(call, values, isnull);
	call->position += len;
	MemoryContextSwitchTo(old);
	MemoryContextReset(call->row);
}

static void
take_rows(Call *call, List *cells)
{
	Callee	   *callee = call->callee;
	int			natts = callee->desc->natts;
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *isnull = palloc(natts * sizeof(bool));
	MemoryContext old;

	if (list_length(cells) % natts != 0)
		elog(ERROR, "core answered %s() with rows of another width", callee->name);
	for (int row = 0; row < list_length(cells); row += natts)
	{
		old = MemoryContextSwitchTo(call->row);
		for (int i = 0; i < natts; i++)
		{
			ResultColumn *column = &callee->columns[i];
			char	   *cell = list_nth(cells, row + i);
			int			len;

			isnull[i] = cell == NULL;
			if (cell != NULL && takes_bytes(column))
			{
				char	   *bytes = etcd_from_hex(cell, &len);

				values[i] = make_bytes(callee, column, bytes, len);
			}
			else if (cell != NULL)
				values[i] = InputFunctionCall(&column->input, cell, column->ioparam, column->typmod);
		}
		put_row(call, values, isnull);
		MemoryContextSwitchTo(old);
		MemoryContextReset(call->row);
	}
}

static Tuplestorestate *
begin_store(Callee *callee, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;
	Tuplestorestate *store;

	if (info == NULL || !IsA(info, ReturnSetInfo) || (info->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s() returns a set, which cannot be taken here", callee->name)));
	old = MemoryContextSwitchTo(info->econtext->ecxt_per_query_memory);
	store = tuplestore_begin_heap((info->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
	info->returnMode = SFRM_Materialize;
	info->setResult = store;
	info->setDesc = CreateTupleDescCopy(callee->desc);
	MemoryContextSwitchTo(old);
	return store;
}

Datum
etcd_fdw_call(PG_FUNCTION_ARGS)
{
	Call		call = {0};
	EtcdTalk	talk = {0};
	MemoryContext context;
	MemoryContext old;
	StringInfoData input;
	EtcdAnswer	answer;

	if (fcinfo->flinfo->fn_extra == NULL)
		fcinfo->flinfo->fn_extra = describe(fcinfo);
	call.callee = fcinfo->flinfo->fn_extra;
	call.fcinfo = fcinfo;
	call.result = CurrentMemoryContext;
	if (call.callee->returns_set)
		call.store = begin_store(call.callee, fcinfo);
	context = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw function", ALLOCSET_DEFAULT_SIZES);
	call.row = AllocSetContextCreate(context, "etcd_fdw function row", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);

	talk.name = psprintf("%s()", call.callee->name);
	talk.dispatch = etcd_dispatch_beside(fcinfo->flinfo->fn_oid);
	talk.userid = GetUserId();
	talk.server = server_of;
	talk.take_key = take_key;
	talk.take_bytes = take_bytes;
	talk.arg = &call;
	initStringInfo(&input);
	describe_call(&input, call.callee, fcinfo);
	if (etcd_converse(&talk, "function", &input, &answer))
	{
		char	   *warning = etcd_json_text(answer.control, "warning");

		if (*warning)
			ereport(WARNING, (errmsg_internal("%s", warning)));
		take_rows(&call, etcd_json_strings(answer.control, "rows"));
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	if (call.store != NULL || !call.has_value || call.isnull)
		PG_RETURN_NULL();
	return call.value;
}
