/*
 * watched.c
 *	  Whether a statement's functions may look at what it writes.
 *
 * A volatile function sees the rows that its statement has written before.  So
 * where there is one, rows are not gathered in batches.  PostgreSQL's own ones,
 * such as nextval() and random(), look at no table as a volatile function does.
 */
#include "postgres.h"

#include "modify/watched.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "nodes/plannodes.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static bool
looks_at_tables(Oid function, void *context)
{
	(void) context;
	return function >= FirstUnpinnedObjectId && func_volatile(function) == PROVOLATILE_VOLATILE;
}

static bool
expression_is_watched(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return check_functions_in_node(node, looks_at_tables, context) ||
		expression_tree_walker(node, expression_is_watched, context);
}

static bool plan_is_watched(Plan *plan);

static bool
any_is_watched(List *plans)
{
	ListCell   *lc;

	foreach(lc, plans)
	{
		if (plan_is_watched(lfirst(lc)))
			return true;
	}
	return false;
}

/*
 * Looks where expressions of queries come to stand; those of indexes and keys are
 * not volatile.
 */
static bool
plan_is_watched(Plan *plan)
{
	Node	   *more = NULL;
	List	   *below = NIL;

	if (plan == NULL)
		return false;
	switch (nodeTag(plan))
	{
		case T_Result:
			more = ((Result *) plan)->resconstantqual;
			break;
		case T_ValuesScan:
			more = (Node *) ((ValuesScan *) plan)->values_lists;
			break;
		case T_FunctionScan:
			more = (Node *) ((FunctionScan *) plan)->functions;
			break;
		case T_NestLoop:
		case T_MergeJoin:
		case T_HashJoin:
			more = (Node *) ((Join *) plan)->joinqual;
			break;
		case T_Append:
			below = ((Append *) plan)->appendplans;
			break;
		case T_MergeAppend:
			below = ((MergeAppend *) plan)->mergeplans;
			break;
		case T_SubqueryScan:
			below = list_make1(((SubqueryScan *) plan)->subplan);
			break;
		default:
			break;
	}
	return expression_is_watched((Node *) plan->targetlist, NULL) ||
		expression_is_watched((Node *) plan->qual, NULL) || expression_is_watched(more, NULL) ||
		any_is_watched(below) || plan_is_watched(plan->lefttree) || plan_is_watched(plan->righttree);
}

bool
etcd_is_watched(EState *estate)
{
	PlannedStmt *query = estate->es_plannedstmt;
	ListCell   *lc;

	/* COPY looks after that itself. */
	if (query == NULL)
		return false;
	/* Of functions that are not PostgreSQL's own, the plan keeps a list: most have none. */
	foreach(lc, query->invalItems)
	{
		if (lfirst_node(PlanInvalItem, lc)->cacheId == PROCOID)
			return plan_is_watched(query->planTree) || any_is_watched(query->subplans);
	}
	return false;
}
