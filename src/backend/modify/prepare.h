/*
 * prepare.h
 *	  What may be changed, and how.
 */
#ifndef ETCD_FDW_PREPARE_H
#define ETCD_FDW_PREPARE_H

#include "postgres.h"

#include "nodes/bitmapset.h"
#include "utils/rel.h"

extern char *etcd_plan_modify(Relation relation, const char *operation, Bitmapset *assigned);
struct FdwRoutine;
extern void etcd_prepare_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_PREPARE_H */
