/*
 * stage.h
 *	  Writes of the transaction, which the proxy holds until it ends.
 */
#ifndef ETCD_FDW_STAGE_H
#define ETCD_FDW_STAGE_H

#include "postgres.h"

#include "ipc/channel.h"

/* What a STAGE frame was answered. */
typedef struct EtcdStageReply
{
	int64		revision;
	uint32		count;
	List	   *refused;		/* integer: indexes of entries */
} EtcdStageReply;

extern void etcd_stage_header(StringInfo buf, uint8 flags, CommandId command);
extern void etcd_stage_reply(EtcdRequest *request, EtcdStageReply *reply);
extern void etcd_stage_init(void);

#endif							/* ETCD_FDW_STAGE_H */
