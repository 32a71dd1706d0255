/*
 * converse.c
 *	  An operation of core that needs etcd's answers, from beginning to end:
 *	  for everything but scans, whose pages do not pass through core.
 */
#include "postgres.h"

#include "core/dispatch.h"
#include "etcd/page.h"
#include "ipc/channel.h"
#include "ipc/converse.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/json.h"
#include "utils/memutils.h"

/* How a reply is handed on; as `rows` in protocol.ts. */
#define ROWS_NONE	0
#define ROWS_KEYS	2			/* without values */
#define ROWS_BYTES	3
#define ROWS_REVISION	4
#define ROWS_DELETED	5
#define ROWS_EVENTS	6

/* What core is told next. */
typedef struct Turn
{
	const char *op;
	StringInfo	input;
	const char *bytes;
	int			len;
} Turn;

static void
append_field(StringInfo buf, const char *name, const char *text)
{
	appendStringInfo(buf, ",\"%s\":", name);
	escape_json(buf, text);
}

/*
 * An error that core wants to hear of.
 */
static void
tell_error(Turn *turn, const ErrorData *fields)
{
	turn->op = "functionFailed";
	append_field(turn->input, "sqlstate", unpack_sql_state(fields->sqlerrcode));
	append_field(turn->input, "message", fields->message);
	append_field(turn->input, "detail", fields->detail);
	append_field(turn->input, "hint", fields->hint);
}

/*
 * A page whose keys are rows; false when it is the last one.
 */
static bool
take_page(EtcdTalk *talk, Turn *turn, EtcdRequest *request, EtcdPageKind kind, bool values)
{
	EtcdPage	page;
	EtcdKeyValue kv;

	etcd_page_open(&page, request->reply, request->reply_len, kind);
	while (etcd_page_next(&page, &kv))
	{
		CHECK_FOR_INTERRUPTS();
		talk->take_key(talk->arg, &kv, values);
	}
	turn->op = "functionPage";
	appendStringInfo(turn->input, ",\"revision\":\"" INT64_FORMAT "\",\"more\":%s,\"kvs\":%u,\"bytes\":%u,\"lastKey\":\"",
					 page.revision, page.more ? "true" : "false", page.kvs, request->reply_len);
	etcd_append_hex(turn->input, page.last_key, page.last_key_len);
	appendStringInfo(turn->input, "\",\"left\":\"" INT64_FORMAT "\",\"upto\":\"" INT64_FORMAT "\"",
					 page.left, page.upto);
	return page.more;
}

/*
 * A reply that is no error, as `rows` says; false when core need not be told.
 */
static bool
take_reply(EtcdTalk *talk, Turn *turn, EtcdRequest *request, int rows)
{
	EtcdPage	page;

	switch (rows)
	{
		case ROWS_NONE:
			turn->bytes = request->reply;
			turn->len = (int) request->reply_len;
			return true;
		case ROWS_BYTES:
			if (request->reply_len == 0)
				return false;
			talk->take_bytes(talk->arg, request->reply, request->reply_len);
			turn->op = "functionPage";
			appendStringInfo(turn->input,
							 ",\"revision\":\"0\",\"more\":true,\"kvs\":1,\"bytes\":%u,\"lastKey\":\"\",\"left\":\"0\",\"upto\":\"0\"",
							 request->reply_len);
			return true;
		case ROWS_REVISION:
			etcd_page_open(&page, request->reply, request->reply_len, ETCD_PAGE_RANGE);
			talk->take_revision(talk->arg, page.revision);
			return false;
		default:
			return take_page(talk, turn, request,
							 rows == ROWS_DELETED ? ETCD_PAGE_DELETED :
							 rows == ROWS_EVENTS ? ETCD_PAGE_WATCHED : ETCD_PAGE_RANGE,
							 rows != ROWS_KEYS);
	}
}

