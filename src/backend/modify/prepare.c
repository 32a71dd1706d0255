/*
 * prepare.c
 *	  What may be changed, and how: planning of INSERT, UPDATE and DELETE.
 */
#include "postgres.h"

#include "base/compat.h"
#include "core/dispatch.h"
#include "modify/prepare.h"
#include "plan/analyze.h"
#include "plan/describe.h"
#include "server/option.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "optimizer/inherit.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/rel.h"

static int
etcdIsForeignRelUpdatable(Relation relation)
{
	if (!etcd_table_flag(RelationGetRelid(relation), "updatable"))
		return 0;
	return (1 << CMD_INSERT) | (1 << CMD_UPDATE) | (1 << CMD_DELETE);
}

static void
etcdAddForeignUpdateTargets(PlannerInfo *root, Index rtindex, RangeTblEntry *rte, Relation relation)
{
	Var		   *tid = makeVar(rtindex, SelfItemPointerAttributeNumber, TIDOID, -1, InvalidOid, 0);

	(void) rte;
	(void) relation;
	add_row_identity_var(root, tid, rtindex, "ctid");
}

/*
 * The columns that the statement sets, as attnums; generated columns set
 * themselves.
 */
static Bitmapset *
assigned_columns(Relation relation, Bitmapset *updated)
{
	TupleDesc	desc = RelationGetDescr(relation);
	Bitmapset  *result = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped &&
			(att->attgenerated != '\0' ||
			 bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, updated)))
			result = bms_add_member(result, att->attnum);
	}
	return result;
}

static Bitmapset *
offset_columns(Bitmapset *attnums)
{
	Bitmapset  *result = NULL;
	int			attnum = -1;

	while ((attnum = bms_next_member(attnums, attnum)) >= 0)
		result = bms_add_member(result, attnum - FirstLowInvalidHeapAttributeNumber);
	return result;
}

/*
 * Core's plan for the operation, as text.
 */
char *
etcd_plan_modify(Relation relation, const char *operation, Bitmapset *assigned)
{
	StringInfoData input;
	EtcdAnswer	answer;

	initStringInfo(&input);
	etcd_describe_table(&input, relation, offset_columns(assigned));
	appendStringInfo(&input, ",\"operation\":\"%s\"}", operation);
	etcd_dispatch(etcd_dispatch_function(GetForeignTable(RelationGetRelid(relation))->serverid),
				  "modify", &input, &answer);
	return JsonbToCString(NULL, &answer.control->root, 0);
}

static List *
attnum_list(Bitmapset *attnums)
{
	List	   *result = NIL;
	int			attnum = -1;

	while ((attnum = bms_next_member(attnums, attnum)) >= 0)
		result = lappend_int(result, attnum);
	return result;
}

static List *
etcdPlanForeignModify(PlannerInfo *root, ModifyTable *plan, Index index, int subplan)
{
	RangeTblEntry *rte = planner_rt_fetch(index, root);
	Relation	relation = table_open(rte->relid, NoLock);
	Bitmapset  *assigned = NULL;
	const char *operation = plan->operation == CMD_INSERT ? "insert"
		: plan->operation == CMD_UPDATE ? "update" : "delete";
	char	   *text;

	(void) subplan;
	if (plan->onConflictAction == ONCONFLICT_UPDATE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("INSERT ... ON CONFLICT DO UPDATE is not supported on foreign tables"),
				 errhint("The table's option upsert 'true' makes INSERT overwrite.")));
	if (plan->operation == CMD_UPDATE)
		assigned = assigned_columns(relation, get_rel_all_updated_cols(root, find_base_rel(root, index)));
	text = etcd_plan_modify(relation, operation, assigned);
	table_close(relation, NoLock);
	return list_make4(makeString(text), attnum_list(assigned),
					  makeInteger(plan->onConflictAction == ONCONFLICT_NOTHING),
					  plan->returningLists != NIL ? etcd_whole_row(rte->relid) : NIL);
}

static void
etcdExplainForeignModify(ModifyTableState *mtstate, ResultRelInfo *rinfo, List *fdw_private, int subplan,
						 struct ExplainState *es)
{
	Oid			table = RelationGetRelid(rinfo->ri_RelationDesc);

	(void) mtstate;
	(void) fdw_private;
	(void) subplan;
	if (es->verbose)
		ExplainPropertyText("Etcd Write", etcd_writes_at_once(table) ? "immediate" : "at commit", es);
}

void
etcd_prepare_callbacks(FdwRoutine *routine)
{
	routine->IsForeignRelUpdatable = etcdIsForeignRelUpdatable;
	routine->AddForeignUpdateTargets = etcdAddForeignUpdateTargets;
	routine->PlanForeignModify = etcdPlanForeignModify;
	routine->ExplainForeignModify = etcdExplainForeignModify;
}
