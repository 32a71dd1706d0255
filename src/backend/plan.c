/*
 * plan.c
 *	  Planner callbacks and EXPLAIN.
 *
 * One call of core plans the scan: it is told the table, its options and the
 * conditions, and answers with the plan (opaque here), the conditions that
 * need no recheck, the columns to fill and an estimate.
 */
#include "postgres.h"

#include "compat.h"
#include "etcd_fdw.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_opfamily.h"
#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

/* RelOptInfo.fdw_private during planning. */
typedef struct EtcdPlan
{
	char	   *plan;
	List	   *exact;			/* integer: conditions that need no recheck */
	List	   *columns;
	int			strip;
	int			ordered;		/* attnum of the column that the rows ascend by, or 0 */
	List	   *params;
	Cost		startup_cost;
	Cost		total_cost;
} EtcdPlan;

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

static void
describe_columns(StringInfo buf, Relation relation, RelOptInfo *rel)
{
	Bitmapset  *used = used_attributes(rel);
	bool		whole_row = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used);
	TupleDesc	desc = RelationGetDescr(relation);
	bool		first = true;

	appendStringInfoChar(buf, '[');
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		appendStringInfo(buf, "%s{\"attnum\":%d,\"name\":", first ? "" : ",", att->attnum);
		escape_json(buf, NameStr(att->attname));
		appendStringInfoString(buf, ",\"type\":");
		escape_json(buf, format_type_be(att->atttypid));
		appendStringInfo(buf, ",\"used\":%s}",
						 whole_row || bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, used)
						 ? "true" : "false");
		first = false;
	}
	appendStringInfoChar(buf, ']');
}

static void
etcdGetForeignRelSize(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	EtcdPlan  *state = palloc0(sizeof(EtcdPlan));
	ForeignTable *foreign = GetForeignTable(table);
	ForeignServer *server = GetForeignServer(foreign->serverid);
	Relation	relation = table_open(table, NoLock);
	StringInfoData input;
	EtcdAnswer	answer;

	initStringInfo(&input);
	appendStringInfoString(&input, "{\"table\":");
	escape_json(&input, RelationGetRelationName(relation));
	appendStringInfoString(&input, ",\"server\":");
	etcd_options_json(&input, server->options);
	appendStringInfoString(&input, ",\"options\":");
	etcd_options_json(&input, foreign->options);
	appendStringInfoString(&input, ",\"columns\":");
	describe_columns(&input, relation, rel);
	table_close(relation, NoLock);
	appendStringInfoString(&input, ",\"quals\":");
	etcd_describe_quals(&input, root, rel, table, &state->params);
	appendStringInfoChar(&input, '}');

	etcd_dispatch(etcd_dispatch_function(foreign->serverid), "plan", &input, &answer);
	state->plan = etcd_json_text(answer.control, "plan");
	state->exact = etcd_json_ints(answer.control, "exact");
	state->columns = etcd_json_ints(answer.control, "columns");
	state->strip = (int) etcd_json_number(answer.control, "strip");
	state->ordered = (int) etcd_json_number(answer.control, "ordered");
	state->startup_cost = etcd_json_number(answer.control, "startup");
	state->total_cost = etcd_json_number(answer.control, "total");
	rel->rows = clamp_row_est(etcd_json_number(answer.control, "rows"));
	rel->fdw_private = state;
}

/*
 * Whether the rows come in this order: ascending by the column that core
 * named, compared as bytes are.
 */
static bool
is_etcd_order(PathKey *pathkey, RelOptInfo *rel, int attnum)
{
	EquivalenceClass *ec = pathkey->pk_eclass;
	ListCell   *lc;

	if (attnum == 0 || !compat_pathkey_ascends(pathkey) || ec->ec_has_volatile)
		return false;
	if (pathkey->pk_opfamily != BYTEA_BTREE_FAM_OID &&
		!(pathkey->pk_opfamily == TEXT_BTREE_FAM_OID && etcd_sorts_as_etcd(ec->ec_collation)))
		return false;
	foreach(lc, ec->ec_members)
	{
		Expr	   *expr = lfirst_node(EquivalenceMember, lc)->em_expr;

		while (IsA(expr, RelabelType))
			expr = ((RelabelType *) expr)->arg;
		if (IsA(expr, Var) && ((Var *) expr)->varno == rel->relid &&
			((Var *) expr)->varattno == attnum && ((Var *) expr)->varlevelsup == 0)
			return true;
	}
	return false;
}

