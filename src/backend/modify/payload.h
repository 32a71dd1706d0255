/*
 * payload.h
 *	  The writes of rows on their way to the proxy.
 */
#ifndef ETCD_FDW_PAYLOAD_H
#define ETCD_FDW_PAYLOAD_H

#include "modify/modify.h"
#include "txn/stage.h"

/* Of a WRITE's payload: its header, which entries follow. */
#define ETCD_WRITE_HEADER	17

extern void etcd_begin_payload(EtcdModify *modify);
extern void etcd_append_entry(StringInfo buf, uint8 kind, const EtcdKeyValue *old, int64 lease);
extern void etcd_append_counted(StringInfo buf, const char *data, uint32 len);
extern void etcd_append_delete(EtcdModify *modify, const EtcdKeyValue *row);
extern void etcd_entry_at(EtcdModify *modify, int index, EtcdKeyValue *kv);
extern void etcd_send_write(EtcdModify *modify, int len, bool wait, EtcdStageReply *reply);
extern void etcd_await_oldest(EtcdModify *modify);

#endif							/* ETCD_FDW_PAYLOAD_H */
