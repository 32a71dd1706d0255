/*
 * scan.h
 *	  A scan as it runs: pages of etcd's answer in, values out.
 */
#ifndef ETCD_FDW_SCAN_H
#define ETCD_FDW_SCAN_H

#include "postgres.h"

#include "etcd/page.h"
#include "ipc/request.h"
#include "scan/cell.h"

#include "nodes/execnodes.h"

/* How the scan went, for EXPLAIN ANALYZE. */
typedef struct EtcdCounters
{
	uint64		requests;
	uint64		pages;
	uint64		bytes;
	uint64		rows;
} EtcdCounters;

typedef struct EtcdScan
{
	Oid			userid;
	Oid			serverid;
	Oid			dispatch;
	EState	   *estate;			/* whose revision is read; NULL for none's */
	char	   *plan;
	char	   *order;
	List	   *aggregates;		/* of String */
	EtcdBytes  *lookup;			/* of one key, by enum EtcdScanLookup; NULL for others */
	EtcdCells  *cells;
	MemoryContext context;
	MemoryContext pages[2];
	MemoryContext work;			/* for the calls of core */
	int			current;		/* which of the two holds `page` */
	bool		finished;		/* no page after `page` */
	bool		single;			/* `page` is all that there is */
	bool		last;			/* a page that is not cut off ends the scan */
	bool		latest;			/* the request under way reads the latest revision */
	EtcdRequest *request;		/* the next page, on its way */
	char	   *state;			/* core's, in the scan's memory */
	EtcdPage	page;
	StringInfoData begun;		/* the params that the pages at hand belong to */
	int64		skip;			/* rows to leave out; as OFFSET says */
	int64		left;			/* rows still wanted, -1 for all */
	int64		wanted;			/* keys still to come, -1 for all */
	List	   *row;			/* of aggregates: hexadecimal, or NULL */
	EtcdCounters counters;
} EtcdScan;

extern EtcdScan *etcd_scan_create(List *fdw_private, Oid userid, TupleDesc desc, EState *estate);
extern void etcd_scan_start(EtcdScan *scan, StringInfo params, int64 limit, int64 offset);
extern bool etcd_scan_aggregates(EtcdScan *scan, Datum *values, bool *isnull);
extern bool etcd_scan_next(EtcdScan *scan, EtcdKeyValue *kv);
extern void etcd_scan_end(EtcdScan *scan);
extern void etcd_eval_params(List *params, List *types, ExprContext *econtext, StringInfo buf);
extern EtcdScan *etcd_node_scan(ForeignScanState *node);
struct FdwRoutine;
extern void etcd_scan_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_SCAN_H */
