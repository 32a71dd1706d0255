/*
 * channel.c
 *	  Channels, and requests on them.
 *
 * A channel is the proxy's view of one (server, user mapping).  It is opened
 * by the first request that needs it, and again after ALTER SERVER, ALTER USER
 * MAPPING or a new connection; but not while the proxy holds a transaction's
 * writes for it.
 */
#include "postgres.h"

#include "base/compat.h"
#include "ipc/connection.h"

#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(etcd_fdw_disconnect);

/* Bytes of writes without an answer that are sent together. */
#define UNANSWERED_BYTES (64 * 1024)

typedef struct Channel
{
	struct
	{
		Oid			serverid;
		Oid			userid;
	}			key;
	uint32		number;			/* 0: not open on this connection */
	bool		stale;			/* the server or the mapping was altered */
	bool		staged;			/* the proxy holds something of the present transaction */
	int			patience;		/* ms that a request may take */
} Channel;

static HTAB *channels = NULL;

static void
server_altered(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	Channel    *channel;

	(void) arg;
	(void) cacheid;
	(void) hashvalue;
	hash_seq_init(&scan, channels);
	while ((channel = hash_seq_search(&scan)) != NULL)
		channel->stale = true;
}

void
etcd_connection_init(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(((Channel *) 0)->key);
	ctl.entrysize = sizeof(Channel);
	ctl.hcxt = TopMemoryContext;
	channels = hash_create("etcd_fdw channels", 8, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, server_altered, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, server_altered, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, server_altered, (Datum) 0);
}

/*
 * etcd_fdw_disconnect() returns integer
 *
 * Ends all that this session has with the proxy; how many channels it was.
 */
Datum
etcd_fdw_disconnect(PG_FUNCTION_ARGS)
{
	HASH_SEQ_STATUS scan;
	Channel    *channel;
	int			count = 0;

	(void) fcinfo;
	hash_seq_init(&scan, channels);
	while ((channel = hash_seq_search(&scan)) != NULL)
	{
		if (channel->staged && channel->number != 0)
		{
			hash_seq_term(&scan);
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("cannot disconnect from etcd while the transaction has rows that are not committed"),
					 errhint("COMMIT or ROLLBACK first.")));
		}
		count += channel->number != 0;
	}
	if (!dlist_is_empty(&etcd_conn.requests))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot disconnect from etcd while a query reads it"),
				 errhint("Close the cursors on foreign tables first.")));
	connection_close();
	PG_RETURN_INT32(count);
}

/*
 * The connection is gone, and every channel with it.
 */
void
etcd_channels_closed(void)
{
	HASH_SEQ_STATUS scan;
	Channel    *channel;

	hash_seq_init(&scan, channels);
	while ((channel = hash_seq_search(&scan)) != NULL)
		channel->number = 0;
}

/*
 * The request's memory goes away: nobody will read its answer.
 */
static void
request_release(void *arg)
{
	EtcdRequest *request = arg;

	if (request->id == 0)
		return;
	dlist_delete(&request->node);
	if (etcd_conn.target == request)
		etcd_conn.target = NULL;
	if (etcd_conn.sock != PGINVALID_SOCKET)
	{
		connection_queue(FRAME_CANCEL, 0, 0, request->id, NULL, 0);
		connection_flush();
	}
	request->id = 0;
}

/*
 * Tells the proxy how to reach the server.  Nothing is waited for: what cannot
 * be reached fails the requests.
 */
static void
channel_open(Channel *channel)
{
	ForeignServer *server = GetForeignServer(channel->key.serverid);
	UserMapping *mapping = NULL;
	char	   *payload;
	int			patience;

	if (SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(channel->key.userid),
							  ObjectIdGetDatum(channel->key.serverid)) ||
		SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							  ObjectIdGetDatum(channel->key.serverid)))
		mapping = GetUserMapping(channel->key.userid, channel->key.serverid);
	payload = etcd_open_payload(server, channel->key.userid, mapping, &patience);

	if (channel->number != 0)
		connection_queue(FRAME_CLOSE, 0, channel->number, 0, NULL, 0);
	channel->number = ++etcd_conn.last_channel;
	channel->stale = false;
	channel->patience = patience;
	connection_queue(FRAME_OPEN, 0, channel->number, 0, payload, strlen(payload));
	explicit_bzero(payload, strlen(payload));
	pfree(payload);
}

