/*
 * request.h
 *	  Requests to the proxy, and their answers.
 */
#ifndef ETCD_FDW_REQUEST_H
#define ETCD_FDW_REQUEST_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"

/*
 * What a request has come to.
 *
 *	SENT -> ANSWERED	the REPLY or the ERROR is here
 *	SENT -> CANCELLED	its memory went away; the proxy has been told
 *	SENT -> LATE		the answer did not come in time; the proxy has been told
 *	SENT -> LOST		the session ended first
 */
typedef enum EtcdRequestState
{
	ETCD_REQUEST_SENT,
	ETCD_REQUEST_ANSWERED,
	ETCD_REQUEST_CANCELLED,
	ETCD_REQUEST_LATE,
	ETCD_REQUEST_LOST
} EtcdRequestState;

/*
 * It lives in the memory context that its reply will be put in; when that
 * context is reset or deleted, the request is cancelled.
 */
typedef struct EtcdRequest
{
	EtcdRequestState state;
	dlist_node	node;			/* while SENT */
	MemoryContextCallback release;
	MemoryContext context;
	uint32		id;
	uint8		method;			/* of constants.h */
	uint8		reply_type;
	char	   *reply;
	uint32		reply_len;
	uint32		deadline;		/* what the proxy has, in ms; 0: as long as it takes */
	TimestampTz give_up;		/* when even that is long over */
} EtcdRequest;

extern EtcdRequest *etcd_request_create(uint8 method, uint32 deadline, MemoryContext context);
extern void etcd_wait(EtcdRequest *request);
extern bool etcd_reply_is_error(EtcdRequest *request, ErrorData *fields);
extern void etcd_raise(const ErrorData *fields);

/* For session.c. */
extern bool etcd_requests_exist(void);
extern void etcd_requests_lost(void);
extern EtcdRequest *etcd_request_begin_reply(uint32 id, uint32 len);
extern void etcd_request_end_reply(EtcdRequest *request, uint8 type, uint32 len);
extern void etcd_request_progress(uint32 id);

#endif							/* ETCD_FDW_REQUEST_H */
