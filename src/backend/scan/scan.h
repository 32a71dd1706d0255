/*
 * scan.h
 *	  A scan as it runs: pages of etcd's answer in, values out.
 */
#ifndef ETCD_FDW_SCAN_H
#define ETCD_FDW_SCAN_H

#include "etcd_fdw.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "nodes/execnodes.h"

/* Where a column's value comes from, numbered as in src/core/protocol.ts. */
typedef enum EtcdSource
{
	ETCD_KEY,
	ETCD_VALUE,
	ETCD_CREATE_REVISION,
	ETCD_MOD_REVISION,
	ETCD_VERSION,
	ETCD_LEASE,
	ETCD_JSON,
	ETCD_SEGMENT,
	ETCD_TTL
} EtcdSource;

/* How bytes become a value of the column's type. */
typedef enum EtcdForm
{
	ETCD_FORM_TEXT,
	ETCD_FORM_BYTES,
	ETCD_FORM_INT8,
	ETCD_FORM_INPUT				/* through the type's input function */
} EtcdForm;

typedef struct EtcdColumn
{
	AttrNumber	attnum;			/* in the row that is formed */
	EtcdSource	source;
	int			segment;
	Datum		path;			/* text[], of ETCD_JSON */
	Oid			type;			/* a domain's base type */
	int32		typmod;
	Oid			domain;
	void	   *domain_cache;
	EtcdForm	form;
	bool		is_json;		/* the type takes JSON as it is */
	FmgrInfo	input;
	Oid			ioparam;
	FmgrInfo	extract;		/* of ETCD_JSON */
} EtcdColumn;

typedef struct EtcdBytes
{
	const char *data;
	uint32		len;
} EtcdBytes;

/* What forming rows needs. */
typedef struct EtcdCells
{
	Oid			table;
	MemoryContext context;
	int			ncolumns;
	EtcdColumn *columns;
	uint32		strip;
	int			nliterals;		/* of the table's key pattern; 0 without one */
	EtcdBytes  *literals;
	bool		rest;
	bool		strict;
	EtcdBytes  *segments;		/* of the present key */
	const EtcdKeyValue *kv;		/* the present key, for errors */
	Oid			userid;			/* who asks for leases' times; InvalidOid: nobody */
	Oid			serverid;
	List	   *leases;			/* of EtcdLease *, that were asked for */
	EtcdColumn *current;
} EtcdCells;

/* What is left of a lease. */
typedef struct EtcdLease
{
	int64		id;
	int64		seconds;		/* -1: it has ended */
} EtcdLease;

/* ---- lease.c ---- */
extern int64 etcd_lease_seconds(EtcdCells *cells, int64 lease);

/* ---- cell.c ---- */
extern EtcdCells *etcd_cells_create(Oid table, List *fdw_private, TupleDesc desc);
extern bool etcd_cells_match(EtcdCells *cells, const EtcdKeyValue *kv);
extern void etcd_cells_fill(EtcdCells *cells, const EtcdKeyValue *kv, Datum *values, bool *isnull);
extern Datum etcd_cell_make(EtcdCells *cells, EtcdColumn *column, const char *data, uint32 len);

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

/* ---- scan.c ---- */
extern EtcdScan *etcd_scan_create(List *fdw_private, Oid userid, TupleDesc desc, EState *estate);
extern void etcd_scan_start(EtcdScan *scan, StringInfo params, int64 limit, int64 offset);
extern bool etcd_scan_aggregates(EtcdScan *scan, Datum *values, bool *isnull);
extern bool etcd_scan_next(EtcdScan *scan, EtcdKeyValue *kv);
extern void etcd_scan_end(EtcdScan *scan);
extern void etcd_eval_params(List *params, List *types, ExprContext *econtext, StringInfo buf);
extern EtcdScan *etcd_node_scan(ForeignScanState *node);

#endif							/* ETCD_FDW_SCAN_H */
