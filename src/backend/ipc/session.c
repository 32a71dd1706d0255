/*
 * session.c
 *	  The backend's one session with the proxy: socket, frames, waiting.
 *
 * Every wait here ends at once on cancel, timeout, backend termination and the
 * postmaster's death, and every wait reads: a proxy that waits for its answers
 * to be taken would otherwise wait for a backend that waits for room to write.
 * Nothing is lost when a wait is left: what is read of a frame stays in the
 * session until the rest arrives, what is not yet written stays in its buffer.
 * Answers find their request by its id; those that nobody waits for any more
 * are read and dropped.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "base/compat.h"
#include "constants.h"
#include "ipc/session.h"
#include "ipc/worker.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How long a backend waits for the proxy to start. */
#define START_MS		10000
#define START_POLL_MS	10

/* How long a proxy may take to answer a PING; it does so past all queues. */
#define PONG_MS			10000

/* A wait without end is made of these. */
#define LONGEST_WAIT_MS	3600000L

/* Bytes of writes that wait for the socket. */
#define MAX_UNSENT		(4 * 1024 * 1024)
/* What the buffer of writes keeps when it is empty, and grows to at first. */
#define KEPT_BYTES		(64 * 1024)
/* Read at once: a small answer with its header.  What is larger is read to where it belongs. */
#define READ_BYTES		(8 * 1024)

typedef struct Session
{
	EtcdSessionState state;
	uint64		generation;		/* counts the connections; 0 before the first */
	pgsocket	sock;
	WaitEventSet *events;
	int			socket_event;
	bool		wants_write;	/* as `events` has it */
	uint32		wait_event;
	TimestampTz pong_by;		/* while PROBING */
	uint32		ping;			/* the id that the PONG must have */

	/* What waits to be written: bytes from `sent` to `len`. */
	char	   *out;
	Size		out_size;
	Size		out_len;
	Size		out_sent;

	/* What was read and not yet looked at: bytes from `in_taken` to `in_len`. */
	char		in[READ_BYTES];
	Size		in_len;
	Size		in_taken;

	/* The frame that is being read. */
	char		header[FRAME_HEADER];
	uint32		header_got;
	uint32		payload_len;
	uint32		payload_got;
	EtcdRequest *target;		/* whose answer it is; NULL drops it */
} Session;

static Session session = {.state = ETCD_SESSION_DOWN, .sock = PGINVALID_SOCKET};

EtcdSessionState
etcd_session_state(void)
{
	return session.state;
}

uint64
etcd_session_generation(void)
{
	return session.generation;
}

/*
 * Bytes that wait for the socket.
 */
Size
etcd_session_unsent(void)
{
	return session.out_len - session.out_sent;
}

/*
 * Ends the session.  Requests on their way are lost; whoever waits for one
 * raises the error.  Cannot fail: callbacks of an abort may end up here.
 */
void
etcd_session_close(void)
{
	if (session.state == ETCD_SESSION_DOWN)
		return;
	session.state = ETCD_SESSION_DOWN;
	FreeWaitEventSet(session.events);
	session.events = NULL;
	closesocket(session.sock);
	ReleaseExternalFD();
	session.sock = PGINVALID_SOCKET;
	session.in_len = session.in_taken = 0;
	session.header_got = 0;
	session.target = NULL;
	if (session.out != NULL)
		pfree(session.out);
	session.out = NULL;
	session.out_size = session.out_len = session.out_sent = 0;
	etcd_requests_lost();
}

/*
 * Makes the session of a connected socket.  What can fail comes first, and
 * leaves nothing behind.
 */
