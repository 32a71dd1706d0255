/*
 * request.c
 *	  Requests to the proxy: from sending to the answer, or to another end.
 *
 * A request has one deadline, which the proxy keeps; the backend waits a grace
 * longer.  A request that is late even then ends by itself: the session goes
 * on, with all that it holds, when the proxy still answers a PING.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "constants.h"
#include "ipc/request.h"
#include "ipc/session.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How long a backend waits beyond the deadline that the proxy has. */
#define GRACE_MS	2000

/* Those that are SENT. */
static dlist_head requests = DLIST_STATIC_INIT(requests);
static uint32 last_id = 0;

static void
leave(EtcdRequest *request, EtcdRequestState state)
{
	Assert(request->state == ETCD_REQUEST_SENT);
	dlist_delete(&request->node);
	request->state = state;
}

static void
cancel(EtcdRequest *request, EtcdRequestState state)
{
	leave(request, state);
	etcd_session_forget(request);
	etcd_session_tell(FRAME_CANCEL, 0, 0, request->id, NULL, 0);
}

/*
 * The request's memory goes away: nobody will read its answer.
 */
static void
released(void *arg)
{
	EtcdRequest *request = arg;

	if (request->state == ETCD_REQUEST_SENT)
		cancel(request, ETCD_REQUEST_CANCELLED);
}

static TimestampTz
patience(uint32 deadline)
{
	return deadline == 0 ? DT_NOEND
		: GetCurrentTimestamp() + ((int64) deadline + GRACE_MS) * INT64CONST(1000);
}

/*
 * A request with a new id, whose frame is queued next.
 */
EtcdRequest *
etcd_request_create(uint8 method, uint32 deadline, MemoryContext context)
{
	EtcdRequest *request = MemoryContextAllocZero(context, sizeof(EtcdRequest));

	if (++last_id == 0)
		last_id = 1;
	request->state = ETCD_REQUEST_SENT;
	request->context = context;
	request->id = last_id;
	request->method = method;
	request->deadline = deadline;
	request->give_up = patience(deadline);
	request->release.func = released;
	request->release.arg = request;
	MemoryContextRegisterResetCallback(context, &request->release);
	dlist_push_tail(&requests, &request->node);
	return request;
}

bool
etcd_requests_exist(void)
{
	return !dlist_is_empty(&requests);
}

/*
 * The session is over.
 */
void
etcd_requests_lost(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &requests)
		leave(dlist_container(EtcdRequest, node, iter.cur), ETCD_REQUEST_LOST);
}

static EtcdRequest *
find(uint32 id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &requests)
	{
		EtcdRequest *request = dlist_container(EtcdRequest, node, iter.cur);

		if (request->id == id)
			return request;
	}
	return NULL;
}

/*
 * An answer of so many bytes begins; NULL when nobody waits for it.
 */
EtcdRequest *
etcd_request_begin_reply(uint32 id, uint32 len)
{
	EtcdRequest *request = find(id);

	if (request != NULL)
		request->reply = MemoryContextAlloc(request->context, (Size) len + 1);
	return request;
}

void
etcd_request_end_reply(EtcdRequest *request, uint8 type, uint32 len)
{
	request->reply_type = type;
	request->reply[len] = '\0';
	request->reply_len = len;
	leave(request, ETCD_REQUEST_ANSWERED);
}

/*
 * The proxy is getting on with it: its time begins anew.
 */
void
etcd_request_progress(uint32 id)
{
	EtcdRequest *request = find(id);

	if (request != NULL)
		request->give_up = patience(request->deadline);
}

/*
 * Waits until the request is answered.  Raises 08006 when no answer can come
 * any more, or none came in time.
 */
void
etcd_wait(EtcdRequest *request)
{
	while (request->state == ETCD_REQUEST_SENT)
	{
		etcd_session_turn(request->give_up);
		if (request->state == ETCD_REQUEST_SENT && GetCurrentTimestamp() >= request->give_up)
		{
			cancel(request, ETCD_REQUEST_LATE);
			etcd_session_probe();
		}
	}
	if (request->state == ETCD_REQUEST_LATE)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the etcd proxy does not answer"),
				 errhint("Its process may be stopped or overloaded; see the server log.")));
	if (request->state != ETCD_REQUEST_ANSWERED)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the connection to the etcd proxy was lost"),
				 errhint("The proxy is restarted by itself: repeat the statement.")));
}

/*
 * A text of an error in the database's encoding.  One that cannot be written in
 * it must not become another error: its bytes are shown instead.
 */
static char *
text_of_error(const char *data, int len)
{
	text	   *converted = etcd_text_from_utf8(data, len);

	return converted ? text_to_cstring(converted) : etcd_printable(data, len);
}

/*
 * Whether the answer is an error; its parts are copied into `fields`.
 */
bool
etcd_reply_is_error(EtcdRequest *request, ErrorData *fields)
{
	const char *at = request->reply;
	const char *end = request->reply + request->reply_len;
	char	  **texts[] = {&fields->message, &fields->detail, &fields->hint};

	if (request->reply_type == FRAME_REPLY)
		return false;
	if (request->reply_type != FRAME_ERROR || request->reply_len < 5)
		elog(ERROR, "the etcd proxy sent a frame of type %d", request->reply_type);
	fields->sqlerrcode = MAKE_SQLSTATE(at[0], at[1], at[2], at[3], at[4]);
	at += 5;
	for (int i = 0; i < 3; i++)
	{
		const char *nul = at < end ? memchr(at, '\0', end - at) : NULL;

		if (nul == NULL)
			elog(ERROR, "the etcd proxy sent a malformed error");
		*texts[i] = text_of_error(at, nul - at);
		at = nul + 1;
	}
	return true;
}

/*
 * Raises what etcd_reply_is_error() has found.
 */
void
etcd_raise(const ErrorData *fields)
{
	ereport(ERROR,
			(errcode(fields->sqlerrcode),
			 errmsg_internal("%s", fields->message),
			 *fields->detail ? errdetail_internal("%s", fields->detail) : 0,
			 *fields->hint ? errhint("%s", fields->hint) : 0));
}
