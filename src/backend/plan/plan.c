/*
 * plan.c
 *	  Planner callbacks for scans of a foreign table.
 *
 * A call of core plans the scan: it is told the table, its options and the
 * conditions, and answers with the plan (opaque here), the conditions that
 * need no recheck, the columns to fill and the orders that etcd can deliver.
 * There is one call for the table by itself, and one for each set of outer
 * tables whose columns could look its keys up.  What a plan costs is
 * PostgreSQL's business and decided here.
 */
#include "postgres.h"

#include "base/compat.h"
#include "core/dispatch.h"
#include "plan/analyze.h"
#include "plan/describe.h"
#include "plan/explain.h"
#include "plan/plan.h"
#include "plan/qual.h"
#include "plan/upper.h"
#include "scan/feed.h"
#include "server/option.h"

#include "access/table.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Rows to expect of a table with nothing known about it. */
#define DEFAULT_TUPLES	1000.0

/*
 * Beside PostgreSQL's own costs, where 1 is a page from disk: a round trip to
 * etcd took as long as 400 to 600 rows of a page take on their way.
 */
#define REQUEST_COST	10.0
#define ROW_COST		0.01
#define SORTED_ROW_COST 0.02	/* etcd sorts the whole range for each page */
#define PAGE_ROWS		60000.0

/*
 * The attributes that the query reads of this table, offset as in
 * pull_varattnos().
 */
static Bitmapset *
used_attributes(RelOptInfo *rel)
{
	Bitmapset  *used = NULL;
	ListCell   *lc;

	pull_varattnos((Node *) rel->reltarget->exprs, rel->relid, &used);
	foreach(lc, rel->baserestrictinfo)
		pull_varattnos((Node *) lfirst_node(RestrictInfo, lc)->clause, rel->relid, &used);
	return used;
}

/*
 * Whether values are needed beside what the query reads: an UPDATE writes what
 * it does not set as it was, a DELETE may return it, unless the table shows none.
 */
static bool
needs_values(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	Query	   *parse = root->parse;
	bool		is_target = parse->resultRelation == (int) rel->relid ||
		bms_is_member(rel->relid, root->all_result_relids);

	return is_target && (parse->commandType == CMD_UPDATE ||
						 (parse->commandType == CMD_DELETE && parse->returningList != NIL &&
						  !etcd_table_flag(table, "keys_only")));
}

/*
 * Asks core for the plan under these conditions, RestrictInfos of `rel`.
 */
EtcdPlan *
etcd_plan_scan(PlannerInfo *root, RelOptInfo *rel, Oid table, List *clauses, Relids outer)
{
	EtcdPlan   *plan = palloc0(sizeof(EtcdPlan));
	Relation	relation = table_open(table, NoLock);
	StringInfoData input;
	EtcdAnswer	answer;

	initStringInfo(&input);
	etcd_describe_table(&input, relation, used_attributes(rel));
	table_close(relation, NoLock);
	if (needs_values(root, rel, table))
		appendStringInfoString(&input, ",\"values\":true");
	appendStringInfoString(&input, ",\"quals\":");
	/* What is not read from etcd is not narrowed by it. */
	etcd_describe_quals(&input, root, rel, table, etcd_feed_of(table) ? NIL : clauses, outer, &plan->params);
	appendStringInfoChar(&input, '}');
	etcd_dispatch(etcd_dispatch_function(GetForeignTable(table)->serverid), "plan", &input, &answer);
	etcd_read_plan(plan, table, answer.control);
	plan->clauses = clauses;
	return plan;
}

/*
 * Takes core's answer to "plan" apart.
 */
void
etcd_read_plan(EtcdPlan *plan, Oid table, Jsonb *answer)
{
	plan->table = table;
	plan->plan = etcd_json_text(answer, "plan");
	plan->exact = etcd_json_ints(answer, "exact");
	plan->used = etcd_json_ints(answer, "used");
	plan->columns = etcd_json_ints(answer, "columns");
	plan->paths = etcd_json_strings(answer, "paths");
	plan->literals = etcd_json_strings(answer, "literals");
	plan->rest = (int) etcd_json_number(answer, "rest");
	plan->strict = (int) etcd_json_number(answer, "strict");
	plan->strip = (int) etcd_json_number(answer, "strip");
	plan->serializable = (int) etcd_json_number(answer, "serializable");
	plan->values = (int) etcd_json_number(answer, "values");
	plan->targets = etcd_json_strings(answer, "targets");
	plan->orders = etcd_json_ints(answer, "orders");
	plan->limitable = etcd_json_number(answer, "limitable") != 0;
	plan->countable = etcd_json_number(answer, "countable") != 0;
	plan->keys = (int) etcd_json_number(answer, "keys");
	plan->ranges = (int) etcd_json_number(answer, "ranges");
	plan->lookup = etcd_json_strings(answer, "lookup");
}