static void
adopt(pgsocket sock)
{
	WaitEventSet *volatile events = NULL;
	int			socket_event = 0;

	session.state = ETCD_SESSION_CONNECTING;
	PG_TRY();
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		events = compat_create_wait_event_set(3);
		AddWaitEventToSet(events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		socket_event = AddWaitEventToSet(events, WL_SOCKET_READABLE, sock, NULL, NULL);
		MemoryContextSwitchTo(old);
	}
	PG_CATCH();
	{
		session.state = ETCD_SESSION_DOWN;
		if (events != NULL)
			FreeWaitEventSet(events);
		closesocket(sock);
		ReleaseExternalFD();
		PG_RE_THROW();
	}
	PG_END_TRY();
	session.sock = sock;
	session.events = events;
	session.socket_event = socket_event;
	session.wants_write = false;
	session.wait_event = compat_wait_event("EtcdProxy");
	session.in_len = session.in_taken = 0;
	session.header_got = 0;
	session.target = NULL;
	session.out_len = session.out_sent = 0;
	session.generation++;
	session.state = ETCD_SESSION_UP;
}

/*
 * One attempt; false when nobody listens (yet).
 */
static bool
try_connect(void)
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
		adopt(sock);
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
session_connect(void)
{
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), START_MS);

	while (!try_connect())
	{
		if (GetCurrentTimestamp() > give_up)
			ereport(ERROR,
					(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					 errmsg("the etcd proxy did not start within %d seconds", START_MS / 1000),
					 errhint("The server log says why; etcd_fdw.deno_path names the Deno executable.")));
		etcd_ensure_worker();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 START_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Notices that the proxy has gone while nothing was asked of it: then nothing
 * is lost, and a new one can be asked.
 */
void
etcd_session_notice_end(void)
{
	char		byte;
	ssize_t		got;

	if (session.state == ETCD_SESSION_DOWN || etcd_requests_exist())
		return;
	got = recv(session.sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
		etcd_session_close();
}

/*
 * Makes sure that there is a session that answers: connects, or waits for the
 * PONG.
 */
void
etcd_session_ensure(void)
{
	etcd_session_notice_end();
	while (session.state == ETCD_SESSION_PROBING)
		etcd_session_turn(DT_NOEND);
	if (session.state == ETCD_SESSION_DOWN)
		session_connect();
}

/*
 * Makes room for so many bytes more.  Cannot raise an error, since callbacks of
 * an abort have things to tell; without room the session ends, and what the
 * proxy held of a transaction is lost and known to be.
 */
static bool
reserve(Size len)
{
	Size		needed = session.out_len + len;
	Size		size = Max(session.out_size, KEPT_BYTES);
	char	   *grown;

	if (needed <= session.out_size)
		return true;
	while (size < needed)
		size *= 2;
	grown = MemoryContextAllocExtended(TopMemoryContext, size, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (grown == NULL)
		return false;
	if (session.out != NULL)
	{
		memcpy(grown, session.out, session.out_len);
		pfree(session.out);
	}
	session.out = grown;
	session.out_size = size;
	return true;
}

/*
 * Writes what waits, as far as the socket takes it.  Cannot fail.
 */
void
etcd_session_flush(void)
{
	while (session.sock != PGINVALID_SOCKET && session.out_sent < session.out_len)
	{
		ssize_t		sent = send(session.sock, session.out + session.out_sent,
								session.out_len - session.out_sent, MSG_NOSIGNAL);

		if (sent >= 0)
			session.out_sent += sent;
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			break;
		else if (errno != EINTR)
			etcd_session_close();
	}
	if (session.out_sent == session.out_len)
	{
		session.out_sent = session.out_len = 0;
		if (session.out_size > KEPT_BYTES)
		{
			pfree(session.out);
			session.out = NULL;
			session.out_size = 0;
		}
	}
	else if (session.out_sent > MAX_UNSENT)
	{
		session.out_len -= session.out_sent;
		memmove(session.out, session.out + session.out_sent, session.out_len);
		session.out_sent = 0;
	}
}

static void
append(const char *bytes, Size len)
{
	if (len > 0)
		memcpy(session.out + session.out_len, bytes, len);
	session.out_len += len;
}

static void
append_header(uint8 type, uint8 code, uint8 flags, uint32 channel, uint32 id, uint32 deadline, uint32 len)
{
	char		header[FRAME_HEADER] = {0};

	etcd_put_uint32(header + FRAME_AT_LENGTH, len);
	header[FRAME_AT_VERSION] = FRAME_VERSION;
	header[FRAME_AT_TYPE] = type;
	header[FRAME_AT_CODE] = code;
	header[FRAME_AT_FLAGS] = flags;
	etcd_put_uint32(header + FRAME_AT_CHANNEL, channel);
	etcd_put_uint32(header + FRAME_AT_ID, id);
	etcd_put_uint32(header + FRAME_AT_DEADLINE, deadline);
	append(header, FRAME_HEADER);
}

/*
 * Queues a frame, whose payload is given in two parts.  Waits while too much
 * waits to be written: a transaction must not hold here what the proxy has not
 * taken yet.
 */
void
etcd_session_queue(uint8 type, uint8 code, uint8 flags, uint32 channel, uint32 id, uint32 deadline,
				   const char *first, int first_len, const char *second, int second_len)
{
	Size		len = (Size) first_len + second_len;

	if (len > FRAME_MAX_PAYLOAD)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a message of %zu bytes to the etcd proxy is larger than %d bytes", len, FRAME_MAX_PAYLOAD),
				 errhint("etcd takes requests of 1.5 MB unless --max-request-bytes says otherwise.")));
	while (session.state != ETCD_SESSION_DOWN && session.out_len - session.out_sent > MAX_UNSENT)
		etcd_session_turn(DT_NOEND);
	if (session.state == ETCD_SESSION_DOWN)
	{
		etcd_requests_lost();
		return;
	}
	if (!reserve(FRAME_HEADER + len))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed on a message of %zu bytes to the etcd proxy.", len)));
	append_header(type, code, flags, channel, id, deadline, len);
	append(first, first_len);
	append(second, second_len);
}

/*
 * Sends a small frame that nobody waits for, from where nothing may fail.
 */
void
etcd_session_tell(uint8 type, uint8 code, uint32 channel, uint32 id, const char *payload, int len)
{
	if (session.state == ETCD_SESSION_DOWN)
		return;
	if (!reserve(FRAME_HEADER + len))
	{
		etcd_session_close();
		return;
	}
	append_header(type, code, 0, channel, id, 0, len);
	append(payload, len);
	etcd_session_flush();
}

/*
 * Nobody will read this request's answer.
 */
void
etcd_session_forget(EtcdRequest *request)
{
	if (session.target == request)
		session.target = NULL;
}

/*
 * A request was late.  Whether it was the request or the proxy, a PING tells.
 */
void
etcd_session_probe(void)
{
	if (session.state != ETCD_SESSION_UP)
		return;
	session.state = ETCD_SESSION_PROBING;
	session.ping++;
	session.pong_by = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PONG_MS);
	etcd_session_tell(FRAME_PING, 0, 0, session.ping, NULL, 0);
}

