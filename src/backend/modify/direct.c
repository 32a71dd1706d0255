/*
 * direct.c
 *	  DELETE that etcd can be told by ranges, and TRUNCATE: no row comes here.
 */
#include "postgres.h"

#include "base/compat.h"
#include "core/dispatch.h"
#include "ipc/request.h"
#include "constants.h"
#include "modify/direct.h"
#include "plan/analyze.h"
#include "scan/node.h"
#include "scan/private.h"
#include "server/option.h"
#include "txn/revision.h"
#include "txn/stage.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

typedef struct EtcdDirect
{
	Oid			userid;
	Oid			table;
	List	   *params;			/* of ExprState */
	List	   *param_types;
	List	   *plan;			/* the scan's private list */
	int64		named;			/* etcd_fdw.revision as it was when the query began */
	bool		set_processed;
	bool		done;
} EtcdDirect;

/*
 * The scan under the DELETE of this table, when all that it finds is to go.
 */
static ForeignScan *
direct_scan(ModifyTable *plan, Index relation, int subplan)
{
	Plan	   *outer = outerPlan(plan);
	ForeignScan *scan;

	if (outer == NULL || list_length(plan->resultRelations) != 1 || subplan != 0)
		return NULL;
	if (IsA(outer, Result) && outerPlan(outer) != NULL && ((Result *) outer)->resconstantqual == NULL)
		outer = outerPlan(outer);
	if (!IsA(outer, ForeignScan))
		return NULL;
	scan = (ForeignScan *) outer;
	return scan->scan.scanrelid == relation ? scan : NULL;
}

static bool
changes_rows(Query *query)
{
	return query->commandType != CMD_SELECT && query->commandType != CMD_INSERT;
}

/*
 * Whether another part of the statement, in a WITH or around it, changes rows
 * that are there: each row is changed once, and only rows that come here are
 * known to be (rows.c).
 */
static bool
changes_with_others(PlannerInfo *root)
{
	int			changing;
	ListCell   *lc;

	while (root->parent_root != NULL)
		root = root->parent_root;
	changing = changes_rows(root->parse) ? 1 : 0;
	foreach(lc, root->parse->cteList)
	{
		if (changes_rows(castNode(Query, lfirst_node(CommonTableExpr, lc)->ctequery)))
			changing++;
	}
	return changing > 1;
}

static bool
etcdPlanDirectModify(PlannerInfo *root, ModifyTable *plan, Index relation, int subplan)
{
	ForeignScan *scan = direct_scan(plan, relation, subplan);

	/* Keys that do not match a pattern are not rows, though they lie in its ranges. */
	if (plan->operation != CMD_DELETE || scan == NULL || plan->returningLists != NIL ||
		scan->scan.plan.qual != NIL || list_nth(scan->fdw_private, ETCD_SCAN_LITERALS) != NIL ||
		changes_with_others(root))
		return false;
	scan->operation = CMD_DELETE;
	scan->resultRelation = relation;
	scan->fdw_private = lappend(scan->fdw_private, makeInteger(plan->canSetTag));
	return true;
}

static void
etcdBeginDirectModify(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = castNode(ForeignScan, node->ss.ps.plan);
	EtcdDirect *direct;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	direct = palloc0(sizeof(EtcdDirect));
	direct->userid = compat_scan_user(plan, node->ss.ps.state);
	direct->table = linitial_oid(list_nth(plan->fdw_private, ETCD_SCAN_TABLE));
	direct->params = ExecInitExprList(plan->fdw_exprs, &node->ss.ps);
	direct->param_types = list_nth(plan->fdw_private, ETCD_SCAN_PARAM_TYPES);
	direct->plan = plan->fdw_private;
	direct->named = etcd_named_revision(direct->userid, node->ss.ps.state);
	direct->set_processed = intVal(llast(plan->fdw_private)) != 0;
	node->fdw_state = direct;
}

/*
 * Has the proxy delete what the plan finds; how many keys these are.
 */
