/*
 * feed.h
 *	  What a mirror does to a scan of its foreign table.
 */
#ifndef ETCD_FDW_FEED_H
#define ETCD_FDW_FEED_H

#include "postgres.h"

#include "etcd/page.h"

typedef enum EtcdFeedKind
{
	ETCD_FEED_INSTEAD,			/* the scan shows these keys, and reads nothing */
	ETCD_FEED_WITHOUT,			/* it shows all of etcd's but these, at their mod_revision */
	ETCD_FEED_RAW				/* the same, handed over as they are; its rows are NULLs */
} EtcdFeedKind;

/* What is pointed to stays where it is as long as statements read it. */
typedef struct EtcdFeed
{
	Oid			table;
	EtcdFeedKind kind;
	uint32		count;
	const EtcdKeyValue *kvs;	/* in the order of keys */
	bool	   *met;			/* set for those that were left out; NULL: nobody asks */
	void		(*take) (void *arg, const EtcdKeyValue *kv);	/* of RAW */
	void	   *arg;
} EtcdFeed;

extern void etcd_feed(const EtcdFeed *feed);
extern const EtcdFeed *etcd_feed_of(Oid table);
extern const EtcdFeed *etcd_feed_take(Oid table);
extern int	etcd_feed_find(const EtcdKeyValue *kvs, uint32 count, const char *key, uint32 key_len);
extern bool etcd_feed_leaves_out(const EtcdFeed *feed, const EtcdKeyValue *kv);

#endif							/* ETCD_FDW_FEED_H */