/*
 * Whether the request alone fulfils all conditions.
 */
bool
etcd_all_exact(EtcdPlan *plan)
{
	return list_length(plan->exact) == list_length(plan->clauses);
}

static List *
members(List *list, List *indexes, bool wanted)
{
	List	   *result = NIL;
	int			index = 0;
	ListCell   *lc;

	foreach(lc, list)
	{
		if (list_member_int(indexes, index++) == wanted)
			result = lappend(result, lfirst(lc));
	}
	return result;
}

/*
 * What the plan costs in a table of so many rows.  `in_range` is how many keys
 * etcd has counted in the range, or -1.
 */
static void
estimate_plan(PlannerInfo *root, RelOptInfo *rel, EtcdPlan *plan, double tuples, double in_range)
{
	List	   *rechecked = members(plan->clauses, plan->exact, false);
	QualCost	recheck;
	double		requests = 1;

	plan->tuples = tuples;
	if (in_range >= 0)
		plan->fetched = in_range;
	else if (plan->keys >= 0)
		plan->fetched = Min(plan->keys, tuples);
	else
		plan->fetched = tuples * clauselist_selectivity(root, members(plan->clauses, plan->used, true),
														rel->relid, JOIN_INNER, NULL);
	plan->rows = clamp_row_est(plan->fetched * clauselist_selectivity(root, rechecked, rel->relid,
																	  JOIN_INNER, NULL));
	if (plan->keys > 0)
		requests = Max(1, plan->keys / 128.0);
	cost_qual_eval(&recheck, rechecked, root);
	plan->startup_cost = REQUEST_COST + recheck.startup;
	plan->total_cost = plan->startup_cost + (requests - 1) * REQUEST_COST +
		plan->fetched * (ROW_COST + cpu_tuple_cost + recheck.per_tuple + rel->reltarget->width * ROW_COST / 1024);
}

/*
 * Whether the executor will let the query run: rights are checked after
 * planning, and until then nobody's query may make etcd be asked.
 */
static bool
may_run(PlannerInfo *root)
{
	for (; root != NULL; root = root->parent_root)
	{
		if (!compat_check_permissions(root->parse))
			return false;
	}
	return true;
}

static void
etcdGetForeignRelSize(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	EtcdPlan   *plan = etcd_plan_scan(root, rel, table, rel->baserestrictinfo, NULL);
	const EtcdFeed *feed = etcd_feed_of(table);
	double		tuples = feed ? Max(1, feed->count) : rel->tuples > 0 ? rel->tuples : DEFAULT_TUPLES;
	double		in_range = -1;

	if (plan->keys < 0 && feed == NULL && etcd_uses_remote_estimate(table) && may_run(root))
	{
		in_range = etcd_remote_count(plan, OidIsValid(rel->userid) ? rel->userid : GetUserId());
		tuples = Max(in_range, rel->tuples);
	}
	estimate_plan(root, rel, plan, tuples, in_range);
	rel->rows = plan->rows;
	rel->tuples = Max(tuples, rel->rows);
	rel->fdw_private = plan;
}

/* ---- orders ---- */

bool
etcd_is_column(Expr *expr, RelOptInfo *rel, int attnum)
{
	while (IsA(expr, RelabelType))
		expr = ((RelabelType *) expr)->arg;
	return IsA(expr, Var) && ((Var *) expr)->varno == rel->relid &&
		((Var *) expr)->varattno == attnum && ((Var *) expr)->varlevelsup == 0;
}

/*
 * The order of etcd's that the path key asks for, as core names it; NULL when
 * there is none.
 */
