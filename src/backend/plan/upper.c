/*
 * upper.c
 *	  What stands above the scan and can be left to etcd: LIMIT and OFFSET, and
 *	  count, min(key) and max(key) of all rows.
 *
 * Both only when the request alone fulfils every condition, and when nothing
 * else stands between: the query reads this one table, and the rows come in
 * the order that is wanted.
 */
#include "postgres.h"

#include "base/compat.h"
#include "plan/plan.h"
#include "plan/qual.h"
#include "plan/upper.h"

#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/* Rows that etcd sorts and sends in one reply, by an order that has no pages. */
#define MAX_SORTED_ROWS 10000

/* Reads that one Txn can hold. */
#define MAX_READS		128

/*
 * The query's only table, if that is what `input` reads from; NULL otherwise.
 */
static RelOptInfo *
only_table(PlannerInfo *root, RelOptInfo *input)
{
	int			relid;
	RelOptInfo *rel;
	EtcdPlan   *plan;

	if (!bms_get_singleton_member(root->all_baserels, &relid))
		return NULL;
	rel = root->simple_rel_array[relid];
	if (rel == NULL || rel->reloptkind != RELOPT_BASEREL || rel->fdw_private == NULL ||
		rel->fdwroutine != input->fdwroutine || !bms_is_empty(rel->lateral_relids))
		return NULL;
	plan = rel->fdw_private;
	if (!etcd_all_exact(plan) || root->hasPseudoConstantQuals || root->placeholder_list != NIL)
		return NULL;
	return rel;
}

static bool
is_plain_select(Query *parse)
{
	return parse->commandType == CMD_SELECT && parse->groupClause == NIL && parse->groupingSets == NIL &&
		parse->havingQual == NULL && parse->distinctClause == NIL && !parse->hasWindowFuncs &&
		!parse->hasTargetSRFs && parse->setOperations == NULL && parse->rowMarks == NIL;
}

/*
 * The number that a LIMIT or OFFSET holds; `otherwise` when it is not known
 * yet, -1 for none.
 */
static double
known_number(Node *node, double otherwise)
{
	if (node == NULL)
		return -1;
	if (!IsA(node, Const))
		return otherwise;
	return castNode(Const, node)->constisnull ? -1 : (double) DatumGetInt64(castNode(Const, node)->constvalue);
}

static void
add_limit_path(PlannerInfo *root, RelOptInfo *input, RelOptInfo *final)
{
	Query	   *parse = root->parse;
	RelOptInfo *rel = only_table(root, input);
	EtcdPlan   *plan;
	EtcdPath   *path;
	char	   *order = "";
	bool		paged = true;
	List	   *pathkeys = NIL;
	double		rows;
	double		offset;
	Cost		cost;

	if (rel == NULL || !is_plain_select(parse) || parse->hasAggs ||
		(parse->limitCount == NULL && parse->limitOffset == NULL) || parse->limitOption != LIMIT_OPTION_COUNT)
		return;
	plan = rel->fdw_private;
	/* What a skipped row's volatile functions do, they do in PostgreSQL's Limit. */
	if (!plan->limitable || contain_volatile_functions((Node *) root->upper_targets[UPPERREL_FINAL]->exprs))
		return;
	if (root->sort_pathkeys != NIL)
	{
		pathkeys = etcd_ordered_pathkeys(root->sort_pathkeys, rel, plan, &order, &paged);
		if (list_length(pathkeys) != list_length(root->sort_pathkeys))
			return;
	}
	rows = known_number(parse->limitCount, plan->fetched / 10);
	offset = Max(known_number(parse->limitOffset, 0), 0);
	if (!paged && (parse->limitCount == NULL || rows < 0 || rows + offset > MAX_SORTED_ROWS ||
				   !IsA(parse->limitCount, Const) ||
				   (parse->limitOffset != NULL && !IsA(parse->limitOffset, Const))))
		return;

	rows = rows < 0 ? plan->fetched : Min(rows + offset, plan->fetched);
	/* A Limit above the scan gets a whole first page; this one request brings no more than is wanted. */
	cost = 0.9 * (plan->startup_cost + (plan->total_cost - plan->startup_cost) * rows / Max(plan->fetched, 1));
	path = etcd_path_of(etcd_path_private(plan, strcmp(order, "key") == 0 ? "" : order));
	path->limited = true;
	path->limit = parse->limitCount;
	path->offset = parse->limitOffset;
	add_path(final, (Path *) compat_foreign_upper_path(root, rel, root->upper_targets[UPPERREL_FINAL],
													   clamp_row_est(rows - offset), Min(plan->startup_cost, cost), cost,
													   pathkeys, list_make1(path)));
}

