/*
 * stage.h
 *	  What a statement asks of the proxy within the transaction: reads that see
 *	  its writes, and the writes.
 */
#ifndef ETCD_FDW_STAGE_H
#define ETCD_FDW_STAGE_H

#include "postgres.h"

#include "core/dispatch.h"
#include "ipc/request.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/* What a STAGE frame was answered. */
typedef struct EtcdStageReply
{
	int64		revision;
	uint32		count;
	List	   *refused;		/* integer: indexes of entries */
} EtcdStageReply;

extern EtcdRequest *etcd_send(Oid userid, Oid serverid, uint8 method, const char *payload, int len,
							  int64 command, MemoryContext context);
extern EtcdRequest *etcd_send_frame(Oid userid, Oid serverid, const EtcdAnswer *answer, int64 command,
									MemoryContext context);
extern void etcd_stage_note(Oid userid, Oid serverid, bool writes);
extern EtcdRequest *etcd_stage(Oid userid, Oid serverid, uint8 code, const char *payload, int len,
							   MemoryContext context);
extern void etcd_stage_header(StringInfo buf, uint8 flags, CommandId command);
extern void etcd_stage_reply(EtcdRequest *request, EtcdStageReply *reply);

#endif							/* ETCD_FDW_STAGE_H */
