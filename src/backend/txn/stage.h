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

/* What a read is to its transaction. */
typedef enum EtcdReadKind
{
	ETCD_READ_ALONE,			/* nothing: it reads etcd as it is */
	ETCD_READ_PRESENT,			/* it sees what the transaction's commands before its own have written */
	ETCD_READ_LOCK,				/* the same, and what it sees must still hold when the transaction commits */
	ETCD_READ_PAST				/* as ETCD_READ_PRESENT, of a revision that the user has named, which stays as it is */
} EtcdReadKind;

extern EtcdRequest *etcd_send(Oid userid, Oid serverid, uint8 method, const char *payload, int len,
							  EtcdReadKind kind, CommandId command, MemoryContext context);
extern EtcdRequest *etcd_send_frame(Oid userid, Oid serverid, const EtcdAnswer *answer,
									EtcdReadKind kind, CommandId command, MemoryContext context);
extern uint8 etcd_stage_recorded(Oid userid, Oid serverid);
extern bool etcd_stage_note(Oid userid, Oid serverid, bool writes, CommandId command);
extern EtcdRequest *etcd_stage(Oid userid, Oid serverid, uint8 code, const char *payload, int len,
							   MemoryContext context);
extern void etcd_stage_header(StringInfo buf, uint8 flags, CommandId command, int64 revision);
extern void etcd_stage_reply(EtcdRequest *request, EtcdStageReply *reply);

#endif							/* ETCD_FDW_STAGE_H */