/*
 * The proxy does not keep to the protocol.
 */
static void
breach(void)
{
	etcd_session_close();
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("the etcd proxy sent a frame that etcd_fdw does not understand"),
			 errhint("After an upgrade of etcd_fdw, restart the server.")));
}

/*
 * The header of a frame is complete: finds its request and makes room.
 */
static void
begin_payload(void)
{
	uint8		type = (uint8) session.header[FRAME_AT_TYPE];
	uint32		id = etcd_get_uint32(session.header + FRAME_AT_ID);

	session.payload_len = etcd_get_uint32(session.header + FRAME_AT_LENGTH);
	session.payload_got = 0;
	session.target = NULL;
	if (session.header[FRAME_AT_VERSION] != FRAME_VERSION || session.payload_len > FRAME_MAX_PAYLOAD)
		breach();
	if (type == FRAME_PONG && session.state == ETCD_SESSION_PROBING && id == session.ping)
		session.state = ETCD_SESSION_UP;
	else if (type == FRAME_PROGRESS)
		etcd_request_progress(id);
	else if (type == FRAME_REPLY || type == FRAME_ERROR)
		session.target = etcd_request_begin_reply(id, session.payload_len);
	else if (type != FRAME_PONG)
		breach();
}

static void
end_payload(void)
{
	session.header_got = 0;
	if (session.target != NULL)
		etcd_request_end_reply(session.target, (uint8) session.header[FRAME_AT_TYPE], session.payload_len);
	session.target = NULL;
}