char *
etcd_order_of(PathKey *pathkey, RelOptInfo *rel, EtcdPlan *plan, bool *paged)
{
	EquivalenceClass *ec = pathkey->pk_eclass;
	int			index = 0;
	ListCell   *target;

	if (ec->ec_has_volatile)
		return NULL;
	foreach(target, plan->targets)
	{
		int			attnum = list_nth_int(plan->orders, 3 * index);
		bool		bytes = list_nth_int(plan->orders, 3 * index + 1) != 0;
		bool		same = bytes
			? pathkey->pk_opfamily == BYTEA_BTREE_FAM_OID ||
			(pathkey->pk_opfamily == TEXT_BTREE_FAM_OID && etcd_sorts_as_etcd(ec->ec_collation))
			: pathkey->pk_opfamily == INTEGER_BTREE_FAM_OID;
		ListCell   *lc;

		*paged = list_nth_int(plan->orders, 3 * index + 2) != 0;
		index++;
		/* The transaction's own rows have no revision yet, and sort as NULLs. */
		if (!same || (!bytes && pathkey->pk_nulls_first == compat_pathkey_ascends(pathkey)))
			continue;
		foreach(lc, ec->ec_members)
		{
			if (etcd_is_column(lfirst_node(EquivalenceMember, lc)->em_expr, rel, attnum))
				return psprintf("%s%s", (char *) lfirst(target), compat_pathkey_ascends(pathkey) ? "" : " desc");
		}
	}
	return NULL;
}

/*
 * Whether the path key sorts by this table's columns alone.
 */
static bool
sorts_this_table(PathKey *pathkey, RelOptInfo *rel)
{
	ListCell   *lc;

	if (pathkey->pk_eclass->ec_has_volatile)
		return false;
	foreach(lc, pathkey->pk_eclass->ec_members)
	{
		if (bms_equal(lfirst_node(EquivalenceMember, lc)->em_relids, rel->relids))
			return true;
	}
	return false;
}

/*
 * How much of the wanted order one of etcd's orders fulfils; NIL for nothing.
 * Keys are unique, so that what follows a key among the table's own columns
 * makes no difference.
 */
List *
etcd_ordered_pathkeys(List *wanted, RelOptInfo *rel, EtcdPlan *plan, char **order, bool *paged)
{
	List	   *result;

	if (wanted == NIL)
		return NIL;
	*order = etcd_order_of(linitial(wanted), rel, plan, paged);
	if (*order == NULL)
		return NIL;
	result = list_make1(linitial(wanted));
	for (int i = 1; *paged && i < list_length(wanted) && sorts_this_table(list_nth(wanted, i), rel); i++)
		result = lappend(result, list_nth(wanted, i));
	return result;
}

/*
 * The order that keys come in anyway, as a path key that a merge join can use.
 */
static List *
natural_pathkeys(PlannerInfo *root, RelOptInfo *rel, EtcdPlan *plan)
{
	ListCell   *lc;

	if (!has_useful_pathkeys(root, rel))
		return NIL;
	foreach(lc, root->eq_classes)
	{
		EquivalenceClass *ec = lfirst_node(EquivalenceClass, lc);
		ListCell   *family;

		if (ec->ec_merged != NULL || !bms_is_subset(rel->relids, ec->ec_relids))
			continue;
		foreach(family, ec->ec_opfamilies)
		{
			PathKey    *pathkey = compat_ascending_pathkey(root, ec, lfirst_oid(family));
			bool		paged;
			char	   *order = etcd_order_of(pathkey, rel, plan, &paged);

			if (order != NULL && strcmp(order, "key") == 0)
				return list_make1(pathkey);
		}
	}
	return NIL;
}

List *
etcd_path_private(EtcdPlan *plan, const char *order)
{
	EtcdPath   *path = palloc0(sizeof(EtcdPath));

	path->plan = plan;
	path->order = pstrdup(order);
	return list_make1(path);
}

/*
 * Adds the path, in etcd's own order when that is of use, and again in the
 * other direction: descending, each page costs etcd a sort of the whole range.
 */
