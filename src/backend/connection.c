/*
 * connection.c
 *	  The backend's one connection to the proxy, and its requests.
 *
 * Every wait here ends at once on cancel, timeout, backend termination and the
 * postmaster's death.  Nothing is lost by that: what is read of a frame stays
 * in the connection until the rest arrives, what is not yet written stays in
 * its buffer.  Answers find their request by its id; those that nobody waits
 * for any more are read and dropped.
 *
 * A channel is the proxy's view of one (server, user mapping).  It is opened
 * by the first request that needs it, and again after ALTER SERVER, ALTER USER
 * MAPPING or a new connection.
 */
#include "postgres.h"

#include "compat.h"
#include "etcd_fdw.h"
#include "frame.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* How long a backend waits for the proxy to start, and beyond its deadlines. */
#define PROXY_START_MS	10000
#define PROXY_GRACE_MS	2000
#define PROXY_POLL_MS	10

/* Bytes of writes without an answer that are sent together. */
#define UNANSWERED_BYTES (64 * 1024)

/* Bytes of writes that wait for the socket. */
#define MAX_UNSENT		(4 * 1024 * 1024)

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
	int			patience;		/* ms after which the proxy must have answered */
} Channel;

typedef struct Connection
{
	pgsocket	sock;			/* PGINVALID_SOCKET: none */
	WaitEventSet *events;
	int			socket_event;
	bool		wants_write;
	StringInfoData out;
	int			out_sent;
	char		header[FRAME_HEADER];
	int			header_got;
	uint32		payload_len;
	uint32		payload_got;
	EtcdRequest *target;		/* whose answer is being read; NULL drops it */
	uint32		last_id;
	uint32		last_channel;
	uint32		wait_event;
	dlist_head	requests;
} Connection;

static Connection conn = {.sock = PGINVALID_SOCKET};
static HTAB *channels = NULL;

static uint32
get_uint32(const char *at)
{
	uint32		value;

	memcpy(&value, at, 4);
	return pg_ntoh32(value);
}

static void
put_uint32(char *at, uint32 value)
{
	value = pg_hton32(value);
	memcpy(at, &value, 4);
}

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
	dlist_init(&conn.requests);
}

/*
 * Closes the connection.  Requests on their way are marked lost; whoever waits
 * for one raises the error.
 */
static void
connection_close(void)
{
	HASH_SEQ_STATUS scan;
	Channel    *channel;
	dlist_mutable_iter iter;

	if (conn.sock == PGINVALID_SOCKET)
		return;
	FreeWaitEventSet(conn.events);
	conn.events = NULL;
	closesocket(conn.sock);
	ReleaseExternalFD();
	conn.sock = PGINVALID_SOCKET;
	conn.header_got = 0;
	conn.target = NULL;
	pfree(conn.out.data);
	dlist_foreach_modify(iter, &conn.requests)
	{
		EtcdRequest *request = dlist_container(EtcdRequest, node, iter.cur);

		request->done = true;
		request->lost = true;
		request->id = 0;
		dlist_delete(&request->node);
	}
	hash_seq_init(&scan, channels);
	while ((channel = hash_seq_search(&scan)) != NULL)
		channel->number = 0;
}

