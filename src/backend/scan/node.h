/*
 * node.h
 *	  The executor's callbacks for a scan.
 */
#ifndef ETCD_FDW_NODE_H
#define ETCD_FDW_NODE_H

#include "postgres.h"

#include "scan/scan.h"

#include "nodes/execnodes.h"

extern void etcd_eval_params(List *params, List *types, ExprContext *econtext, StringInfo buf);
extern EtcdScan *etcd_node_scan(ForeignScanState *node);
struct FdwRoutine;
extern void etcd_scan_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_NODE_H */
