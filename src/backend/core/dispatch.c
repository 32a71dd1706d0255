/*
 * dispatch.c
 *	  Calls core, and reads its answers.
 *
 * Core is one SQL function, etcd_fdw_dispatch, in the schema of the extension;
 * whether plv8 or the embedded engine runs it is decided in engine.c and makes
 * no difference here.  Each call looks the function up afresh: a FmgrInfo that
 * outlives its transaction, a change of role or an error is a crash with plv8.
 * Core says what went wrong as a value, which is raised here, outside of the
 * engine's frames.
 */
#include "postgres.h"

#include "base/compat.h"
#include "core/dispatch.h"
#include "core/engine.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* What core is given at once: less than either engine has room for. */
#define CORE_INPUT_BYTES		(64 * 1024 * 1024)

/*
 * V8 measures its stack from where its isolate was made, by whoever was first,
 * and crashes when called from much deeper.  Nobody can have been further up
 * than where the process began; V8 takes 984 kB from there, and core some of
 * it.  The embedded engine measures afresh at each call.
 */
#define ENGINE_STACK_BYTES	(640 * 1024)

/*
 * Where the stack of this process begins, as PostgreSQL has noted it.
 */
static const char *
stack_base(void)
{
	pg_stack_base_t base = set_stack_base();

	restore_stack_base(base);
	return (const char *) base;
}

static void
check_engine_stack(void)
{
	ptrdiff_t	depth = stack_base() - (const char *) __builtin_frame_address(0);

	if (depth > ENGINE_STACK_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("stack depth limit of the JavaScript engine exceeded"),
				 errhint("Call etcd_fdw from fewer nested functions.")));
}

/*
 * Settings with which plv8 starts its engine and which everybody may set: what
 * V8 is told by them can write files as the server does.  Whoever may use plv8
 * can do that anyway; our query must not do it for the others.  (Of the rest,
 * start_proc is pinned by the dispatch function, memory_limit is a superuser's,
 * and debugger_port does nothing.)
 */
static void
check_engine_settings(Oid language)
{
	static const char *const settings[] = {"plv8.v8_flags", "plv8.icu_data"};
	static bool checked = false;

	if (checked)
		return;
	if (compat_language_aclcheck(language, GetSessionUserId(), ACL_USAGE) != ACLCHECK_OK)
	{
		for (int i = 0; i < (int) lengthof(settings); i++)
		{
			struct config_generic *setting = compat_find_setting(settings[i]);
			const char *value = setting ? GetConfigOption(settings[i], true, false) : NULL;

			if (value != NULL && *value && setting->source > PGC_S_DATABASE)
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("permission denied to start the JavaScript engine with a setting of \"%s\"", settings[i]),
						 errdetail("The role of this session has no right to use language plv8."),
						 errhint("RESET %s, or connect without it.", settings[i])));
		}
	}
	checked = true;
}

static void
check_engine(const FmgrInfo *dispatch)
{
	HeapTuple	tuple;
	Oid			language;

	check_stack_depth();
	if (etcd_is_embedded(dispatch))
		return;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(dispatch->fn_oid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", dispatch->fn_oid);
	language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
	ReleaseSysCache(tuple);
	check_engine_settings(language);
	check_engine_stack();
}

/*
 * The dispatch function stands in the same schema as the handler of the
 * server's wrapper.
 */
Oid
etcd_dispatch_function(Oid serverid)
{
	ForeignDataWrapper *fdw = GetForeignDataWrapper(GetForeignServer(serverid)->fdwid);

	return etcd_dispatch_in_schema(get_func_namespace(fdw->fdwhandler));
}

/*
 * The same for a function of the extension.
 */
Oid
etcd_dispatch_beside(Oid function)
{
	return etcd_dispatch_in_schema(get_func_namespace(function));
}

/*
 * Copies what the function returned, a row (control text, payload bytea), into
 * the context of the caller.
 */
static void
read_answer(Datum row, EtcdAnswer *answer, MemoryContext target)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple;
	Datum		values[2];
	bool		nulls[2];
	bytea	   *payload;
	Datum		control;
	MemoryContext old;

	if (desc->natts != 2)
		elog(ERROR, "etcd_fdw_dispatch returned %d columns", desc->natts);
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);
	ReleaseTupleDesc(desc);
	if (nulls[0] || nulls[1])
		elog(ERROR, "etcd_fdw_dispatch returned NULL");

	control = DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(values[0])));
	payload = DatumGetByteaPP(values[1]);
	old = MemoryContextSwitchTo(target);
	answer->control = (Jsonb *) PG_DETOAST_DATUM_COPY(control);
	answer->payload_len = VARSIZE_ANY_EXHDR(payload);
	answer->payload = palloc(answer->payload_len + 1);
	memcpy(answer->payload, VARDATA_ANY(payload), answer->payload_len);
	MemoryContextSwitchTo(old);
}

static void
raise_answer(Jsonb *control)
{
	const char *sqlstate = etcd_json_text(control, "sqlstate");
	const char *detail = etcd_json_text(control, "detail");
	const char *hint = etcd_json_text(control, "hint");

	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4])),
			 errmsg_internal("%s", etcd_json_text(control, "message")),
			 *detail ? errdetail_internal("%s", detail) : 0,
			 *hint ? errhint("%s", hint) : 0));
}

