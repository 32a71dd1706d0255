/*
 * put.h
 *	  Puts keys into a mirror's target, and finds those that it refuses.
 */
#ifndef ETCD_FDW_PUT_H
#define ETCD_FDW_PUT_H

#include "postgres.h"

#include "watch/apply.h"
#include "watch/target.h"

/* One attempt's work on the target. */
typedef struct EtcdPutting
{
	EtcdMirrorWork *work;
	EtcdTarget *target;
	bool		differences;	/* only rows that are not so already are put */
	bool		checks;			/* what constraints have deferred is looked at after each step */
	const char *defer;			/* the statement that defers it again; NULL: there is nothing */
	/* What was refused in the present pass. */
	uint64		refused;
	EtcdKeyValue *again;		/* all keys, where there is room for them */
	uint32		nagain;
	List	   *skipped;		/* of EtcdKeyValue *: they may be left out */
	EtcdKeyValue *first;		/* that may not be */
	ErrorData  *error;			/* of that */
	ErrorData  *nameless;		/* of no key */
	const char *nameless_key;	/* how its row is told apart, when it has one */
} EtcdPutting;

/* A step may be refused, and is nothing then. */
typedef void (*EtcdStep) (EtcdPutting *putting, void *arg);

extern EtcdTarget *etcd_mirror_reach(EtcdMirrorWork *work);
extern void etcd_putting_begin(EtcdPutting *putting, EtcdMirrorWork *work, EtcdTarget *target);
extern ErrorData *etcd_try_step(EtcdPutting *putting, EtcdStep step, void *arg);
extern void etcd_settle(EtcdPutting *putting, EtcdStep pass, void *arg);
extern void etcd_put_apart(EtcdPutting *putting, const EtcdKeyValue *kvs, uint32 count);
extern void etcd_put_some(EtcdPutting *putting, const EtcdKeyValue *kvs, uint32 count);
extern void etcd_put_settled(EtcdPutting *putting, const EtcdKeyValue *kvs, uint32 count);
extern uint64 etcd_run_step(const char *sql, int expected);
extern uint64 etcd_run_fed(const char *sql, int expected, const EtcdMirrorWork *work, const EtcdKeyValue *kvs, uint32 count);
extern void etcd_check_deferred(EtcdPutting *putting);

#endif							/* ETCD_FDW_PUT_H */