static EtcdRequest *
send_step(EtcdTalk *talk, const EtcdAnswer *step, bool to_proxy, bool writes)
{
	EtcdRequest *request;

	if (writes)
	{
		PreventCommandIfReadOnly(talk->name);
		/* What follows in an SQL function is another command, which sees what this one has done. */
		(void) GetCurrentCommandId(true);
		talk->wrote = true;
	}
	if (to_proxy)
		request = etcd_ask_proxy(step, CurrentMemoryContext);
	else
		request = etcd_ask_server(talk->userid, talk->server(talk->arg), step, CurrentMemoryContext);
	etcd_wait(request);
	return request;
}

/*
 * Makes the request that core has answered with, and says in `turn` what it is
 * told then; false when it need not be told.
 */
static bool
ask(EtcdTalk *talk, const EtcdAnswer *step, Turn *turn)
{
	bool		writes = etcd_json_flag(step->control, "writes") != 0;
	int			rows = etcd_json_flag(step->control, "rows");
	bool		wanted;
	EtcdRequest *request;
	ErrorData	fields = {0};

	if (talk->keep != NULL)
		talk->keep(talk->arg, step, rows, writes);
	request = send_step(talk, step, etcd_json_flag(step->control, "proxy") != 0, writes);
	turn->op = etcd_json_text(step->control, "op");
	turn->input = makeStringInfo();
	turn->bytes = "";
	turn->len = 0;
	appendStringInfoString(turn->input, "{\"state\":");
	escape_json(turn->input, etcd_json_text(step->control, "state"));
	if (!etcd_reply_is_error(request, &fields))
		wanted = take_reply(talk, turn, request, rows);
	else if (etcd_json_flag(step->control, "errors") != 0)
	{
		tell_error(turn, &fields);
		wanted = true;
	}
	else
	{
		etcd_raise(&fields);
		return false;			/* not reached */
	}
	appendStringInfoChar(turn->input, '}');
	return wanted;
}

/*
 * Makes a request whose frame is known, and that core need not be told of.
 */
void
etcd_ask_again(EtcdTalk *talk, const EtcdAnswer *step, int rows, bool writes)
{
	EtcdRequest *request = send_step(talk, step, false, writes);
	Turn		turn = {0};
	ErrorData	fields = {0};

	if (etcd_reply_is_error(request, &fields))
		etcd_raise(&fields);
	turn.input = makeStringInfo();
	(void) take_reply(talk, &turn, request, rows);
}

/*
 * Runs the operation; as long as core wants a request sent, sends it and hands
 * the reply back.  The last answer is allocated in the current memory context,
 * what comes before it is freed.  False when there is no last answer: all that
 * there was went to the talk's callbacks.
 */
bool
etcd_converse(EtcdTalk *talk, const char *op, StringInfo input, EtcdAnswer *answer)
{
	MemoryContext target = CurrentMemoryContext;
	MemoryContext turns[2] = {
		AllocSetContextCreate(target, "etcd_fdw turn", ALLOCSET_DEFAULT_SIZES),
		AllocSetContextCreate(target, "etcd_fdw turn", ALLOCSET_DEFAULT_SIZES)
	};
	Turn		turn = {op, input, "", 0};
	bool		answered = false;

	for (int i = 0;; i = 1 - i)
	{
		EtcdAnswer	step;

		/* What the last turn left behind is this one's input. */
		MemoryContextReset(turns[i]);
		MemoryContextSwitchTo(turns[i]);
		CHECK_FOR_INTERRUPTS();
		etcd_dispatch_bytes(talk->dispatch, turn.op, turn.input, turn.bytes, turn.len, &step);
		if (!etcd_json_is(step.control, "do", "call"))
		{
			MemoryContextSwitchTo(target);
			answer->control = (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(step.control));
			answer->payload_len = step.payload_len;
			answer->payload = memcpy(palloc(step.payload_len + 1), step.payload, step.payload_len);
			answered = true;
			break;
		}
		if (!ask(talk, &step, &turn))
			break;
	}
	MemoryContextSwitchTo(target);
	MemoryContextDelete(turns[0]);
	MemoryContextDelete(turns[1]);
	return answered;
}
