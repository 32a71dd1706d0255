/*
 * lock.h
 *	  SELECT ... FOR UPDATE and its like.
 */
#ifndef ETCD_FDW_LOCK_H
#define ETCD_FDW_LOCK_H

#include "postgres.h"

struct FdwRoutine;
extern void etcd_lock_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_LOCK_H */
