/*
 * analyze.h
 *	  What is known about a table before it is read.
 */
#ifndef ETCD_FDW_ANALYZE_H
#define ETCD_FDW_ANALYZE_H

#include "postgres.h"

#include "plan/plan.h"

extern List *etcd_whole_row(Oid table);
extern double etcd_remote_count(EtcdPlan *plan, Oid userid);
struct FdwRoutine;
extern void etcd_analyze_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_ANALYZE_H */