static void
add_scan_paths(PlannerInfo *root, RelOptInfo *rel, EtcdPlan *plan, Relids outer)
{
	double		rows = outer == NULL ? rel->rows : plan->rows;
	Cost		sorted = plan->fetched * SORTED_ROW_COST;
	double		pages = 1 + plan->fetched / PAGE_ROWS;
	char	   *order = NULL;
	bool		paged = false;
	List	   *pathkeys = etcd_ordered_pathkeys(root->query_pathkeys, rel, plan, &order, &paged);
	bool		ascending = pathkeys != NIL && strcmp(order, "key") == 0;

	add_path(rel, (Path *) compat_foreignscan_path(root, rel, rows, plan->startup_cost, plan->total_cost,
												   ascending ? pathkeys : natural_pathkeys(root, rel, plan), outer,
												   etcd_path_private(plan, "")));
	if (pathkeys != NIL && paged && !ascending)
		add_path(rel, (Path *) compat_foreignscan_path(root, rel, rows, plan->startup_cost + sorted,
													   plan->total_cost + pages * sorted, pathkeys, outer,
													   etcd_path_private(plan, order)));
}

/* ---- lookups from the outer side of a join ---- */

static void
add_lookup(PlannerInfo *root, RelOptInfo *rel, RestrictInfo *info, List **lookups)
{
	Relids		outer = bms_union(bms_difference(info->clause_relids, rel->relids), rel->lateral_relids);

	if (join_clause_is_movable_to(info, rel) && !bms_is_empty(outer))
		*lookups = list_append_unique_ptr(*lookups, get_baserel_parampathinfo(root, rel, outer));
}

typedef struct ColumnSearch
{
	Expr	   *current;		/* the column whose equalities are looked for */
	List	   *seen;
} ColumnSearch;

static bool
is_searched_column(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec, EquivalenceMember *em, void *arg)
{
	ColumnSearch *search = arg;

	(void) root;
	(void) rel;
	(void) ec;
	if (search->current == NULL && !list_member(search->seen, em->em_expr))
		search->current = em->em_expr;
	return search->current != NULL && equal(search->current, em->em_expr);
}

/*
 * Lookups by columns that equal another table's through an equivalence class.
 */
static void
equivalence_lookups(PlannerInfo *root, RelOptInfo *rel, List **lookups)
{
	ColumnSearch search = {NULL, NIL};

	for (;;)
	{
		List	   *clauses = generate_implied_equalities_for_column(root, rel, is_searched_column, &search,
																	 rel->lateral_referencers);
		ListCell   *lc;

		if (search.current == NULL)
			return;
		foreach(lc, clauses)
			add_lookup(root, rel, lfirst_node(RestrictInfo, lc), lookups);
		search.seen = lappend(search.seen, search.current);
		search.current = NULL;
	}
}

static void
add_lookup_paths(PlannerInfo *root, RelOptInfo *rel, EtcdPlan *base)
{
	List	   *lookups = NIL;
	ListCell   *lc;

	foreach(lc, rel->joininfo)
		add_lookup(root, rel, lfirst_node(RestrictInfo, lc), &lookups);
	if (rel->has_eclass_joins)
		equivalence_lookups(root, rel, &lookups);

	foreach(lc, lookups)
	{
		ParamPathInfo *info = lfirst(lc);
		List	   *clauses = list_concat_copy(rel->baserestrictinfo, info->ppi_clauses);
		EtcdPlan   *plan = etcd_plan_scan(root, rel, base->table, clauses, info->ppi_req_outer);

		/* Without use of the outer row, this would be a scan for each. */
		if (list_length(plan->used) <= list_length(base->used))
			continue;
		estimate_plan(root, rel, plan, base->tuples, -1);
		/* Keys are unique, which PostgreSQL's estimate does not know. */
		if (plan->keys >= 0)
			info->ppi_rows = clamp_row_est(Min(info->ppi_rows, plan->keys));
		plan->rows = info->ppi_rows;
		add_scan_paths(root, rel, plan, info->ppi_req_outer);
	}
}

static void
etcdGetForeignPaths(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	EtcdPlan   *plan = rel->fdw_private;

	(void) table;
	add_scan_paths(root, rel, plan, rel->lateral_relids);
	add_lookup_paths(root, rel, plan);
}

/* ---- the plan node ---- */

static List *
strings(List *texts)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, texts)
		result = lappend(result, makeString(lfirst(lc)));
	return result;
}

