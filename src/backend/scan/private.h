/*
 * private.h
 *	  How a ForeignScan carries its scan from planning to execution.
 */
#ifndef ETCD_FDW_PRIVATE_H
#define ETCD_FDW_PRIVATE_H

#include "postgres.h"

/* Members of ForeignScan.fdw_private. */
enum EtcdScanPrivate
{
	ETCD_SCAN_PLAN,				/* String: core's plan */
	ETCD_SCAN_TABLE,			/* oid List: the foreign table */
	ETCD_SCAN_COLUMNS,			/* integer List: attnum, source, argument ... */
	ETCD_SCAN_PATHS,			/* List of String */
	ETCD_SCAN_LITERALS,			/* List of String */
	ETCD_SCAN_NUMBERS,			/* integer List: see enum EtcdScanNumber */
	ETCD_SCAN_PARAM_TYPES,		/* oid List, as fdw_exprs but LIMIT and OFFSET */
	ETCD_SCAN_ORDER,			/* String */
	ETCD_SCAN_AGGREGATES,		/* List of String */
	ETCD_SCAN_LOOKUP			/* List of String: see enum EtcdScanLookup; NIL for none */
};

enum EtcdScanNumber
{
	ETCD_SCAN_STRIP,
	ETCD_SCAN_REST,
	ETCD_SCAN_STRICT,
	ETCD_SCAN_LIMIT,			/* index into fdw_exprs, or -1 */
	ETCD_SCAN_OFFSET,
	ETCD_SCAN_SERIALIZABLE,		/* one member's state is read */
	ETCD_SCAN_VALUES			/* come with the keys */
};

/* In hexadecimal; core's PlanAnswer says what each is. */
enum EtcdScanLookup
{
	ETCD_LOOKUP_KEY,
	ETCD_LOOKUP_STRIP,
	ETCD_LOOKUP_START,
	ETCD_LOOKUP_END,
	ETCD_LOOKUP_REST
};

#endif							/* ETCD_FDW_PRIVATE_H */