static void
connection_adopt(pgsocket sock)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	conn.sock = sock;
	initStringInfo(&conn.out);
	conn.out_sent = 0;
	conn.header_got = 0;
	conn.target = NULL;
	conn.wants_write = false;
	conn.wait_event = compat_wait_event("EtcdProxy");
	conn.events = compat_create_wait_event_set(3);
	AddWaitEventToSet(conn.events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(conn.events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	conn.socket_event = AddWaitEventToSet(conn.events, WL_SOCKET_READABLE, sock, NULL, NULL);
	MemoryContextSwitchTo(old);
}

/*
 * One attempt; false when nobody listens (yet).
 */
static bool
connection_try(void)
{
	struct sockaddr_un address = {0};
	pgsocket	sock;
	int			saved_errno;

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not connect to the etcd proxy: %m")));
	sock = socket(AF_UNIX, SOCK_STREAM, 0);
	address.sun_family = AF_UNIX;
	strlcpy(address.sun_path, ETCD_SOCKET_PATH, sizeof(address.sun_path));
	if (sock != PGINVALID_SOCKET && fcntl(sock, F_SETFD, FD_CLOEXEC) == 0 && pg_set_noblock(sock) &&
		connect(sock, (struct sockaddr *) &address, sizeof(address)) == 0)
	{
		connection_adopt(sock);
		return true;
	}
	saved_errno = errno;
	if (sock != PGINVALID_SOCKET)
		closesocket(sock);
	ReleaseExternalFD();
	errno = saved_errno;
	if (errno != ENOENT && errno != ECONNREFUSED && errno != EAGAIN && errno != EINTR)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not connect to the etcd proxy: %m")));
	return false;
}

static void
connection_open(void)
{
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PROXY_START_MS);

	while (!connection_try())
	{
		if (GetCurrentTimestamp() > give_up)
			ereport(ERROR,
					(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					 errmsg("the etcd proxy did not start within %d seconds", PROXY_START_MS / 1000),
					 errhint("The server log says why; etcd_fdw.deno_path names the Deno executable.")));
		etcd_ensure_worker();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 PROXY_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Writes what waits, as far as the socket takes it.
 */
static void
connection_flush(void)
{
	while (conn.sock != PGINVALID_SOCKET && conn.out_sent < conn.out.len)
	{
		ssize_t		sent = send(conn.sock, conn.out.data + conn.out_sent,
								conn.out.len - conn.out_sent, MSG_NOSIGNAL);

		if (sent >= 0)
			conn.out_sent += sent;
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return;
		else if (errno != EINTR)
			connection_close();
	}
	if (conn.sock != PGINVALID_SOCKET)
	{
		resetStringInfo(&conn.out);
		conn.out_sent = 0;
	}
}

static void
queue_header(uint8 type, uint8 code, uint8 flags, uint32 channel, uint32 id, int len)
{
	char		header[FRAME_HEADER] = {0};

	put_uint32(header + FRAME_AT_LENGTH, len);
	header[FRAME_AT_VERSION] = FRAME_VERSION;
	header[FRAME_AT_TYPE] = type;
	header[FRAME_AT_CODE] = code;
	header[FRAME_AT_FLAGS] = flags;
	put_uint32(header + FRAME_AT_CHANNEL, channel);
	put_uint32(header + FRAME_AT_ID, id);
	appendBinaryStringInfo(&conn.out, header, FRAME_HEADER);
}

static void
connection_queue(uint8 type, uint8 code, uint32 channel, uint32 id, const char *payload, int len)
{
	queue_header(type, code, 0, channel, id, len);
	appendBinaryStringInfo(&conn.out, payload, len);
}

static EtcdRequest *
find_request(uint32 id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &conn.requests)
	{
		EtcdRequest *request = dlist_container(EtcdRequest, node, iter.cur);

		if (request->id == id)
			return request;
	}
	return NULL;
}

/*
 * The header of an answer is complete: finds its request and makes room.
 */
static void
begin_payload(void)
{
	const char *header = conn.header;

	conn.payload_len = get_uint32(header + FRAME_AT_LENGTH);
	conn.payload_got = 0;
	if (header[FRAME_AT_VERSION] != FRAME_VERSION || conn.payload_len > FRAME_MAX_PAYLOAD)
	{
		connection_close();
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the etcd proxy sent a frame that etcd_fdw does not understand"),
				 errhint("After an upgrade of etcd_fdw, restart the server.")));
	}
	conn.target = find_request(get_uint32(header + FRAME_AT_ID));
	if (conn.target != NULL)
		conn.target->reply = MemoryContextAlloc(conn.target->context, conn.payload_len + 1);
}

static void
end_payload(void)
{
	EtcdRequest *request = conn.target;

	conn.header_got = 0;
	conn.target = NULL;
	if (request == NULL)
		return;
	request->done = true;
	request->reply_type = (uint8) conn.header[FRAME_AT_TYPE];
	request->reply[conn.payload_len] = '\0';
	request->reply_len = conn.payload_len;
	request->id = 0;
	dlist_delete(&request->node);
}

/*
 * Reads what there is, and stops when the awaited request is done.
 */
