/*
 * explain.c
 *	  What EXPLAIN says about a scan: core words the request, the scan counts.
 */
#include "postgres.h"

#include "base/compat.h"
#include "core/dispatch.h"
#include "plan/ancestors.h"
#include "plan/explain.h"
#include "scan/node.h"
#include "scan/private.h"
#include "txn/revision.h"

#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

static void
append_expression(StringInfo buf, const char *name, List *expressions, int index)
{
	appendStringInfo(buf, ",\"%s\":", name);
	escape_json(buf, index < 0 ? "" : list_nth(expressions, index));
}

/*
 * An expression as SQL; a number without the cast that the parser put there.
 */
static char *
deparse(Node *expression, List *context, bool verbose)
{
	if (IsA(expression, Const) && castNode(Const, expression)->consttype == INT8OID &&
		!castNode(Const, expression)->constisnull)
		return psprintf(INT64_FORMAT, DatumGetInt64(castNode(Const, expression)->constvalue));
	return deparse_expression(expression, context, verbose, false);
}

/*
 * Params of the executor as such of the query, which are shown by their
 * numbers.
 */
static Node *
number_params(Node *node, void *context)
{
	if (node != NULL && IsA(node, Param))
	{
		Param	   *param = copyObject((Param *) node);

		param->paramkind = PARAM_EXTERN;
		return (Node *) param;
	}
	return expression_tree_mutator(node, number_params, context);
}

/*
 * The expressions that are evaluated when the scan starts, as SQL.
 */
static List *
deparse_expressions(ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = castNode(ForeignScan, node->ss.ps.plan);
	List	   *expressions = plan->fdw_exprs;
	List	   *ancestors;
	List	   *context;
	List	   *result = NIL;
	ListCell   *lc;

	if (expressions == NIL)
		return NIL;
	/* A param that is not found above would be a failed assertion. */
	if (!etcd_find_ancestors(es->pstmt, &plan->scan.plan, &ancestors))
		expressions = (List *) number_params((Node *) expressions, NULL);
	context = set_deparse_context_plan(es->deparse_cxt, &plan->scan.plan, ancestors);
	foreach(lc, expressions)
		result = lappend(result, deparse(lfirst(lc), context, es->verbose));
	return result;
}

static void
describe_request(StringInfo buf, ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = castNode(ForeignScan, node->ss.ps.plan);
	List	   *private = plan->fdw_private;
	List	   *numbers = list_nth(private, ETCD_SCAN_NUMBERS);
	List	   *expressions = deparse_expressions(node, es);
	int			nparams = list_length(list_nth(private, ETCD_SCAN_PARAM_TYPES));
	List	   *aggregates = list_nth(private, ETCD_SCAN_AGGREGATES);
	ListCell   *lc;

	appendStringInfoString(buf, "{\"plan\":");
	escape_json(buf, strVal(list_nth(private, ETCD_SCAN_PLAN)));
	appendStringInfo(buf, ",\"verbose\":%s,\"revision\":\"" INT64_FORMAT "\",\"order\":\"%s\",\"params\":[",
					 es->verbose ? "true" : "false",
					 etcd_named_revision(compat_scan_user(plan, node->ss.ps.state), node->ss.ps.state),
					 strVal(list_nth(private, ETCD_SCAN_ORDER)));
	for (int i = 0; i < nparams; i++)
	{
		if (i > 0)
			appendStringInfoChar(buf, ',');
		escape_json(buf, list_nth(expressions, i));
	}
	appendStringInfoString(buf, "],\"aggregates\":[");
	foreach(lc, aggregates)
		appendStringInfo(buf, "%s\"%s\"", lc == list_head(aggregates) ? "" : ",", strVal(lfirst(lc)));
	appendStringInfoChar(buf, ']');
	append_expression(buf, "limit", expressions, list_nth_int(numbers, ETCD_SCAN_LIMIT));
	append_expression(buf, "offset", expressions, list_nth_int(numbers, ETCD_SCAN_OFFSET));
	appendStringInfoChar(buf, '}');
}

static void
explain_counters(const EtcdCounters *counters, ExplainState *es)
{
	ExplainPropertyUInteger("Etcd Requests", NULL, counters->requests, es);
	ExplainPropertyUInteger("Etcd Pages", NULL, counters->pages, es);
	ExplainPropertyUInteger("Etcd Bytes", NULL, counters->bytes, es);
	ExplainPropertyUInteger("Etcd Rows", NULL, counters->rows, es);
	/* Those that the proxy has answered by itself. */
	if (counters->cached > 0)
		ExplainPropertyUInteger("Etcd Cached Pages", NULL, counters->cached, es);
}

static void
etcdExplainForeignScan(ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = castNode(ForeignScan, node->ss.ps.plan);
	Oid			table = linitial_oid(list_nth(plan->fdw_private, ETCD_SCAN_TABLE));
	/* A DELETE that is sent as it is has no scan. */
	EtcdScan   *scan = plan->operation == CMD_SELECT ? etcd_node_scan(node) : NULL;
	StringInfoData input;
	EtcdAnswer	answer;
	List	   *lines;

	/* A scan of aggregates names no relation by itself. */
	if (plan->scan.scanrelid == 0)
		ExplainPropertyText("Etcd Table", get_rel_name(table), es);
	initStringInfo(&input);
	describe_request(&input, node, es);
	etcd_dispatch(etcd_dispatch_function(GetForeignTable(table)->serverid), "explain", &input, &answer);
	lines = etcd_json_strings(answer.control, "lines");
	for (int i = 0; i + 1 < list_length(lines); i += 2)
		ExplainPropertyText(list_nth(lines, i), list_nth(lines, i + 1), es);
	if (es->analyze && scan != NULL)
		explain_counters(&scan->counters, es);
}

void
etcd_explain_callbacks(FdwRoutine *routine)
{
	routine->ExplainForeignScan = etcdExplainForeignScan;
	routine->ExplainDirectModify = etcdExplainForeignScan;
}
