/*
 * page.h
 *	  Walks etcd's answers in place.
 */
#ifndef ETCD_FDW_PAGE_H
#define ETCD_FDW_PAGE_H

#include "postgres.h"

typedef struct EtcdKeyValue
{
	const char *key;
	const char *value;
	uint32		key_len;
	uint32		value_len;
	int64		numbers[4];		/* create_revision, mod_revision, version, lease */
	/* Of events. */
	bool		deleted;		/* only key and mod_revision are known */
	const char *prev_value;		/* NULL: not asked for, or there was none */
	uint32		prev_len;
} EtcdKeyValue;

/* What an answer with keys is. */
typedef enum EtcdPageKind
{
	ETCD_PAGE_RANGE,			/* a RangeResponse */
	ETCD_PAGE_TXN,				/* a TxnResponse of reads */
	ETCD_PAGE_DELETED,			/* a DeleteRangeResponse: what was there before */
	ETCD_PAGE_WATCHED			/* a WatchedPage of the proxy's: events */
} EtcdPageKind;

/* An answer, walked in place. */
typedef struct EtcdPage
{
	const char *start;
	const char *end;
	const char *next;			/* where the next key-value pair is looked for */
	const char *next_end;		/* where its RangeResponse ends */
	const char *rest;			/* in a TxnResponse: what follows that */
	EtcdPageKind kind;
	uint32		kvs;
	bool		more;
	bool		cached;			/* the proxy has answered, not etcd */
	int64		count;
	int64		revision;
	uint64		cluster;		/* who answers; 0 when that is not said */
	int64		left;			/* of a WatchedPage, as are the next */
	int64		upto;
	int64		behind;
	const char *last_key;
	uint32		last_key_len;
} EtcdPage;

extern void etcd_page_open(EtcdPage *page, const char *data, uint32 len, EtcdPageKind kind);
extern bool etcd_page_next(EtcdPage *page, EtcdKeyValue *kv);
extern void etcd_page_rewind(EtcdPage *page);

#endif							/* ETCD_FDW_PAGE_H */