static void
connection_read(EtcdRequest *awaited)
{
	char		dropped[8192];

	while (conn.sock != PGINVALID_SOCKET && !awaited->done)
	{
		char	   *into;
		size_t		room;
		ssize_t		got;

		if (conn.header_got < FRAME_HEADER)
		{
			into = conn.header + conn.header_got;
			room = FRAME_HEADER - conn.header_got;
		}
		else
		{
			room = conn.payload_len - conn.payload_got;
			into = conn.target ? conn.target->reply + conn.payload_got : dropped;
			if (conn.target == NULL)
				room = Min(room, sizeof(dropped));
		}
		got = room > 0 ? recv(conn.sock, into, room, 0) : 0;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (got < 0 || (got == 0 && room > 0))
		{
			connection_close();
			return;
		}
		if (conn.header_got < FRAME_HEADER)
		{
			conn.header_got += got;
			if (conn.header_got < FRAME_HEADER)
				continue;
			begin_payload();
		}
		else
			conn.payload_got += got;
		if (conn.payload_got == conn.payload_len)
			end_payload();
	}
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
	if (conn.target == request)
		conn.target = NULL;
	if (conn.sock != PGINVALID_SOCKET)
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
	payload = etcd_open_payload(server, mapping, &patience);

	if (channel->number != 0)
		connection_queue(FRAME_CLOSE, 0, channel->number, 0, NULL, 0);
	channel->number = ++conn.last_channel;
	channel->stale = false;
	channel->patience = patience + PROXY_GRACE_MS;
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

/*
 * Notices that the proxy has gone while nothing was asked of it: then nothing
 * is lost, and a new one can be asked.
 */
static void
connection_check(void)
{
	char		byte;
	ssize_t		got;

	if (conn.sock == PGINVALID_SOCKET || !dlist_is_empty(&conn.requests))
		return;
	got = recv(conn.sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
		connection_close();
}

static Channel *
connected_channel(Oid userid, Oid serverid)
{
	connection_check();
	if (conn.sock == PGINVALID_SOCKET)
		connection_open();
	return channel_get(userid, serverid);
}

/*
 * A request with a new id, whose frame is queued next.
 */
static EtcdRequest *
new_request(Channel *channel, uint8 method, MemoryContext context)
{
	EtcdRequest *request = MemoryContextAllocZero(context, sizeof(EtcdRequest));

	if (++conn.last_id == 0)
		conn.last_id = 1;
	request->context = context;
	request->id = conn.last_id;
	request->method = method;
	request->give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), channel->patience);
	request->release.func = request_release;
	request->release.arg = request;
	MemoryContextRegisterResetCallback(context, &request->release);
	dlist_push_tail(&conn.requests, &request->node);
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
	request = new_request(channel, method, context);
	if (command >= 0 && channel->staged)
	{
		char		prefix[4];

		put_uint32(prefix, (uint32) command);
		queue_header(FRAME_UNARY, method, FRAME_FLAG_STAGED | (recorded ? FRAME_FLAG_RECORDED : 0),
					 channel->number, request->id, len + sizeof(prefix));
		appendBinaryStringInfo(&conn.out, prefix, sizeof(prefix));
		appendBinaryStringInfo(&conn.out, payload, len);
	}
	else
		connection_queue(FRAME_UNARY, method, channel->number, request->id, payload, len);
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
	return etcd_send(userid, serverid, (uint8) answer->payload[FRAME_AT_CODE],
					 answer->payload + FRAME_HEADER, answer->payload_len - FRAME_HEADER, command, context);
}

/*
 * Sends a STAGE frame.  With a context, an answer is asked for, which will
 * live there; without one, the result is NULL.
 */
EtcdRequest *
etcd_stage(Oid userid, Oid serverid, uint8 code, const char *payload, int len, MemoryContext context)
{
	Channel    *channel = connected_channel(userid, serverid);
	EtcdRequest *request = context == NULL ? NULL : new_request(channel, code, context);

	channel->staged = true;
	connection_queue(FRAME_STAGE, code, channel->number, request ? request->id : 0, payload, len);
	/* What nobody waits for travels with the next frame that somebody waits for. */
	if (request != NULL || conn.out.len - conn.out_sent > UNANSWERED_BYTES)
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
	put_uint32(payload, level);
	if (channel->number != 0)
	{
		connection_queue(FRAME_STAGE, code, channel->number, 0, payload, code == STAGE_END ? 0 : sizeof(payload));
		connection_flush();
	}
	if (code == STAGE_END)
		channel->staged = false;
}

/*
 * Waits until not too much is waiting to be written: a transaction must not
 * hold here what the proxy has not taken yet.
 */
void
etcd_drain(void)
{
	while (conn.sock != PGINVALID_SOCKET && conn.out.len - conn.out_sent > MAX_UNSENT)
	{
		WaitEvent	event;

		ModifyWaitEvent(conn.events, conn.socket_event, WL_SOCKET_WRITEABLE, NULL);
		conn.wants_write = true;
		if (WaitEventSetWait(conn.events, PROXY_GRACE_MS, &event, 1, conn.wait_event) > 0 &&
			(event.events & WL_LATCH_SET) != 0)
			ResetLatch(MyLatch);
		/* Both directions at once: connection_wait() knows only "readable" beside this. */
		ModifyWaitEvent(conn.events, conn.socket_event, WL_SOCKET_READABLE, NULL);
		conn.wants_write = false;
		CHECK_FOR_INTERRUPTS();
		connection_flush();
	}
	if (conn.sock != PGINVALID_SOCKET && conn.out_sent > MAX_UNSENT)
	{
		memmove(conn.out.data, conn.out.data + conn.out_sent, conn.out.len - conn.out_sent);
		conn.out.len -= conn.out_sent;
		conn.out_sent = 0;
	}
}

static void
connection_wait(EtcdRequest *request)
{
	WaitEvent	event;
	long		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), request->give_up);
	bool		wants_write = conn.out_sent < conn.out.len;

	if (timeout <= 0)
	{
		connection_close();
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the etcd proxy does not answer"),
				 errhint("Its process may be stopped or overloaded; see the server log.")));
	}
	if (wants_write != conn.wants_write)
	{
		ModifyWaitEvent(conn.events, conn.socket_event,
						wants_write ? WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE, NULL);
		conn.wants_write = wants_write;
	}
	if (WaitEventSetWait(conn.events, timeout, &event, 1, conn.wait_event) > 0 &&
		(event.events & WL_LATCH_SET) != 0)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
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
