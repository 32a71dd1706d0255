/*
 * connection.c
 *	  The backend's one connection to the proxy: socket, frames, waiting.
 *
 * Every wait here ends at once on cancel, timeout, backend termination and the
 * postmaster's death.  Nothing is lost by that: what is read of a frame stays
 * in the connection until the rest arrives, what is not yet written stays in
 * its buffer.  Answers find their request by its id; those that nobody waits
 * for any more are read and dropped.
 */
#include "postgres.h"

#include "base/compat.h"
#include "ipc/connection.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Bytes of writes that wait for the socket. */
#define MAX_UNSENT		(4 * 1024 * 1024)

uint32		etcd_frame_deadline = 0;

Connection etcd_conn = {.sock = PGINVALID_SOCKET, .requests = DLIST_STATIC_INIT(etcd_conn.requests)};

/*
 * Closes the connection.  Requests on their way are marked lost; whoever waits
 * for one raises the error.
 */
void
connection_close(void)
{
	dlist_mutable_iter iter;

	if (etcd_conn.sock == PGINVALID_SOCKET)
		return;
	FreeWaitEventSet(etcd_conn.events);
	etcd_conn.events = NULL;
	closesocket(etcd_conn.sock);
	ReleaseExternalFD();
	etcd_conn.sock = PGINVALID_SOCKET;
	etcd_conn.header_got = 0;
	etcd_conn.target = NULL;
	pfree(etcd_conn.out.data);
	dlist_foreach_modify(iter, &etcd_conn.requests)
	{
		EtcdRequest *request = dlist_container(EtcdRequest, node, iter.cur);

		request->done = true;
		request->lost = true;
		request->id = 0;
		dlist_delete(&request->node);
	}
	etcd_channels_closed();
}

static void
connection_adopt(pgsocket sock)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	etcd_conn.sock = sock;
	initStringInfo(&etcd_conn.out);
	etcd_conn.out_sent = 0;
	etcd_conn.header_got = 0;
	etcd_conn.target = NULL;
	etcd_conn.wants_write = false;
	etcd_conn.wait_event = compat_wait_event("EtcdProxy");
	etcd_conn.events = compat_create_wait_event_set(3);
	AddWaitEventToSet(etcd_conn.events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(etcd_conn.events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	etcd_conn.socket_event = AddWaitEventToSet(etcd_conn.events, WL_SOCKET_READABLE, sock, NULL, NULL);
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

void
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
void
connection_flush(void)
{
	while (etcd_conn.sock != PGINVALID_SOCKET && etcd_conn.out_sent < etcd_conn.out.len)
	{
		ssize_t		sent = send(etcd_conn.sock, etcd_conn.out.data + etcd_conn.out_sent,
								etcd_conn.out.len - etcd_conn.out_sent, MSG_NOSIGNAL);

		if (sent >= 0)
			etcd_conn.out_sent += sent;
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return;
		else if (errno != EINTR)
			connection_close();
	}
	if (etcd_conn.sock != PGINVALID_SOCKET)
	{
		resetStringInfo(&etcd_conn.out);
		etcd_conn.out_sent = 0;
	}
}

void
connection_queue_header(uint8 type, uint8 code, uint8 flags, uint32 channel, uint32 id, int len)
{
	char		header[FRAME_HEADER] = {0};

	etcd_put_uint32(header + FRAME_AT_LENGTH, len);
	header[FRAME_AT_VERSION] = FRAME_VERSION;
	header[FRAME_AT_TYPE] = type;
	header[FRAME_AT_CODE] = code;
	header[FRAME_AT_FLAGS] = flags;
	etcd_put_uint32(header + FRAME_AT_CHANNEL, channel);
	etcd_put_uint32(header + FRAME_AT_ID, id);
	etcd_put_uint32(header + FRAME_AT_DEADLINE, etcd_frame_deadline);
	etcd_frame_deadline = 0;
	appendBinaryStringInfo(&etcd_conn.out, header, FRAME_HEADER);
}

void
connection_queue(uint8 type, uint8 code, uint32 channel, uint32 id, const char *payload, int len)
{
	connection_queue_header(type, code, 0, channel, id, len);
	appendBinaryStringInfo(&etcd_conn.out, payload, len);
}

static EtcdRequest *
find_request(uint32 id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &etcd_conn.requests)
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
	const char *header = etcd_conn.header;

	etcd_conn.payload_len = etcd_get_uint32(header + FRAME_AT_LENGTH);
	etcd_conn.payload_got = 0;
	if (header[FRAME_AT_VERSION] != FRAME_VERSION || etcd_conn.payload_len > FRAME_MAX_PAYLOAD)
	{
		connection_close();
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the etcd proxy sent a frame that etcd_fdw does not understand"),
				 errhint("After an upgrade of etcd_fdw, restart the server.")));
	}
	etcd_conn.target = find_request(etcd_get_uint32(header + FRAME_AT_ID));
	if (etcd_conn.target != NULL && header[FRAME_AT_TYPE] == FRAME_PROGRESS)
	{
		etcd_conn.target->give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), etcd_conn.target->patience);
		etcd_conn.target = NULL;
	}
	if (etcd_conn.target != NULL)
		etcd_conn.target->reply = MemoryContextAlloc(etcd_conn.target->context, etcd_conn.payload_len + 1);
}

