/*
 * plan.h
 *	  What planning keeps about a scan.
 */
#ifndef ETCD_FDW_PLAN_H
#define ETCD_FDW_PLAN_H

#include "postgres.h"

#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

/* Core's answer to "plan": one for each set of conditions that is tried. */
typedef struct EtcdPlan
{
	Oid			table;
	char	   *plan;
	List	   *clauses;		/* RestrictInfos, as they were described to core */
	List	   *exact;			/* integer: conditions that need no recheck */
	List	   *used;			/* integer: conditions that narrow the request */
	List	   *columns;		/* integer: attnum, source, argument ... */
	List	   *paths;
	List	   *literals;
	int			rest;
	int			strict;
	int			strip;
	int			serializable;
	int			values;			/* etcd sends them */
	List	   *targets;
	List	   *orders;			/* integer: attnum, bytes, paged ... */
	bool		limitable;
	bool		countable;
	int			keys;			/* that can come at most; -1: unknown */
	int			ranges;
	bool		pattern;		/* not every key in the ranges is a row */
	List	   *lookup;			/* of char *, as core gave them */
	List	   *params;
	double		tuples;			/* in the table */
	double		fetched;		/* rows that etcd sends */
	double		rows;			/* that are left of these */
	Cost		startup_cost;
	Cost		total_cost;
} EtcdPlan;

/* ForeignPath.fdw_private holds one of these, as the only member of the list. */
typedef struct EtcdPath
{
	EtcdPlan   *plan;
	char	   *order;			/* as core names it; "" for none */
	bool		limited;		/* the query's LIMIT and OFFSET are sent */
	Node	   *limit;
	Node	   *offset;
	List	   *aggregates;		/* of char *, and their expressions */
	List	   *expressions;
} EtcdPath;

static inline EtcdPath *
etcd_path_of(List *fdw_private)
{
	return (EtcdPath *) linitial(fdw_private);
}

extern void etcd_read_plan(EtcdPlan *plan, Oid table, Jsonb *answer);
extern EtcdPlan *etcd_plan_scan(PlannerInfo *root, RelOptInfo *rel, Oid table, List *clauses, Relids outer);
extern List *etcd_path_private(EtcdPlan *plan, const char *order);
extern List *etcd_scan_private(EtcdPath *path, List *param_types, int limit, int offset);
extern bool etcd_is_column(Expr *expr, RelOptInfo *rel, int attnum);
extern bool etcd_all_exact(EtcdPlan *plan);
extern char *etcd_order_of(PathKey *pathkey, RelOptInfo *rel, EtcdPlan *plan, bool *paged);
extern List *etcd_ordered_pathkeys(List *wanted, RelOptInfo *rel, EtcdPlan *plan, char **order, bool *paged);

struct FdwRoutine;
extern void etcd_plan_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_PLAN_H */
