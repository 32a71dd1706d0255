/*
 * leftout.h
 *	  What a mirror leaves out because its target refuses it.
 */
#ifndef ETCD_FDW_LEFTOUT_H
#define ETCD_FDW_LEFTOUT_H

#include "postgres.h"

#include "etcd/page.h"
#include "watch/follower.h"

/* Keys, each at the revision that was refused. */
typedef struct EtcdLeftOut
{
	uint32		count;
	uint32		room;
	EtcdKeyValue *kvs;			/* in the order of keys; of each, key and mod_revision are known */
	bool	   *met;			/* which of them etcd, or the target, still has */
	bool		changed;		/* the table is not what was loaded */
	MemoryContext context;
} EtcdLeftOut;

extern EtcdLeftOut *etcd_left_out_load(const char *name);
extern EtcdLeftOut *etcd_left_out_copy(const EtcdLeftOut *from);
extern bool etcd_may_leave_out(const EtcdFollower *mirror, const EtcdKeyValue *kv);
extern bool etcd_is_left_out(const EtcdLeftOut *set, const EtcdKeyValue *kv);
extern void etcd_leave_out(EtcdLeftOut *set, const char *name, const EtcdKeyValue *kv);
extern void etcd_left_out_changed(EtcdLeftOut *set, const char *name, const EtcdKeyValue *kv);
extern void etcd_left_out_prune(EtcdLeftOut *set, const char *name);
extern void etcd_left_out_forget(const char *name);

#endif							/* ETCD_FDW_LEFTOUT_H */
