/*
 * ancestors.c
 *	  What stands above a node in a plan.
 *
 * A param of a join or of a correlated subquery is shown as the column that it
 * stands for, which PostgreSQL finds among the nodes above.  EXPLAIN knows
 * these, but does not hand them to the callbacks of a foreign scan.
 */
#include "postgres.h"

#include "base/compat.h"
#include "plan/ancestors.h"

#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"

typedef struct Search
{
	PlannedStmt *stmt;
	const Plan *node;
	List	   *found;			/* the nearest first */
} Search;

static bool search_plan(Search *search, Plan *at);

static bool
search_list(Search *search, List *plans)
{
	ListCell   *lc;

	foreach(lc, plans)
	{
		if (search_plan(search, lfirst(lc)))
			return true;
	}
	return false;
}

/*
 * The plans of subqueries that expressions hold; each counts as standing below
 * its SubPlan.
 */
static bool
search_expression(Node *expression, void *context)
{
	Search	   *search = context;

	if (expression == NULL)
		return false;
	if (IsA(expression, SubPlan))
	{
		SubPlan    *subplan = (SubPlan *) expression;

		if (search_plan(search, list_nth(search->stmt->subplans, subplan->plan_id - 1)))
		{
			search->found = lappend(search->found, subplan);
			return true;
		}
	}
	return expression_tree_walker(expression, search_expression, context);
}

static bool
search_children(Search *search, Plan *at)
{
	switch (nodeTag(at))
	{
		case T_Append:
			return search_list(search, ((Append *) at)->appendplans);
		case T_MergeAppend:
			return search_list(search, ((MergeAppend *) at)->mergeplans);
		case T_SubqueryScan:
			return search_plan(search, ((SubqueryScan *) at)->subplan);
		case T_CustomScan:
			return search_list(search, ((CustomScan *) at)->custom_plans);
		default:
			return false;
	}
}

static bool
search_modify(Search *search, ModifyTable *at)
{
	return search_expression((Node *) at->withCheckOptionLists, search) ||
		search_expression((Node *) at->returningLists, search) ||
		search_expression((Node *) at->onConflictSet, search) ||
		search_expression(at->onConflictWhere, search) ||
		search_expression((Node *) compat_merge_expressions(at), search);
}

static bool
search_expressions(Search *search, Plan *at)
{
	if (search_expression((Node *) at->initPlan, search) ||
		search_expression((Node *) at->targetlist, search) ||
		search_expression((Node *) at->qual, search))
		return true;
	switch (nodeTag(at))
	{
		case T_NestLoop:
		case T_MergeJoin:
		case T_HashJoin:
			return search_expression((Node *) ((Join *) at)->joinqual, search);
		case T_Result:
			return search_expression(((Result *) at)->resconstantqual, search);
		case T_Limit:
			return search_expression(((Limit *) at)->limitCount, search) ||
				search_expression(((Limit *) at)->limitOffset, search);
		case T_FunctionScan:
			return search_expression((Node *) ((FunctionScan *) at)->functions, search);
		case T_ValuesScan:
			return search_expression((Node *) ((ValuesScan *) at)->values_lists, search);
		case T_TableFuncScan:
			return search_expression((Node *) ((TableFuncScan *) at)->tablefunc, search);
		case T_SampleScan:
			return search_expression((Node *) ((SampleScan *) at)->tablesample, search);
		case T_TidScan:
			return search_expression((Node *) ((TidScan *) at)->tidquals, search);
		case T_TidRangeScan:
			return search_expression((Node *) ((TidRangeScan *) at)->tidrangequals, search);
		case T_IndexScan:
			return search_expression((Node *) ((IndexScan *) at)->indexqual, search) ||
				search_expression((Node *) ((IndexScan *) at)->indexorderby, search);
		case T_IndexOnlyScan:
			return search_expression((Node *) ((IndexOnlyScan *) at)->indexqual, search) ||
				search_expression((Node *) ((IndexOnlyScan *) at)->indexorderby, search);
		case T_BitmapIndexScan:
			return search_expression((Node *) ((BitmapIndexScan *) at)->indexqual, search);
		case T_ModifyTable:
			return search_modify(search, (ModifyTable *) at);
		default:
			return false;
	}
}

static bool
search_plan(Search *search, Plan *at)
{
	check_stack_depth();
	if (at == NULL)
		return false;
	if (at == search->node)
		return true;
	if (!search_plan(search, at->lefttree) && !search_plan(search, at->righttree) &&
		!search_children(search, at) && !search_expressions(search, at))
		return false;
	search->found = lappend(search->found, at);
	return true;
}

/*
 * The plan nodes and SubPlans above a node, as ruleutils wants them: the
 * nearest first.  False when the node is not found.
 */
bool
etcd_find_ancestors(PlannedStmt *stmt, const Plan *node, List **ancestors)
{
	Search		search = {stmt, node, NIL};
	bool		found = search_plan(&search, stmt->planTree);

	*ancestors = search.found;
	return found;
}