/*
 * Keys are unique, so that an order that begins with the key is fulfilled by
 * the order of the key, as far as this table alone is concerned.
 */
static void
etcdGetForeignPaths(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	EtcdPlan   *state = rel->fdw_private;
	List	   *pathkeys = NIL;

	(void) table;
	if (root->query_pathkeys != NIL && is_etcd_order(linitial(root->query_pathkeys), rel, state->ordered))
		pathkeys = list_make1(linitial(root->query_pathkeys));
	add_path(rel, (Path *) compat_foreignscan_path(root, rel, rel->rows, state->startup_cost,
												   state->total_cost, pathkeys, rel->lateral_relids));
}

static ForeignScan *
etcdGetForeignPlan(PlannerInfo *root, RelOptInfo *rel, Oid table, ForeignPath *path,
				   List *targetlist, List *clauses, Plan *outer_plan)
{
	EtcdPlan  *state = rel->fdw_private;
	List	   *exact = NIL;
	List	   *recheck = NIL;
	List	   *param_types = NIL;
	ListCell   *lc;

	(void) root;
	(void) table;
	(void) path;
	foreach(lc, state->exact)
		exact = lappend(exact, list_nth(rel->baserestrictinfo, lfirst_int(lc)));
	foreach(lc, clauses)
	{
		RestrictInfo *info = lfirst_node(RestrictInfo, lc);

		if (info->pseudoconstant)
			continue;
		if (list_member_ptr(exact, info))
			recheck = lappend(recheck, info->clause);
	}
	clauses = extract_actual_clauses(list_difference_ptr(clauses, exact), false);
	foreach(lc, state->params)
		param_types = lappend_oid(param_types, exprType(lfirst(lc)));

	return make_foreignscan(targetlist, clauses, rel->relid, state->params,
							list_make4(makeString(state->plan), state->columns,
									   makeInteger(state->strip), param_types),
							NIL, recheck, outer_plan);
}

static void
etcdExplainForeignScan(ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = castNode(ForeignScan, node->ss.ps.plan);
	Oid			table = RelationGetRelid(node->ss.ss_currentRelation);
	List	   *context = NIL;
	StringInfoData input;
	EtcdAnswer	answer;
	List	   *lines;
	ListCell   *lc;

	initStringInfo(&input);
	appendStringInfoString(&input, "{\"plan\":");
	escape_json(&input, strVal(list_nth(plan->fdw_private, ETCD_SCAN_PLAN)));
	appendStringInfo(&input, ",\"verbose\":%s,\"params\":[", es->verbose ? "true" : "false");
	if (plan->fdw_exprs != NIL)
		context = set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan, NIL);
	foreach(lc, plan->fdw_exprs)
	{
		if (lc != list_head(plan->fdw_exprs))
			appendStringInfoChar(&input, ',');
		escape_json(&input, deparse_expression(lfirst(lc), context, es->verbose, false));
	}
	appendStringInfoString(&input, "]}");
	etcd_dispatch(etcd_dispatch_function(GetForeignTable(table)->serverid), "explain", &input, &answer);
	lines = etcd_json_strings(answer.control, "lines");
	for (int i = 0; i + 1 < list_length(lines); i += 2)
		ExplainPropertyText(list_nth(lines, i), list_nth(lines, i + 1), es);
}

void
etcd_plan_callbacks(FdwRoutine *routine)
{
	routine->GetForeignRelSize = etcdGetForeignRelSize;
	routine->GetForeignPaths = etcdGetForeignPaths;
	routine->GetForeignPlan = etcdGetForeignPlan;
	routine->ExplainForeignScan = etcdExplainForeignScan;
}