/* ---- aggregates ---- */

/*
 * The aggregate as core names it; NULL when etcd cannot tell.
 */
static char *
aggregate_name(Aggref *agg, RelOptInfo *rel, EtcdPlan *plan)
{
	TargetEntry *argument = agg->args == NIL ? NULL : linitial_node(TargetEntry, agg->args);
	bool		is_min = agg->aggfnoid == F_MIN_TEXT || agg->aggfnoid == COMPAT_F_MIN_BYTEA;
	bool		is_max = agg->aggfnoid == F_MAX_TEXT || agg->aggfnoid == COMPAT_F_MAX_BYTEA;
	int			index = 0;
	ListCell   *lc;

	if (agg->agglevelsup != 0 || agg->aggfilter != NULL || agg->aggdistinct != NIL || agg->aggorder != NIL ||
		agg->aggsplit != AGGSPLIT_SIMPLE || list_length(agg->args) > 1)
		return NULL;
	if (agg->aggfnoid == F_COUNT_)
		return "count";
	if (argument == NULL)
		return NULL;
	if (agg->aggfnoid == F_COUNT_ANY && IsA(argument->expr, Const))
		return castNode(Const, argument->expr)->constisnull ? NULL : "count";
	foreach(lc, plan->targets)
	{
		int			attnum = list_nth_int(plan->orders, 3 * index++);

		if (strcmp(lfirst(lc), "key") != 0 || !etcd_is_column(argument->expr, rel, attnum))
			continue;
		/* No key is NULL, so that counting them is counting rows. */
		if (agg->aggfnoid == F_COUNT_ANY)
			return "count";
		if ((is_min || is_max) && (!OidIsValid(agg->inputcollid) || etcd_sorts_as_etcd(agg->inputcollid)))
			return is_min ? "min" : "max";
	}
	return NULL;
}

static void
add_aggregate_path(PlannerInfo *root, RelOptInfo *input, RelOptInfo *grouped)
{
	Query	   *parse = root->parse;
	PathTarget *target = root->upper_targets[UPPERREL_GROUP_AGG];
	RelOptInfo *rel = only_table(root, input);
	EtcdPlan   *plan;
	EtcdPath   *path;
	List	   *found;
	ListCell   *lc;

	if (rel == NULL || !parse->hasAggs || !is_plain_select(parse))
		return;
	plan = rel->fdw_private;
	if (!plan->countable)
		return;
	path = etcd_path_of(etcd_path_private(plan, ""));
	found = pull_var_clause((Node *) target->exprs, PVC_INCLUDE_AGGREGATES | PVC_INCLUDE_PLACEHOLDERS);
	foreach(lc, found)
	{
		char	   *name = IsA(lfirst(lc), Aggref) ? aggregate_name(lfirst(lc), rel, plan) : NULL;

		if (name == NULL)
			return;
		if (list_member(path->expressions, lfirst(lc)))
			continue;
		path->aggregates = lappend(path->aggregates, name);
		path->expressions = lappend(path->expressions, lfirst(lc));
	}
	if (path->aggregates == NIL || list_length(path->aggregates) * plan->ranges > MAX_READS)
		return;
	/* Not more than the one row by itself, which min and max by way of LIMIT 1 cost too. */
	add_path(grouped, (Path *) compat_foreign_upper_path(root, grouped, target, 1, plan->startup_cost * 0.9,
														 plan->startup_cost * 0.9, NIL, list_make1(path)));
}

static void
etcdGetForeignUpperPaths(PlannerInfo *root, UpperRelationKind stage, RelOptInfo *input, RelOptInfo *output,
						 void *extra)
{
	(void) extra;
	if (stage == UPPERREL_FINAL)
		add_limit_path(root, input, output);
	else if (stage == UPPERREL_GROUP_AGG)
		add_aggregate_path(root, input, output);
}

void
etcd_upper_callbacks(FdwRoutine *routine)
{
	routine->GetForeignUpperPaths = etcdGetForeignUpperPaths;
}
