/*
 * explain.h
 *	  What EXPLAIN says about a scan.
 */
#ifndef ETCD_FDW_EXPLAIN_H
#define ETCD_FDW_EXPLAIN_H

#include "postgres.h"

struct FdwRoutine;
extern void etcd_explain_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_EXPLAIN_H */
