/*
 * follower.h
 *	  Subscriptions and mirrors as the extension's table has them.
 */
#ifndef ETCD_FDW_FOLLOWER_H
#define ETCD_FDW_FOLLOWER_H

#include "postgres.h"

#include "etcd/page.h"
#include "ipc/request.h"
#include "nodes/pg_list.h"
#include "storage/lock.h"

/* Names are shorter than this, so that a worker can be told one. */
#define ETCD_FOLLOWER_NAMELEN	NAMEDATALEN

/* Longer keys cannot be told etcd as it is by default. */
#define ETCD_FOLLOW_KEY_BYTES	(1024 * 1024)

/* How long a request waits for news, in ms. */
#define ETCD_FOLLOW_WAIT_MS		30000
/* Events that are taken at a time. */
#define ETCD_FOLLOW_EVENTS		1000

typedef enum EtcdFollowerKind
{
	ETCD_SUBSCRIPTION,
	ETCD_MIRROR
} EtcdFollowerKind;

/* A row of etcd_fdw_follower. */
typedef struct EtcdFollower
{
	char	   *name;
	EtcdFollowerKind kind;
	Oid			owner;
	char	   *server;
	bytea	   *key;
	bytea	   *range_end;		/* NULL: the key alone */
	bool		prev;
	bool		running;		/* here */
	bool		restored;		/* or copied: it is at home in another database, and nothing works for it here */
	int64		revision;		/* all up to there was handed on */
	uint64		cluster;		/* whose revision it is; 0 when that is not known */
	/* Of a subscription. */
	char	   *channel;
	bool		batch;			/* several events a payload */
	/* Of a mirror. */
	Oid			source;
	Oid			target;
	char	   *filter;			/* NULL: none */
	List	   *key_columns;	/* of char * */
	int			nskips;			/* revisions of which the target may refuse rows: these are left out */
	int64	   *skips;
	struct EtcdLeftOut *left_out;	/* what was left out; only a mirror's worker reads it */
	int64		verify_ms;		/* 0: never */
	int64		shape;			/* of what it is made: see watch/shape.c */
} EtcdFollower;

/* What to note with a batch. */
typedef struct EtcdFollowed
{
	int64		revision;
	int64		events;
	int64		behind;
	uint64		cluster;		/* 0: not known */
} EtcdFollowed;

/* The worker of a database, or of one mirror of it. */
typedef enum EtcdFollowerLock
{
	ETCD_LOCK_DATABASE = 1,
	ETCD_LOCK_MIRROR = 2
} EtcdFollowerLock;

extern char *etcd_extension_schema(void);
extern uint64 etcd_follower_run(const char *statement, int nargs, Oid *types, Datum *values, const char *nulls, int expected);
extern Oid	etcd_follower_table(void);
extern List *etcd_followers_load(const char *name);
extern void etcd_follower_insert(const EtcdFollower *follower);
extern bool etcd_follower_remake(const EtcdFollower *mirror, bool anew);
extern bool etcd_follower_advance(const EtcdFollower *follower, const EtcdFollowed *followed);
extern void etcd_follower_note_error(const char *name, const ErrorData *error, int64 revision, const char *key, int key_len);
extern void etcd_follower_fail(const char *name);
extern void etcd_follower_note_repair(const char *name, int64 differences);
extern void etcd_follower_tag(LOCKTAG *tag, Oid table, EtcdFollowerLock kind, const char *name);
extern void etcd_follower_change(const char *statement, const EtcdFollower *follower, int64 number);
extern EtcdRequest *etcd_follower_ask(const EtcdFollower *follower, int wait_ms, MemoryContext context);
extern bool etcd_follower_strays(const EtcdFollower *follower, const EtcdPage *page);
extern bool etcd_owner_may_work(Oid owner);
extern bool etcd_is_mirrors_worker(const char *name);
extern int64 etcd_present_revision(const char *server);

#endif							/* ETCD_FDW_FOLLOWER_H */
