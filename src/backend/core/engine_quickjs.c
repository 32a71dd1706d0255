/*
 * engine_quickjs.c
 *	  The embedded engine: core on QuickJS, in this library.
 *
 * One runtime per backend, started at the first call.  Core is sans-I/O, so no
 * function of ours is called from JavaScript and no PostgreSQL error can cross
 * its frames; errors are raised only after every value is freed.  A runtime
 * that ran out of memory or was interrupted is thrown away: core keeps no
 * state in it.
 */
#include "postgres.h"

#include "core/engine.h"

#ifdef ETCD_FDW_WITH_QUICKJS

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wcast-function-type"
#include "quickjs.h"
#pragma GCC diagnostic pop

#define ENGINE_MEMORY	(128 * 1024 * 1024)
#define ENGINE_STACK	(512 * 1024)

static JSRuntime *runtime = NULL;
static JSContext *context = NULL;
static JSValue core;
static JSValue dispatch_function;

PG_FUNCTION_INFO_V1(etcd_fdw_dispatch_embedded);

static int
interrupted(JSRuntime *rt, void *opaque)
{
	(void) rt;
	(void) opaque;
	return InterruptPending && InterruptHoldoffCount == 0 && (QueryCancelPending || ProcDiePending);
}

static void
engine_stop(void)
{
	JS_FreeValue(context, dispatch_function);
	JS_FreeValue(context, core);
	JS_FreeContext(context);
	JS_FreeRuntime(runtime);
	context = NULL;
	runtime = NULL;
}

/*
 * The pending exception as text of the caller's memory; clears it.
 */
static char *
take_exception(void)
{
	JSValue		exception = JS_GetException(context);
	const char *text = JS_ToCString(context, exception);
	char	   *result = pstrdup(text ? text : "unknown exception");

	if (text != NULL)
		JS_FreeCString(context, text);
	JS_FreeValue(context, exception);
	return result;
}

static void
engine_start(void)
{
	JSValue		compiled;

	runtime = JS_NewRuntime();
	context = runtime ? JS_NewContext(runtime) : NULL;
	if (context == NULL)
	{
		if (runtime != NULL)
			JS_FreeRuntime(runtime);
		runtime = NULL;
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("The embedded JavaScript engine could not start.")));
	}
	JS_SetMemoryLimit(runtime, ENGINE_MEMORY);
	JS_SetMaxStackSize(runtime, ENGINE_STACK);
	core = JS_UNDEFINED;
	dispatch_function = JS_UNDEFINED;
	compiled = JS_ReadObject(context, etcd_fdw_core_bytecode, etcd_fdw_core_bytecode_len, JS_READ_OBJ_BYTECODE);
	if (!JS_IsException(compiled))
		core = JS_EvalFunction(context, compiled);
	else
		core = JS_EXCEPTION;
	if (!JS_IsException(core))
		dispatch_function = JS_GetPropertyStr(context, core, "dispatch");
	if (JS_IsException(core) || !JS_IsFunction(context, dispatch_function))
	{
		char	   *message = take_exception();

		engine_stop();
		elog(ERROR, "the embedded JavaScript engine could not load core: %s", message);
	}
	JS_SetInterruptHandler(runtime, interrupted, NULL);
}

static JSValue
new_uint8_array(const uint8_t *data, size_t len)
{
	JSValue		args[3];
	JSValue		array;

	args[0] = JS_NewArrayBufferCopy(context, data, len);
	args[1] = JS_UNDEFINED;
	args[2] = JS_UNDEFINED;
	array = JS_NewTypedArray(context, 1, args, JS_TYPED_ARRAY_UINT8);
	JS_FreeValue(context, args[0]);
	return array;
}

/*
 * Copies the result's two properties; false when one is of another kind.
 */
static bool
read_result(JSValue result, char **control, bytea **payload)
{
	JSValue		text = JS_GetPropertyStr(context, result, "control");
	JSValue		bytes = JS_GetPropertyStr(context, result, "payload");
	size_t		offset = 0;
	size_t		len = 0;
	size_t		size = 0;
	JSValue		buffer = JS_GetTypedArrayBuffer(context, bytes, &offset, &len, NULL);
	uint8_t    *data = JS_IsException(buffer) ? NULL : JS_GetArrayBuffer(context, &size, buffer);
	const char *chars = JS_ToCString(context, text);
	bool		good = chars != NULL && (data != NULL || len == 0) && !JS_IsException(buffer);

	if (good)
	{
		*control = pstrdup(chars);
		*payload = palloc(VARHDRSZ + len);
		SET_VARSIZE(*payload, VARHDRSZ + len);
		if (len > 0)
			memcpy(VARDATA(*payload), data + offset, len);
	}
	if (chars != NULL)
		JS_FreeCString(context, chars);
	JS_FreeValue(context, buffer);
	JS_FreeValue(context, bytes);
	JS_FreeValue(context, text);
	return good;
}

/*
 * etcd_fdw_dispatch(op text, input text, bytes bytea) returns etcd_fdw_answer
 */
Datum
etcd_fdw_dispatch_embedded(PG_FUNCTION_ARGS)
{
	char	   *op = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *input = PG_GETARG_TEXT_PP(1);
	bytea	   *bytes = PG_GETARG_BYTEA_PP(2);
	char	   *utf8 = pg_server_to_any(VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input), PG_UTF8);
	size_t		utf8_len = utf8 == VARDATA_ANY(input) ? VARSIZE_ANY_EXHDR(input) : strlen(utf8);
	JSValue		args[3];
	JSValue		result;
	char	   *control = NULL;
	bytea	   *payload = NULL;
	bool		good;
	char	   *message = NULL;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "etcd_fdw_dispatch must return a row");
	check_stack_depth();
	if (runtime == NULL)
		engine_start();
	JS_UpdateStackTop(runtime);

	args[0] = JS_NewString(context, op);
	args[1] = JS_NewStringLen(context, utf8, utf8_len);
	args[2] = new_uint8_array((const uint8_t *) VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	result = JS_Call(context, dispatch_function, JS_UNDEFINED, 3, args);
	for (int i = 0; i < 3; i++)
		JS_FreeValue(context, args[i]);
	good = !JS_IsException(result) && read_result(result, &control, &payload);
	if (!good)
		message = take_exception();
	JS_FreeValue(context, result);
	if (!good)
	{
		engine_stop();
		CHECK_FOR_INTERRUPTS();
		elog(ERROR, "core failed in the embedded JavaScript engine: %s", message);
	}

	control = pg_any_to_server(control, strlen(control), PG_UTF8);
	values[0] = CStringGetTextDatum(control);
	values[1] = PointerGetDatum(payload);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

bool
etcd_is_embedded(const FmgrInfo *dispatch)
{
	return dispatch->fn_addr == etcd_fdw_dispatch_embedded;
}

#else

bool
etcd_is_embedded(const FmgrInfo *dispatch)
{
	return false;
}

#endif							/* ETCD_FDW_WITH_QUICKJS */
