/*
 * function.c
 *	  The SQL functions: arguments in, core and etcd asked, rows out.
 *
 * All of them are one C function.  What a call means is known by the name and
 * the parameters of the SQL function through which it came, and decided by
 * core (src/core/functions); what its columns are, by its declaration
 * (callee.c).
 */
#include "postgres.h"

#include "base/bytes.h"
#include "core/dispatch.h"
#include "etcd/page.h"
#include "function/callee.h"
#include "ipc/converse.h"
#include "server/server.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(etcd_fdw_call);

/* A call under way. */
typedef struct Call
{
	Callee	   *callee;
	FunctionCallInfo fcinfo;
	EtcdTalk   *talk;
	bool		warned;			/* that something is not shown as text */
	Oid			serverid;		/* InvalidOid: not looked for yet */
	Tuplestorestate *store;		/* NULL: the first row's only column is the result */
	bool		has_value;
	Datum		value;
	bool		isnull;
	int64		position;		/* bytes that were taken */
	MemoryContext row;			/* reset for each row */
	MemoryContext result;
} Call;

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
 * Bytes as a column shows them that are no text: what a call shows of what it has
 * changed is shown nowhere else, and so in the form that bytea has.
 */
static Datum
show_bytes(Call *call, const char *data, uint32 len)
{
	const char *name = call->callee->name;
	bool		error = !call->talk->wrote;
	StringInfoData hex;

	if (error || !call->warned)
		ereport(error ? ERROR : WARNING,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("%s() cannot show \"%s\" as text", name, etcd_printable(data, Min(len, 100))),
				 error ? errdetail("Its bytes are not valid text in encoding \"%s\".", GetDatabaseEncodingName())
				 : errdetail("It is shown in hexadecimal, as bytea is, and so is all else that is not valid text in encoding \"%s\".",
							 GetDatabaseEncodingName()),
				 errhint("Give the key as bytea: %s('...'::bytea) shows bytea.", name)));
	call->warned = true;
	initStringInfo(&hex);
	appendStringInfoString(&hex, "\\x");
	etcd_append_hex(&hex, data, len);
	return PointerGetDatum(cstring_to_text_with_len(hex.data, hex.len));
}

/*
 * The value of a column that takes bytes as they are.
 */
static Datum
make_bytes(Call *call, const ResultColumn *column, const char *data, uint32 len)
{
	text	   *converted;
	bytea	   *bytes;

	if (column->type == TEXTOID)
	{
		converted = etcd_text_from_utf8(data, len);
		return converted != NULL ? PointerGetDatum(converted) : show_bytes(call, data, len);
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
key_value(Call *call, const ResultColumn *column, const EtcdKeyValue *kv, bool with_values, Datum *value)
{
	static const char *const numbers[] = {"create_revision", "mod_revision", "version", "lease"};

	if (strcmp(column->name, "key") == 0)
		*value = make_bytes(call, column, kv->key, kv->key_len);
	else if (strcmp(column->name, "value") == 0)
	{
		if (!with_values || kv->deleted)
			return false;
		*value = make_bytes(call, column, kv->value, kv->value_len);
	}
	else if (strcmp(column->name, "kind") == 0)
		*value = CStringGetTextDatum(kv->deleted ? "delete" : "put");
	else if (strcmp(column->name, "prev_value") == 0)
	{
		if (kv->prev_value == NULL)
			return false;
		*value = make_bytes(call, column, kv->prev_value, kv->prev_len);
	}
	else if (strcmp(column->name, "deleted") == 0)
		*value = BoolGetDatum(kv->deleted);
	/* A deletion has a revision alone. */
	else if (kv->deleted && strcmp(column->name, "mod_revision") != 0)
		return false;
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
		elog(ERROR, "column \"%s\" of %s() is no field of a key", column->name, call->callee->name);
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
		isnull[i] = !key_value(call, &callee->columns[i], kv, with_values, &values[i]);
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
	values[1] = make_bytes(call, &call->callee->columns[1], data, len);
	put_row(call, values, isnull);
	call->position += len;
	MemoryContextSwitchTo(old);
	MemoryContextReset(call->row);
}

static void
take_revision(void *arg, int64 revision)
{
	Datum		value = Int64GetDatum(revision);
	bool		isnull = false;

	put_row(arg, &value, &isnull);
}

static void
keep(void *arg, const EtcdAnswer *step, int rows, bool writes)
{
	Call	   *call = arg;

	etcd_callee_keep(call->callee, call->fcinfo, step, rows, writes);
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

				values[i] = make_bytes(call, column, bytes, len);
			}
			else if (cell != NULL)
				values[i] = OidInputFunctionCall(column->input, cell, column->ioparam, column->typmod);
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

static void
ask_core(Call *call, EtcdTalk *talk, FunctionCallInfo fcinfo)
{
	StringInfoData input;
	EtcdAnswer	answer;
	char	   *warning;

	talk->dispatch = etcd_dispatch_beside(fcinfo->flinfo->fn_oid);
	initStringInfo(&input);
	etcd_callee_arguments(&input, call->callee, fcinfo);
	if (!etcd_converse(talk, "function", &input, &answer))
		return;
	warning = etcd_json_text(answer.control, "warning");
	if (*warning)
		ereport(WARNING, (errmsg_internal("%s", warning)));
	take_rows(call, etcd_json_strings(answer.control, "rows"));
}

Datum
etcd_fdw_call(PG_FUNCTION_ARGS)
{
	Call		call = {0};
	EtcdTalk	talk = {0};
	MemoryContext context;
	MemoryContext old;
	EtcdAnswer	answer;

	call.callee = etcd_callee_find(fcinfo);
	call.fcinfo = fcinfo;
	call.talk = &talk;
	call.result = CurrentMemoryContext;
	if (call.callee->returns_set)
		call.store = begin_store(call.callee, fcinfo);
	context = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw function", ALLOCSET_DEFAULT_SIZES);
	call.row = AllocSetContextCreate(context, "etcd_fdw function row", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);

	talk.name = psprintf("%s()", call.callee->name);
	talk.userid = GetUserId();
	talk.server = server_of;
	talk.take_key = take_key;
	talk.take_bytes = take_bytes;
	talk.take_revision = take_revision;
	talk.keep = keep;
	talk.arg = &call;
	if (etcd_callee_repeat(call.callee, fcinfo, &answer))
		etcd_ask_again(&talk, &answer, call.callee->known->rows, call.callee->known->writes);
	else
		ask_core(&call, &talk, fcinfo);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	if (call.store != NULL || !call.has_value || call.isnull)
		PG_RETURN_NULL();
	return call.value;
}
