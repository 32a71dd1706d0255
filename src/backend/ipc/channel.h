/*
 * channel.h
 *	  Requests to the proxy, on channels.
 */
#ifndef ETCD_FDW_CHANNEL_H
#define ETCD_FDW_CHANNEL_H

#include "postgres.h"

#include "core/dispatch.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"

/*
 * A request on its way.  It lives in the memory context that its reply will
 * be put in; when that context is reset or deleted, the request is cancelled.
 */
typedef struct EtcdRequest
{
	dlist_node	node;
	MemoryContextCallback release;
	MemoryContext context;
	uint32		id;				/* 0 once it is off the list */
	uint8		method;			/* of frame.h */
	bool		done;
	bool		lost;			/* the connection broke before the answer came */
	uint8		reply_type;
	char	   *reply;
	uint32		reply_len;
	TimestampTz give_up;		/* when even the proxy's own deadline is long over */
} EtcdRequest;

extern EtcdRequest *etcd_send(Oid userid, Oid serverid, uint8 method, const char *payload, int len,
							  int64 command, MemoryContext context);
extern EtcdRequest *etcd_send_frame(Oid userid, Oid serverid, const EtcdAnswer *answer, int64 command,
									MemoryContext context);
extern EtcdRequest *etcd_send_proxy(const EtcdAnswer *answer, MemoryContext context);
extern EtcdRequest *etcd_stage(Oid userid, Oid serverid, uint8 code, const char *payload, int len,
							   MemoryContext context);
extern void etcd_stage_end(Oid userid, Oid serverid, uint8 code, uint32 level);
/* Of txn/stage.c, which is told of what a request makes the proxy hold. */
extern void etcd_stage_note(Oid userid, Oid serverid, bool writes);
extern void etcd_stage_forget(Oid userid, Oid serverid);
extern void etcd_drain(void);
extern void etcd_wait(EtcdRequest *request);
extern void etcd_raise(const ErrorData *fields);
extern bool etcd_reply_is_error(EtcdRequest *request, ErrorData *fields);
extern void etcd_connection_init(void);

#endif							/* ETCD_FDW_CHANNEL_H */
