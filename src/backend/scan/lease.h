/*
 * lease.h
 *	  How long leases still live.
 */
#ifndef ETCD_FDW_LEASE_H
#define ETCD_FDW_LEASE_H

#include "postgres.h"

#include "scan/cell.h"

/* What is left of a lease. */
typedef struct EtcdLease
{
	int64		id;
	int64		seconds;		/* -1: it has ended */
} EtcdLease;

extern void etcd_lease_note(EtcdCells *cells, int64 lease, int64 seconds);
extern int64 etcd_lease_seconds(EtcdCells *cells, int64 lease);

#endif							/* ETCD_FDW_LEASE_H */
