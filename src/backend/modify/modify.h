/*
 * modify.h
 *	  Rows that a statement changes.
 */
#ifndef ETCD_FDW_MODIFY_H
#define ETCD_FDW_MODIFY_H

#include "postgres.h"

#include "modify/encode.h"
#include "scan/cell.h"

#include "nodes/execnodes.h"

typedef struct EtcdModify{
	EtcdWriter *writer;
	EState	   *estate;
	Oid			userid;
	Oid			serverid;
	bool		upsert;
	bool		immediate;
	bool		check;			/* a key that exists is told at once */
	bool		skip;			/* ON CONFLICT DO NOTHING */
	AttrNumber	tid_attno;
	EtcdCells  *cells;			/* of whole rows, for DELETE ... RETURNING */
	MemoryContext work;			/* of one row or batch */
	StringInfoData payload;
	List	   *in_flight;		/* of EtcdRequest * */
	int64		ttl;			/* seconds of the lease that was granted last */
	int64		ttl_lease;
} EtcdModify;

struct FdwRoutine;
extern void etcd_modify_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_MODIFY_H */
