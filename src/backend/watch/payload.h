/*
 * payload.h
 *	  Events as the texts of notifications.
 */
#ifndef ETCD_FDW_PAYLOAD_H
#define ETCD_FDW_PAYLOAD_H

#include "postgres.h"

#include "etcd/page.h"
#include "lib/stringinfo.h"

/* What a payload may hold at most, in bytes: less than PostgreSQL's own limit. */
#define ETCD_PAYLOAD_BYTES	7900

extern void etcd_payload_event(StringInfo buf, const char *subscription, const EtcdKeyValue *kv, int64 nth);
extern void etcd_payload_resync(StringInfo buf, const char *subscription, int64 revision);

#endif							/* ETCD_FDW_PAYLOAD_H */
