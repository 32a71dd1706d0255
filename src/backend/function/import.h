/*
 * import.h
 *	  IMPORT FOREIGN SCHEMA.
 */
#ifndef ETCD_FDW_IMPORT_H
#define ETCD_FDW_IMPORT_H

#include "postgres.h"

struct FdwRoutine;
extern void etcd_import_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_IMPORT_H */
