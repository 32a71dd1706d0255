/*
 * direct.h
 *	  DELETE that etcd can be told by ranges, and TRUNCATE.
 */
#ifndef ETCD_FDW_DIRECT_H
#define ETCD_FDW_DIRECT_H

#include "postgres.h"

struct FdwRoutine;
extern void etcd_direct_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_DIRECT_H */
