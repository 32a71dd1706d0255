/*
 * ancestors.h
 *	  What stands above a node in a plan.
 */
#ifndef ETCD_FDW_ANCESTORS_H
#define ETCD_FDW_ANCESTORS_H

#include "postgres.h"

#include "nodes/plannodes.h"

extern bool etcd_find_ancestors(PlannedStmt *stmt, const Plan *node, List **ancestors);

#endif							/* ETCD_FDW_ANCESTORS_H */