static void
end_payload(void)
{
	EtcdRequest *request = etcd_conn.target;

	etcd_conn.header_got = 0;
	etcd_conn.target = NULL;
	if (request == NULL)
		return;
	request->done = true;
	request->reply_type = (uint8) etcd_conn.header[FRAME_AT_TYPE];
	request->reply[etcd_conn.payload_len] = '\0';
	request->reply_len = etcd_conn.payload_len;
	request->id = 0;
	dlist_delete(&request->node);
}

/*
 * Reads what there is, and stops when the awaited request is done.
 */
void
connection_read(EtcdRequest *awaited)
{
	char		dropped[8192];

	while (etcd_conn.sock != PGINVALID_SOCKET && !awaited->done)
	{
		char	   *into;
		size_t		room;
		ssize_t		got;

		if (etcd_conn.header_got < FRAME_HEADER)
		{
			into = etcd_conn.header + etcd_conn.header_got;
			room = FRAME_HEADER - etcd_conn.header_got;
		}
		else
		{
			room = etcd_conn.payload_len - etcd_conn.payload_got;
			into = etcd_conn.target ? etcd_conn.target->reply + etcd_conn.payload_got : dropped;
			if (etcd_conn.target == NULL)
				room = Min(room, sizeof(dropped));
		}
		got = room > 0 ? recv(etcd_conn.sock, into, room, 0) : 0;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (got < 0 || (got == 0 && room > 0))
		{
			connection_close();
			return;
		}
		if (etcd_conn.header_got < FRAME_HEADER)
		{
			etcd_conn.header_got += got;
			if (etcd_conn.header_got < FRAME_HEADER)
				continue;
			begin_payload();
		}
		else
			etcd_conn.payload_got += got;
		if (etcd_conn.payload_got == etcd_conn.payload_len)
			end_payload();
	}
}

/*
 * Notices that the proxy has gone while nothing was asked of it: then nothing
 * is lost, and a new one can be asked.
 */
void
connection_check(void)
{
	char		byte;
	ssize_t		got;

	if (etcd_conn.sock == PGINVALID_SOCKET || !dlist_is_empty(&etcd_conn.requests))
		return;
	got = recv(etcd_conn.sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
		connection_close();
}

void
connection_wait(EtcdRequest *request)
{
	WaitEvent	event;
	long		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), request->give_up);
	bool		wants_write = etcd_conn.out_sent < etcd_conn.out.len;

	if (timeout <= 0)
	{
		connection_close();
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the etcd proxy does not answer"),
				 errhint("Its process may be stopped or overloaded; see the server log.")));
	}
	if (wants_write != etcd_conn.wants_write)
	{
		ModifyWaitEvent(etcd_conn.events, etcd_conn.socket_event,
						wants_write ? WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE, NULL);
		etcd_conn.wants_write = wants_write;
	}
	if (WaitEventSetWait(etcd_conn.events, Min(timeout, LONGEST_WAIT_MS), &event, 1, etcd_conn.wait_event) > 0 &&
		(event.events & WL_LATCH_SET) != 0)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Waits until not too much is waiting to be written: a transaction must not
 * hold here what the proxy has not taken yet.
 */
void
etcd_drain(void)
{
	while (etcd_conn.sock != PGINVALID_SOCKET && etcd_conn.out.len - etcd_conn.out_sent > MAX_UNSENT)
	{
		WaitEvent	event;

		ModifyWaitEvent(etcd_conn.events, etcd_conn.socket_event, WL_SOCKET_WRITEABLE, NULL);
		etcd_conn.wants_write = true;
		if (WaitEventSetWait(etcd_conn.events, PROXY_GRACE_MS, &event, 1, etcd_conn.wait_event) > 0 &&
			(event.events & WL_LATCH_SET) != 0)
			ResetLatch(MyLatch);
		/* Both directions at once: connection_wait() knows only "readable" beside this. */
		ModifyWaitEvent(etcd_conn.events, etcd_conn.socket_event, WL_SOCKET_READABLE, NULL);
		etcd_conn.wants_write = false;
		CHECK_FOR_INTERRUPTS();
		connection_flush();
	}
	if (etcd_conn.sock != PGINVALID_SOCKET && etcd_conn.out_sent > MAX_UNSENT)
	{
		memmove(etcd_conn.out.data, etcd_conn.out.data + etcd_conn.out_sent, etcd_conn.out.len - etcd_conn.out_sent);
		etcd_conn.out.len -= etcd_conn.out_sent;
		etcd_conn.out_sent = 0;
	}
}
