/*
 * feed.h
 *	  Rows for a scan that were not read from etcd.
 */
#ifndef ETCD_FDW_FEED_H
#define ETCD_FDW_FEED_H

#include "postgres.h"

#include "etcd/page.h"

/* Keys as events have told them, in order; they stay where they are as long as statements read them. */
typedef struct EtcdFeed
{
	Oid			table;
	uint32		count;
	const EtcdKeyValue *kvs;
} EtcdFeed;

extern void etcd_feed(const EtcdFeed *feed);
extern const EtcdFeed *etcd_feed_of(Oid table);
extern const EtcdFeed *etcd_feed_take(Oid table);

#endif							/* ETCD_FDW_FEED_H */