static uint32
remove_keys(Oid userid, Oid table, List *fdw_private, const char *params, int64 revision, EState *estate,
			CommandId command)
{
	Oid			serverid = GetForeignTable(table)->serverid;
	bool		immediate = etcd_writes_at_once(table);
	bool		serializable = list_nth_int(list_nth(fdw_private, ETCD_SCAN_NUMBERS), ETCD_SCAN_SERIALIZABLE) != 0;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw remove", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	StringInfoData input;
	StringInfoData payload;
	EtcdAnswer	answer;
	EtcdStageReply reply = {0};

	if (revision == 0 && estate != NULL)
		revision = etcd_statement_revision(estate, serverid, serializable);
	initStringInfo(&input);
	appendStringInfoString(&input, "{\"plan\":");
	escape_json(&input, strVal(list_nth(fdw_private, ETCD_SCAN_PLAN)));
	appendStringInfo(&input, ",\"params\":[%s],\"revision\":\"" INT64_FORMAT "\",\"order\":\"\",\"limit\":null,\"aggregates\":[]}",
					 params, revision);
	etcd_dispatch(etcd_dispatch_function(serverid), "remove", &input, &answer);
	if (etcd_json_number(answer.control, "ranges") > 0)
	{
		initStringInfo(&payload);
		etcd_stage_header(&payload, (immediate ? STAGE_IMMEDIATE : 0) | etcd_stage_recorded(userid, serverid),
						  command, 0);
		appendBinaryStringInfo(&payload, answer.payload, answer.payload_len);
		(void) etcd_stage_note(userid, serverid, !immediate, command);
		etcd_stage_reply(etcd_stage(userid, serverid, STAGE_DELETE_RANGE, payload.data, payload.len, context), &reply);
		if (revision == 0 && estate != NULL && !immediate)
			etcd_set_statement_revision(estate, serverid, serializable, reply.revision, 0);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return reply.count;
}

static TupleTableSlot *
etcdIterateDirectModify(ForeignScanState *node)
{
	EtcdDirect *direct = node->fdw_state;
	EState	   *estate = node->ss.ps.state;
	StringInfoData params;
	uint32		count;

	if (direct->done)
		return ExecClearTuple(node->ss.ss_ScanTupleSlot);
	direct->done = true;
	etcd_eval_params(direct->params, direct->param_types, node->ss.ps.ps_ExprContext, &params);
	count = remove_keys(direct->userid, direct->table, direct->plan, params.data, direct->named, estate,
						estate->es_output_cid);
	if (direct->set_processed)
		estate->es_processed += count;
	if (node->ss.ps.instrument != NULL)
		node->ss.ps.instrument->tuplecount += count;
	return ExecClearTuple(node->ss.ss_ScanTupleSlot);
}

static void
etcdEndDirectModify(ForeignScanState *node)
{
	(void) node;
}

static void
etcdExecForeignTruncate(List *relations, DropBehavior behavior, bool restart_seqs)
{
	ListCell   *lc;

	(void) behavior;
	(void) restart_seqs;
	foreach(lc, relations)
	{
		Relation	relation = lfirst(lc);
		Oid			table = RelationGetRelid(relation);
		List	   *plan = etcd_whole_row(table);

		if (!etcd_table_flag(table, "updatable"))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("foreign table \"%s\" does not allow truncates", RelationGetRelationName(relation))));
		if (list_nth(plan, ETCD_SCAN_LITERALS) != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot truncate foreign table \"%s\" with a key_pattern", RelationGetRelationName(relation)),
					 errdetail("Keys that do not match it are not the table's, though they lie among them."),
					 errhint("Use DELETE.")));
		(void) remove_keys(GetUserId(), table, plan, "", etcd_named_revision(GetUserId(), NULL), NULL, GetCurrentCommandId(true));
	}
}

void
etcd_direct_callbacks(FdwRoutine *routine)
{
	routine->PlanDirectModify = etcdPlanDirectModify;
	routine->BeginDirectModify = etcdBeginDirectModify;
	routine->IterateDirectModify = etcdIterateDirectModify;
	routine->EndDirectModify = etcdEndDirectModify;
	routine->ExecForeignTruncate = etcdExecForeignTruncate;
}
