/*
 * qual.h
 *	  Conditions of a scan, as core is told of them.
 */
#ifndef ETCD_FDW_QUAL_H
#define ETCD_FDW_QUAL_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pathnodes.h"

extern void etcd_describe_quals(StringInfo buf, PlannerInfo *root, RelOptInfo *rel, Oid relid, List *clauses,
								Relids outer, List **params);
extern bool etcd_sorts_as_etcd(Oid collation);

#endif							/* ETCD_FDW_QUAL_H */