static Channel *
channel_get(Oid userid, Oid serverid)
{
	Oid			key[] = {serverid, userid};
	bool		found;
	Channel    *channel = hash_search(channels, key, HASH_ENTER, &found);

	if (!found)
	{
		channel->number = 0;
		channel->staged = false;
	}
	if (channel->number == 0 && channel->staged)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the connection to the etcd proxy was lost, and the transaction's writes with it"),
				 errhint("Nothing was written to etcd: repeat the transaction.")));
	/* What the proxy holds of a transaction stays with its channel. */
	if (channel->number == 0 || (channel->stale && !channel->staged))
		channel_open(channel);
	return channel;
}

static Channel *
connected_channel(Oid userid, Oid serverid)
{
	connection_check();
	if (etcd_conn.sock == PGINVALID_SOCKET)
		connection_open();
	return channel_get(userid, serverid);
}

/*
 * A request with a new id, whose frame is queued next.
 */
static EtcdRequest *
new_request(int patience, uint8 method, MemoryContext context)
{
	EtcdRequest *request = MemoryContextAllocZero(context, sizeof(EtcdRequest));

	if (++etcd_conn.last_id == 0)
		etcd_conn.last_id = 1;
	request->context = context;
	request->id = etcd_conn.last_id;
	request->method = method;
	request->patience = patience + PROXY_GRACE_MS;
	request->give_up = patience < 0 ? DT_NOEND : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), request->patience);
	etcd_frame_deadline = patience < 0 ? 0 : patience;
	request->release.func = request_release;
	request->release.arg = request;
	MemoryContextRegisterResetCallback(context, &request->release);
	dlist_push_tail(&etcd_conn.requests, &request->node);
	return request;
}

/*
 * Sends a unary call on the channel of this user and server.  `command` is the
 * reading command's id, which sees what the transaction's commands before it
 * have written; -1 reads etcd as it is.
 *
 * The request, and later its answer, live in `context`.
 */
EtcdRequest *
etcd_send(Oid userid, Oid serverid, uint8 method, const char *payload, int len, int64 command,
		  MemoryContext context)
{
	Channel    *channel = connected_channel(userid, serverid);
	bool		recorded = command >= 0 && IsolationIsSerializable() && !XactReadOnly;
	EtcdRequest *request;

	if (recorded && !channel->staged)
	{
		etcd_stage_note(userid, serverid, false);
		channel->staged = true;
	}
	request = new_request(channel->patience, method, context);
	if (command >= 0 && channel->staged)
	{
		char		prefix[4];

		etcd_put_uint32(prefix, (uint32) command);
		connection_queue_header(FRAME_UNARY, method, FRAME_FLAG_STAGED | (recorded ? FRAME_FLAG_RECORDED : 0),
					 channel->number, request->id, len + sizeof(prefix));
		appendBinaryStringInfo(&etcd_conn.out, prefix, sizeof(prefix));
		appendBinaryStringInfo(&etcd_conn.out, payload, len);
	}
	else
		connection_queue(FRAME_UNARY, method, channel->number, request->id, payload, len);
	connection_flush();
	return request;
}

/*
 * Sends a frame that core wrote, with core's flags; -1 as patience waits for
 * ever.
 */
