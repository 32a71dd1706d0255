/*
 * rows.h
 *	  What an UPDATE or DELETE has to know of the rows that its scan found.
 */
#ifndef ETCD_FDW_ROWS_H
#define ETCD_FDW_ROWS_H

#include "postgres.h"

#include "etcd/page.h"

#include "nodes/execnodes.h"
#include "storage/itemptr.h"

/* A row as the statement's scan saw it. */
typedef struct EtcdRow
{
	struct EtcdRow *next;		/* of the same hash */
	uint32		index;
	bool		changed;		/* by this statement */
	EtcdKeyValue kv;
} EtcdRow;

typedef struct EtcdRows EtcdRows;

extern EtcdRows *etcd_rows_create(EState *estate, Oid table);
extern void etcd_rows_add(EtcdRows *rows, const EtcdKeyValue *kv, ItemPointer tid);
extern EtcdRow *etcd_rows_find(EState *estate, Oid table, ItemPointer tid);

#endif							/* ETCD_FDW_ROWS_H */