List *
etcd_scan_private(EtcdPath *path, List *param_types, int limit, int offset)
{
	EtcdPlan   *plan = path->plan;
	List	   *numbers = list_make5_int(plan->strip, plan->rest, plan->strict, limit, offset);
	List	   *result = list_make5(makeString(plan->plan), list_make1_oid(plan->table), plan->columns,
									strings(plan->paths), strings(plan->literals));

	result = lappend(result, lappend_int(lappend_int(numbers, plan->serializable), plan->values));
	result = lappend(result, param_types);
	result = lappend(result, makeString(path->order));
	result = lappend(result, strings(path->aggregates));
	return lappend(result, path->limited || path->aggregates != NIL ? NIL : strings(plan->lookup));
}

/*
 * The conditions that PostgreSQL checks again, and those that it need check
 * only when a row may have changed.
 */
static void
split_clauses(EtcdPlan *plan, List *clauses, List **recheck, List **local)
{
	List	   *exact = members(plan->clauses, plan->exact, true);
	ListCell   *lc;

	*recheck = *local = NIL;
	foreach(lc, clauses)
	{
		RestrictInfo *info = lfirst_node(RestrictInfo, lc);

		if (info->pseudoconstant)
			continue;
		if (list_member_ptr(exact, info))
			*recheck = lappend(*recheck, info->clause);
		else
			*local = lappend(*local, info->clause);
	}
}

/*
 * Whether policies of row-level security are a part of the statement, in which
 * case its plan is for a certain role.
 */
static bool
has_row_security(PlannerInfo *root)
{
	while (root->parent_root != NULL)
		root = root->parent_root;
	return root->parse->hasRowSecurity;
}

static ForeignScan *
etcdGetForeignPlan(PlannerInfo *root, RelOptInfo *rel, Oid table, ForeignPath *best_path,
				   List *targetlist, List *clauses, Plan *outer_plan)
{
	EtcdPath   *path = etcd_path_of(best_path->fdw_private);
	EtcdPlan   *plan = path->plan;
	List	   *param_types = NIL;
	List	   *exprs = list_copy(plan->params);
	List	   *scan_tlist = NIL;
	List	   *recheck;
	List	   *local;
	int			limit = -1;
	int			offset = -1;
	ListCell   *lc;

	(void) table;
	/* It says so to the scan, which asks what its role may name (setter.c). */
	if (has_row_security(root))
		root->glob->dependsOnRole = true;
	foreach(lc, plan->params)
		param_types = lappend_oid(param_types, exprType(lfirst(lc)));
	if (path->limit != NULL)
	{
		limit = list_length(exprs);
		exprs = lappend(exprs, path->limit);
	}
	if (path->offset != NULL)
	{
		offset = list_length(exprs);
		exprs = lappend(exprs, path->offset);
	}
	foreach(lc, path->expressions)
		scan_tlist = lappend(scan_tlist, makeTargetEntry(lfirst(lc), list_length(scan_tlist) + 1, NULL, false));
	split_clauses(plan, clauses, &recheck, &local);
	return make_foreignscan(targetlist, local, path->aggregates == NIL ? rel->relid : 0, exprs,
							etcd_scan_private(path, param_types, limit, offset),
							scan_tlist, recheck, outer_plan);
}

/*
 * A lookup from a partitioned table's row becomes one from a partition's.
 */
static List *
etcdReparameterizeForeignPathByChild(PlannerInfo *root, List *fdw_private, RelOptInfo *child_rel)
{
	EtcdPath   *path = palloc(sizeof(EtcdPath));

	*path = *etcd_path_of(fdw_private);
	path->plan = memcpy(palloc(sizeof(EtcdPlan)), path->plan, sizeof(EtcdPlan));
	path->plan->params = (List *) compat_adjust_attrs(root, (Node *) path->plan->params, child_rel);
	return list_make1(path);
}

void
etcd_plan_callbacks(FdwRoutine *routine)
{
	routine->GetForeignRelSize = etcdGetForeignRelSize;
	routine->GetForeignPaths = etcdGetForeignPaths;
	routine->GetForeignPlan = etcdGetForeignPlan;
	routine->ReparameterizeForeignPathByChild = etcdReparameterizeForeignPathByChild;
	etcd_upper_callbacks(routine);
	etcd_explain_callbacks(routine);
}
