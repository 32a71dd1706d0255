/*
 * launch.h
 *	  Workers that follow etcd: how they come to life, and how they are one.
 */
#ifndef ETCD_FDW_LAUNCH_H
#define ETCD_FDW_LAUNCH_H

#include "postgres.h"

#include "postmaster/bgworker.h"
#include "watch/follower.h"

extern void etcd_follow_init(void);
extern bool etcd_follow_connect(Datum arg, Oid role);
extern bool etcd_follow_lock(EtcdFollowerLock kind, const char *name);
extern bool etcd_follow_holds(void);
extern void etcd_follow_unlock(EtcdFollowerLock kind, const char *name);
extern BackgroundWorkerHandle *etcd_launch_mirror(const EtcdFollower *mirror);

/* Runs `work` in a transaction; NULL, or the error that ended it. */
extern ErrorData *etcd_attempt(void (*work) (void *arg), void *arg, const char *activity);
extern void etcd_attempt_or_log(void (*work) (void *arg), void *arg, const char *activity);
extern ErrorData *etcd_attempt_at(int isolation, void (*work) (void *arg), void *arg, const char *activity);

/* What a mirror's worker is told beside its database. */
typedef struct EtcdMirrorStart
{
	Oid			tablespace;		/* of the database */
	Oid			owner;
	char		name[ETCD_FOLLOWER_NAMELEN];
} EtcdMirrorStart;

#endif							/* ETCD_FDW_LAUNCH_H */
