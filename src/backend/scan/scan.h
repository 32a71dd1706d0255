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
	uint64		cached;			/* pages that a cache of the proxy's has answered */
} EtcdCounters;

/* What is at hand of a scan, and what is on its way: see scan.c. */
typedef enum EtcdScanState
{
	ETCD_SCAN_FRESH,			/* nothing was asked */
	ETCD_SCAN_FIRST,			/* the first page is on its way */
	ETCD_SCAN_WHOLE,			/* the only page is at hand */
	ETCD_SCAN_AHEAD,			/* a page is at hand, the next on its way */
	ETCD_SCAN_TAIL,				/* the last of several pages is at hand */
	ETCD_SCAN_EMPTY,			/* there is nothing to ask */
	ETCD_SCAN_ROW				/* the row of aggregates is at hand */
} EtcdScanState;

typedef struct EtcdScan
{
	Oid			userid;
	Oid			serverid;
	bool		serializable;	/* one member's state is read, as the table says */
	bool		past;			/* the table shows a revision of its own */
	int64		named;			/* etcd_fdw.revision as it was when the query began */
	const struct EtcdFeed *feed;	/* what a mirror has it show; NULL: etcd */
	uint32		fed;			/* how much of it was shown */
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
	EtcdScanState state;
	EtcdRequest *request;		/* the next page, on its way; else NULL */
	bool		ends;			/* its page ends the scan unless it is cut off */
	bool		latest;			/* it reads the latest revision */
	char	   *core_state;		/* in the scan's memory */
	EtcdPage	page;
	StringInfoData begun;		/* the params that the pages at hand belong to */
	int64		begun_wanted;	/* and how many keys were asked for, -1 for all */
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

#endif							/* ETCD_FDW_SCAN_H */