/*
 * Runs one operation of core on the JSON in `input`.  The answer is allocated
 * in the current memory context; an error that core answers is raised.
 */
void
etcd_dispatch(Oid function, const char *op, StringInfo input, EtcdAnswer *answer)
{
	etcd_dispatch_bytes(function, op, input, "", 0, answer);
}

/*
 * The same with bytes beside the input.
 */
void
etcd_dispatch_bytes(Oid function, const char *op, StringInfo input, const char *bytes, int len,
					EtcdAnswer *answer)
{
	MemoryContext target = CurrentMemoryContext;
	MemoryContext context;
	FmgrInfo	flinfo;
	Datum		row;

	if (input->len > CORE_INPUT_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("values are too large for a request to etcd"),
				 errdetail("They take %d bytes, in hexadecimal, and may take %d.", input->len, CORE_INPUT_BYTES)));
	context = AllocSetContextCreate(target, "etcd_fdw dispatch", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	fmgr_info_cxt(function, &flinfo, context);
	check_engine(&flinfo);
	row = FunctionCall3(&flinfo,
						CStringGetTextDatum(op),
						PointerGetDatum(cstring_to_text_with_len(input->data, input->len)),
						PointerGetDatum(cstring_to_text_with_len(bytes, len)));
	read_answer(row, answer, target);
	MemoryContextSwitchTo(target);
	MemoryContextDelete(context);
	if (etcd_json_is(answer->control, "do", "error"))
		raise_answer(answer->control);
}

static JsonbValue *
json_field(Jsonb *object, const char *field, JsonbValue *value)
{
	if (!JB_ROOT_IS_OBJECT(object) ||
		getKeyJsonValueFromContainer(&object->root, field, strlen(field), value) == NULL)
		elog(ERROR, "answer of etcd_fdw_dispatch has no field \"%s\"", field);
	return value;
}

/*
 * A field of the answer that holds a string.
 */
char *
etcd_json_text(Jsonb *object, const char *field)
{
	JsonbValue	value;

	json_field(object, field, &value);
	if (value.type != jbvString)
		elog(ERROR, "field \"%s\" in the answer of etcd_fdw_dispatch is not a string", field);
	return pnstrdup(value.val.string.val, value.val.string.len);
}

/*
 * Whether a field that holds a string holds this one.
 */
bool
etcd_json_is(Jsonb *object, const char *field, const char *text)
{
	JsonbValue	value;

	json_field(object, field, &value);
	return value.type == jbvString && value.val.string.len == (int) strlen(text) &&
		memcmp(value.val.string.val, text, value.val.string.len) == 0;
}

static double
numeric_value(JsonbValue *value, const char *field)
{
	if (value->type != jbvNumeric)
		elog(ERROR, "field \"%s\" in the answer of etcd_fdw_dispatch is not a number", field);
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric)));
}

double
etcd_json_number(Jsonb *object, const char *field)
{
	JsonbValue	value;

	return numeric_value(json_field(object, field, &value), field);
}

/*
 * A small number that may be absent, which counts as 0.
 */
int
etcd_json_flag(Jsonb *object, const char *field)
{
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(object) ||
		getKeyJsonValueFromContainer(&object->root, field, strlen(field), &value) == NULL)
		return 0;
	return (int) numeric_value(&value, field);
}

/*
 * Calls back for each element of an array, and of the arrays in it.
 */
static List *
json_elements(Jsonb *object, const char *field, List *(*append) (List *, JsonbValue *, const char *))
{
	JsonbValue	value;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	List	   *result = NIL;

	json_field(object, field, &value);
	if (value.type != jbvBinary)
		elog(ERROR, "field \"%s\" in the answer of etcd_fdw_dispatch is not an array", field);
	iterator = JsonbIteratorInit(value.val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		if (token == WJB_ELEM)
			result = append(result, &value, field);
	}
	return result;
}

static List *
append_int(List *list, JsonbValue *value, const char *field)
{
	return lappend_int(list, (int) numeric_value(value, field));
}

static List *
append_string(List *list, JsonbValue *value, const char *field)
{
	if (value->type == jbvNull)
		return lappend(list, NULL);
	if (value->type != jbvString)
		elog(ERROR, "field \"%s\" in the answer of etcd_fdw_dispatch is not an array of strings", field);
	return lappend(list, pnstrdup(value->val.string.val, value->val.string.len));
}

/*
 * A field that holds an array of numbers, or of arrays of numbers, as one flat
 * integer list.
 */
List *
etcd_json_ints(Jsonb *object, const char *field)
{
	return json_elements(object, field, append_int);
}

/*
 * A field that holds an array of strings, or of arrays of strings, as one flat
 * list of char *; NULL where a null stands.
 */
List *
etcd_json_strings(Jsonb *object, const char *field)
{
	return json_elements(object, field, append_string);
}

/*
 * The bytes of hexadecimal that core wrote.
 */
char *
etcd_from_hex(const char *hex, int *len)
{
	int			digits = strlen(hex);
	char	   *bytes = palloc(digits / 2 + 1);

	*len = (int) hex_decode(hex, digits, bytes);
	return bytes;
}

void
etcd_append_hex(StringInfo buf, const char *data, int len)
{
	enlargeStringInfo(buf, 2 * len);
	hex_encode(data, len, buf->data + buf->len);
	buf->len += 2 * len;
	buf->data[buf->len] = '\0';
}