/*
 * Takes up to so many bytes of the stream: what was read already, or else what
 * the socket has.  0 when there is nothing, or no session any more.
 */
static Size
take(char *into, Size room)
{
	bool		directly = room >= READ_BYTES;
	ssize_t		got;

	if (session.in_taken == session.in_len)
	{
		do
			got = recv(session.sock, directly ? into : session.in, directly ? room : READ_BYTES, 0);
		while (got < 0 && errno == EINTR);
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (got <= 0)
		{
			etcd_session_close();
			return 0;
		}
		if (directly)
			return got;
		session.in_len = got;
		session.in_taken = 0;
	}
	room = Min(room, session.in_len - session.in_taken);
	memcpy(into, session.in + session.in_taken, room);
	session.in_taken += room;
	return room;
}

/*
 * Reads what there is, up to the end of one frame.
 */
static void
read_frame(void)
{
	char		dropped[READ_BYTES];

	for (;;)
	{
		Size		got;

		if (session.header_got < FRAME_HEADER)
		{
			got = take(session.header + session.header_got, FRAME_HEADER - session.header_got);
			session.header_got += got;
			if (got == 0)
				return;
			if (session.header_got < FRAME_HEADER)
				continue;
			begin_payload();
		}
		else
		{
			Size		room = session.payload_len - session.payload_got;

			got = take(session.target ? session.target->reply + session.payload_got : dropped,
					   session.target ? room : Min(room, sizeof(dropped)));
			if (got == 0)
				return;
			session.payload_got += got;
		}
		if (session.payload_got == session.payload_len)
		{
			end_payload();
			return;
		}
	}
}

/*
 * One turn of waiting, in both directions: writes what it can, sleeps until
 * something is there to read or may be written, but not beyond `until`, and
 * reads up to the end of a frame.  The caller looks at what it waits for before
 * each turn.
 */
void
etcd_session_turn(TimestampTz until)
{
	Size		unsent = session.out_len - session.out_sent;
	TimestampTz now;
	long		timeout;
	bool		wants_write;
	WaitEvent	event;

	CHECK_FOR_INTERRUPTS();
	etcd_session_flush();
	if (session.state == ETCD_SESSION_DOWN)
	{
		etcd_requests_lost();
		return;
	}
	/* The caller may wait for just that; nothing else would wake it when all is written. */
	if (session.out_len - session.out_sent < unsent)
		return;
	if (session.in_taken < session.in_len)
	{
		read_frame();
		return;
	}
	now = GetCurrentTimestamp();
	if (session.state == ETCD_SESSION_PROBING)
	{
		if (now >= session.pong_by)
		{
			ereport(LOG, (errmsg("the etcd proxy does not answer; giving up the session with it")));
			etcd_session_close();
			return;
		}
		until = Min(until, session.pong_by);
	}
	if (now >= until)
		return;
	timeout = until == DT_NOEND ? LONGEST_WAIT_MS
		: Min(TimestampDifferenceMilliseconds(now, until), LONGEST_WAIT_MS);
	wants_write = session.out_sent < session.out_len;
	if (wants_write != session.wants_write)
	{
		ModifyWaitEvent(session.events, session.socket_event,
						wants_write ? WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE, NULL);
		session.wants_write = wants_write;
	}
	if (WaitEventSetWait(session.events, timeout, &event, 1, session.wait_event) == 0)
		return;
	if ((event.events & WL_LATCH_SET) != 0)
		ResetLatch(MyLatch);
	if ((event.events & WL_SOCKET_READABLE) != 0)
		read_frame();
	CHECK_FOR_INTERRUPTS();
}
