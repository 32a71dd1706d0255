/*
 * connection.h
 *	  Between connection.c, which has the socket, and channel.c, which has the
 *	  channels and requests on it.
 */
#ifndef ETCD_FDW_CONNECTION_H
#define ETCD_FDW_CONNECTION_H

#include "etcd_fdw.h"
#include "ipc/frame.h"

#include "storage/latch.h"

/* How long a backend waits for the proxy to start, and beyond its deadlines. */
extern uint32 etcd_frame_deadline;

#define PROXY_START_MS	10000
#define PROXY_GRACE_MS	2000
#define PROXY_POLL_MS	10

/* A wait without end is made of these. */
#define LONGEST_WAIT_MS	3600000L

/* How long the proxy may take to answer what it needs no server for. */
#define PROXY_ANSWER_MS	30000

typedef struct Connection
{
	pgsocket	sock;			/* PGINVALID_SOCKET: none */
	struct WaitEventSet *events;
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

extern Connection etcd_conn;

/* ---- connection.c ---- */
extern void connection_open(void);
extern void connection_close(void);
extern void connection_check(void);
extern void connection_flush(void);
extern void connection_read(EtcdRequest *awaited);
extern void connection_wait(EtcdRequest *request);
extern void connection_queue_header(uint8 type, uint8 code, uint8 flags, uint32 channel, uint32 id, int len);
extern void connection_queue(uint8 type, uint8 code, uint32 channel, uint32 id, const char *payload, int len);

/* ---- channel.c ---- */
extern void etcd_channels_closed(void);

#endif							/* ETCD_FDW_CONNECTION_H */