static EtcdRequest *
send_as_is(uint32 channel, int patience, const EtcdAnswer *answer, MemoryContext context)
{
	uint8		method = (uint8) answer->payload[FRAME_AT_CODE];
	uint8		flags = (uint8) answer->payload[FRAME_AT_FLAGS];
	uint32		extra = etcd_get_uint32(answer->payload + FRAME_AT_DEADLINE);
	EtcdRequest *request = new_request(extra == PG_UINT32_MAX ? -1 : patience + (int) Min(extra, 1000000000), method, context);
	int			len = answer->payload_len - FRAME_HEADER;

	connection_queue_header(FRAME_UNARY, method, flags, channel, request->id, len);
	appendBinaryStringInfo(&etcd_conn.out, answer->payload + FRAME_HEADER, len);
	connection_flush();
	return request;
}

/*
 * The same for a frame that core wrote.
 */
EtcdRequest *
etcd_send_frame(Oid userid, Oid serverid, const EtcdAnswer *answer, int64 command, MemoryContext context)
{
	if (answer->payload_len < FRAME_HEADER)
		elog(ERROR, "core wrote a frame of %d bytes", answer->payload_len);
	if (command < 0)
	{
		Channel    *channel = connected_channel(userid, serverid);

		return send_as_is(channel->number, channel->patience, answer, context);
	}
	return etcd_send(userid, serverid, (uint8) answer->payload[FRAME_AT_CODE],
					 answer->payload + FRAME_HEADER, answer->payload_len - FRAME_HEADER, command, context);
}

/*
 * Sends a frame that core wrote for the proxy itself.
 */
EtcdRequest *
etcd_send_proxy(const EtcdAnswer *answer, MemoryContext context)
{
	if (answer->payload_len < FRAME_HEADER)
		elog(ERROR, "core wrote a frame of %d bytes", answer->payload_len);
	connection_check();
	if (etcd_conn.sock == PGINVALID_SOCKET)
		connection_open();
	return send_as_is(0, PROXY_ANSWER_MS, answer, context);
}

/*
 * Sends a STAGE frame.  With a context, an answer is asked for, which will
 * live there; without one, the result is NULL.
 */
EtcdRequest *
etcd_stage(Oid userid, Oid serverid, uint8 code, const char *payload, int len, MemoryContext context)
{
	Channel    *channel = connected_channel(userid, serverid);
	EtcdRequest *request = context == NULL ? NULL : new_request(channel->patience, code, context);

	channel->staged = true;
	connection_queue(FRAME_STAGE, code, channel->number, request ? request->id : 0, payload, len);
	/* What nobody waits for travels with the next frame that somebody waits for. */
	if (request != NULL || etcd_conn.out.len - etcd_conn.out_sent > UNANSWERED_BYTES)
		connection_flush();
	return request;
}

/*
 * The proxy has committed and holds nothing any more.
 */
void
etcd_stage_forget(Oid userid, Oid serverid)
{
	Oid			key[] = {serverid, userid};
	Channel    *channel = hash_search(channels, key, HASH_FIND, NULL);

	if (channel != NULL)
		channel->staged = false;
}

/*
 * Tells the proxy about the end of a subtransaction, or that the transaction
 * is over: from callbacks that must not fail.
 */
void
etcd_stage_end(Oid userid, Oid serverid, uint8 code, uint32 level)
{
	Oid			key[] = {serverid, userid};
	Channel    *channel = hash_search(channels, key, HASH_FIND, NULL);
	char		payload[4];

	if (channel == NULL || !channel->staged)
		return;
	etcd_put_uint32(payload, level);
	if (channel->number != 0)
	{
		connection_queue(FRAME_STAGE, code, channel->number, 0, payload, code == STAGE_END ? 0 : sizeof(payload));
		connection_flush();
	}
	if (code == STAGE_END)
		channel->staged = false;
}

/*
 * Waits until the request is answered.  Raises 08006 when the connection to
 * the proxy breaks first.
 */
void
etcd_wait(EtcdRequest *request)
{
	while (!request->done)
	{
		connection_flush();
		connection_read(request);
		if (!request->done)
			connection_wait(request);
	}
	if (request->lost)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the connection to the etcd proxy was lost"),
				 errhint("The proxy is restarted by itself: repeat the statement.")));
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
		*texts[i] = pg_any_to_server(pnstrdup(at, nul - at), nul - at, PG_UTF8);
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
