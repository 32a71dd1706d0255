/*
 * upper.h
 *	  What stands above the scan and can be left to etcd.
 */
#ifndef ETCD_FDW_UPPER_H
#define ETCD_FDW_UPPER_H

#include "postgres.h"

struct FdwRoutine;
extern void etcd_upper_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_UPPER_H */
