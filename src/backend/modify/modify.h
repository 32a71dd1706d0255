/*
 * modify.h
 *	  Rows that a statement changes.
 */
#ifndef ETCD_FDW_MODIFY_H
#define ETCD_FDW_MODIFY_H

#include "postgres.h"

#include "modify/encode.h"
#include "scan/cell.h"
#include "scan/rows.h"

#include "nodes/execnodes.h"

/* What becomes of a new row whose key exists. */
typedef enum EtcdCollision
{
	ETCD_REPLACE,				/* the row takes its place */
	ETCD_SKIP,					/* the row is left out: ON CONFLICT DO NOTHING */
	ETCD_REFUSE_NOW,			/* an error of the statement, which waits to know */
	ETCD_REFUSE_LATER			/* an error of the commit, or of the batch */
} EtcdCollision;

typedef struct EtcdModify
{
	EtcdWriter *writer;
	EState	   *estate;
	Oid			userid;
	Oid			serverid;
	CommandId	command;		/* that writes; later ones see it */
	EtcdCollision collision;
	bool		immediate;
	bool		watched;		/* functions or triggers of the statement may look at its rows */
	bool		pinned;			/* the statement's revision is from before its writes at once */
	EtcdRows   *rows;			/* that the scan found, for UPDATE and DELETE */
	AttrNumber	tid_attno;
	AttrNumber	old_attno;		/* of the row as it was, where triggers may change it; otherwise 0 */
	Bitmapset  *assigned;		/* attnums that the UPDATE itself sets, where triggers may set more */
	Bitmapset  *allowed;		/* those that core has allowed with what triggers set beside */
	List	   *whole_row;		/* the plan of `cells`; NIL until it is needed */
	EtcdCells  *cells;			/* of whole rows, to show them; NULL until it is needed */
	MemoryContext work;			/* of one row or batch */
	StringInfoData payload;
	StringInfoData part;		/* a key or value on its way there */
	List	   *in_flight;		/* of EtcdRequest * */
	int64		ttl;			/* seconds of the lease that was granted last */
	int64		ttl_lease;
} EtcdModify;

struct FdwRoutine;
extern void etcd_modify_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_MODIFY_H */
