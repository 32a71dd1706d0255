/*
 * node.c
 *	  The executor's callbacks for a scan.
 */
#include "postgres.h"

#include "base/compat.h"
#include "core/input.h"
#include "scan/cell.h"
#include "scan/feed.h"
#include "scan/node.h"
#include "scan/private.h"
#include "scan/rows.h"
#include "scan/scan.h"

#include "foreign/fdwapi.h"
#include "utils/rel.h"

typedef struct EtcdScanNode
{
	EtcdScan   *scan;
	List	   *params;			/* of ExprState, LIMIT and OFFSET among them */
	List	   *param_types;
	int			limit;			/* indexes into params, or -1 */
	int			offset;
	bool		started;
	bool		values;			/* come with the keys */
	EtcdRows   *rows;			/* that the statement is to change; NULL for a mere scan */
} EtcdScanNode;

/*
 * Whether rows of the scan will be asked for by their ctid: by this statement's
 * own UPDATE or DELETE, by one in its WITH, or to be locked.
 */
static bool
identifies_rows(Index scanrelid, PlannedStmt *query)
{
	ListCell   *lc;

	if (scanrelid == 0)
		return false;
	foreach(lc, query->rowMarks)
	{
		PlanRowMark *mark = lfirst_node(PlanRowMark, lc);

		if (mark->rti == scanrelid && RowMarkRequiresRowShareLock(mark->markType))
			return true;
	}
	return list_member_int(query->resultRelations, scanrelid);
}

static void
etcdBeginForeignScan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = castNode(ForeignScan, node->ss.ps.plan);
	EState	   *estate = node->ss.ps.state;
	List	   *numbers = list_nth(plan->fdw_private, ETCD_SCAN_NUMBERS);
	EtcdScanNode *state;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state = palloc0(sizeof(EtcdScanNode));
	node->fdw_state = state;
	state->scan = etcd_scan_create(plan->fdw_private, compat_scan_user(plan, estate),
								   node->ss.ss_ScanTupleSlot->tts_tupleDescriptor, estate);
	if (identifies_rows(plan->scan.scanrelid, estate->es_plannedstmt))
	{
		state->rows = etcd_rows_create(estate, RelationGetRelid(node->ss.ss_currentRelation));
		etcd_rows_read_as(state->rows, state->scan->userid);
	}
	state->params = ExecInitExprList(plan->fdw_exprs, &node->ss.ps);
	state->param_types = list_nth(plan->fdw_private, ETCD_SCAN_PARAM_TYPES);
	state->limit = list_nth_int(numbers, ETCD_SCAN_LIMIT);
	state->offset = list_nth_int(numbers, ETCD_SCAN_OFFSET);
	state->values = list_nth_int(numbers, ETCD_SCAN_VALUES) != 0;
}

/*
 * The node's scan; NULL when the node is only explained.
 */
EtcdScan *
etcd_node_scan(ForeignScanState *node)
{
	EtcdScanNode *state = node->fdw_state;

	return state == NULL ? NULL : state->scan;
}

/*
 * The value of LIMIT or OFFSET; `otherwise` without one, and for NULL.
 */
static int64
row_count(ForeignScanState *node, EtcdScanNode *state, int index, int64 otherwise)
{
	bool		isnull;
	Datum		value;
	int64		count;

	if (index < 0)
		return otherwise;
	value = ExecEvalExprSwitchContext(list_nth(state->params, index), node->ss.ps.ps_ExprContext, &isnull);
	if (isnull)
		return otherwise;
	count = DatumGetInt64(value);
	if (count < 0 && index == state->limit)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_ROW_COUNT_IN_LIMIT_CLAUSE),
				 errmsg("LIMIT must not be negative")));
	if (count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE),
				 errmsg("OFFSET must not be negative")));
	return count;
}

/*
 * The values of params as core takes them, with commas between.
 */
void
etcd_eval_params(List *params, List *types, ExprContext *econtext, StringInfo buf)
{
	int			index = 0;
	ListCell   *type;

	initStringInfo(buf);
	foreach(type, types)
	{
		bool		isnull;
		Datum		datum = ExecEvalExpr((ExprState *) list_nth(params, index), econtext, &isnull);

		if (index++ > 0)
			appendStringInfoChar(buf, ',');
		if (isnull)
			appendStringInfoString(buf, "null");
		else
			etcd_append_param(buf, datum, lfirst_oid(type));
	}
}

static void
start_node(ForeignScanState *node, EtcdScanNode *state)
{
	ExprContext *econtext = node->ss.ps.ps_ExprContext;
	MemoryContext old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	StringInfoData params;

	etcd_eval_params(state->params, state->param_types, econtext, &params);
	etcd_scan_start(state->scan, &params, row_count(node, state, state->limit, -1),
					row_count(node, state, state->offset, 0));
	MemoryContextSwitchTo(old);
	state->started = true;
}

static TupleTableSlot *
etcdIterateForeignScan(ForeignScanState *node)
{
	EtcdScanNode *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	EtcdKeyValue kv;

	ExecClearTuple(slot);
	if (!state->started)
		start_node(node, state);
	if (state->scan->aggregates != NIL)
	{
		if (etcd_scan_aggregates(state->scan, slot->tts_values, slot->tts_isnull))
			ExecStoreVirtualTuple(slot);
		return slot;
	}
	if (etcd_scan_next(state->scan, &kv))
	{
		memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
		if (state->scan->feed != NULL && state->scan->feed->kind == ETCD_FEED_RAW)
		{
			state->scan->feed->take(state->scan->feed->arg, &kv);
			return ExecStoreVirtualTuple(slot);
		}
		etcd_cells_fill(state->scan->cells, &kv, slot->tts_values, slot->tts_isnull);
		ExecStoreVirtualTuple(slot);
		if (state->rows != NULL)
			etcd_rows_add(state->rows, &kv, state->values, &slot->tts_tid);
	}
	return slot;
}

static void
etcdReScanForeignScan(ForeignScanState *node)
{
	((EtcdScanNode *) node->fdw_state)->started = false;
}

static void
etcdEndForeignScan(ForeignScanState *node)
{
	EtcdScanNode *state = node->fdw_state;

	if (state == NULL)
		return;
	if (state->rows != NULL)
		etcd_rows_close(state->rows);
	etcd_scan_end(state->scan);
}

void
etcd_scan_callbacks(FdwRoutine *routine)
{
	routine->BeginForeignScan = etcdBeginForeignScan;
	routine->IterateForeignScan = etcdIterateForeignScan;
	routine->ReScanForeignScan = etcdReScanForeignScan;
	routine->EndForeignScan = etcdEndForeignScan;
}
