/*
 * modify.c
 *	  INSERT, UPDATE, DELETE, COPY FROM and TRUNCATE, row by row or in batches.
 *
 * A row's write goes to the proxy, which keeps it until the transaction
 * commits; nothing is waited for, unless a key that exists must be an error of
 * this very statement.  In a transaction that is this statement alone, the
 * commit tells it just as well.  With write_mode 'immediate', batches go
 * to etcd as they come, some of them at a time.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "base/compat.h"
#include "core/dispatch.h"
#include "ipc/request.h"
#include "constants.h"
#include "modify/encode.h"
#include "modify/modify.h"
#include "modify/show.h"
#include "plan/analyze.h"
#include "plan/describe.h"
#include "scan/cell.h"
#include "scan/rows.h"
#include "server/option.h"
#include "txn/stage.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "optimizer/inherit.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Rows of a batch, and batches on their way with write_mode 'immediate'. */
#define BATCH_ROWS		1024
#define MAX_IN_FLIGHT	16
/* Bytes of rows that go in one frame, unless a row is larger by itself: with write_mode 'immediate', etcd takes them at once. */
#define BATCH_BYTES		(1024 * 1024)
/* Of a WRITE's payload (src/ipc/stage.ts): its header, and what comes before the length of an entry's key. */
#define WRITE_HEADER	9
#define ENTRY_HEADER	(1 + 4 * 8)

/* ---- what may be changed ---- */

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

/* ---- planning ---- */

/*
 * The columns that the statement sets, as attnums.  Triggers may set others,
 * and generated columns set themselves.
 */
static Bitmapset *
assigned_columns(Relation relation, Bitmapset *updated)
{
	TupleDesc	desc = RelationGetDescr(relation);
	TriggerDesc *triggers = relation->trigdesc;
	bool		all = triggers != NULL && triggers->trig_update_before_row;
	Bitmapset  *result = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped &&
			(all || att->attgenerated != '\0' ||
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
static char *
plan_modify(Relation relation, const char *operation, Bitmapset *assigned)
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
	text = plan_modify(relation, operation, assigned);
	table_close(relation, NoLock);
	return list_make4(makeString(text), attnum_list(assigned),
					  makeInteger(plan->onConflictAction == ONCONFLICT_NOTHING),
					  plan->operation == CMD_DELETE && plan->returningLists != NIL ? etcd_whole_row(rte->relid) : NIL);
}

/* ---- beginning and end ---- */

static EtcdModify *
create_modify(EState *estate, ResultRelInfo *rinfo, const char *plan, Bitmapset *assigned, bool skip)
{
	Relation	relation = rinfo->ri_RelationDesc;
	Oid			table = RelationGetRelid(relation);
	EtcdModify *modify = palloc0(sizeof(EtcdModify));

	modify->writer = etcd_writer_create(relation, plan, assigned);
	modify->estate = estate;
	modify->userid = compat_modify_user(rinfo, estate);
	modify->serverid = GetForeignTable(table)->serverid;
	modify->upsert = etcd_table_flag(table, "upsert");
	modify->immediate = etcd_writes_at_once(table);
	modify->skip = skip;
	/* Alone in its transaction, the statement fails with the commit. */
	modify->check = skip || (!modify->upsert && !modify->immediate &&
							 (IsTransactionBlock() || GetCurrentTransactionNestLevel() > 1));
	modify->work = AllocSetContextCreate(estate->es_query_cxt, "etcd_fdw modify", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&modify->payload);
	return modify;
}

static void
etcdBeginForeignModify(ModifyTableState *mtstate, ResultRelInfo *rinfo, List *fdw_private, int subplan, int eflags)
{
	EtcdModify *modify;
	Bitmapset  *assigned = NULL;
	ListCell   *lc;

	(void) subplan;
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	foreach(lc, (List *) lsecond(fdw_private))
		assigned = bms_add_member(assigned, lfirst_int(lc));
	modify = create_modify(mtstate->ps.state, rinfo, strVal(linitial(fdw_private)), assigned,
						   intVal(lthird(fdw_private)) != 0);
	if (mtstate->operation != CMD_INSERT)
	{
		modify->tid_attno = ExecFindJunkAttributeInTlist(outerPlanState(mtstate)->plan->targetlist, "ctid");
		if (!AttributeNumberIsValid(modify->tid_attno))
			elog(ERROR, "could not find junk ctid column");
	}
	if (lfourth(fdw_private) != NIL)
		modify->cells = etcd_cells_create(RelationGetRelid(rinfo->ri_RelationDesc), lfourth(fdw_private),
										  RelationGetDescr(rinfo->ri_RelationDesc));
	rinfo->ri_FdwState = modify;
}

static void
etcdBeginForeignInsert(ModifyTableState *mtstate, ResultRelInfo *rinfo)
{
	ModifyTable *plan = castNode(ModifyTable, mtstate->ps.plan);
	Relation	relation = rinfo->ri_RelationDesc;

	if (plan != NULL && plan->onConflictAction == ONCONFLICT_UPDATE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("INSERT ... ON CONFLICT DO UPDATE is not supported on foreign tables")));
	/* A row that an UPDATE moves out of another partition. */
	if (rinfo->ri_FdwState != NULL)
		return;
	rinfo->ri_FdwState = create_modify(mtstate->ps.state, rinfo, plan_modify(relation, "insert", NULL), NULL,
									   plan != NULL && plan->onConflictAction == ONCONFLICT_NOTHING);
}

static void
await_oldest(EtcdModify *modify)
{
	EtcdRequest *request = linitial(modify->in_flight);
	MemoryContext context = request->context;
	EtcdStageReply reply;

	etcd_stage_reply(request, &reply);
	modify->in_flight = list_delete_first(modify->in_flight);
	MemoryContextDelete(context);
}

static void
etcdEndForeignModify(EState *estate, ResultRelInfo *rinfo)
{
	EtcdModify *modify = rinfo->ri_FdwState;

	(void) estate;
	if (modify == NULL)
		return;
	while (modify->in_flight != NIL)
		await_oldest(modify);
}

/* ---- writing ---- */

static void
begin_payload(EtcdModify *modify)
{
	uint8		flags = (modify->check ? STAGE_CHECK : 0) | (modify->immediate ? STAGE_IMMEDIATE : 0);

	resetStringInfo(&modify->payload);
	etcd_stage_header(&modify->payload, flags, modify->estate->es_output_cid);
}

/*
 * Appends an entry up to its key's length; the key and the value follow.
 */
static void
append_entry(StringInfo buf, uint8 kind, const EtcdRow *old, int64 lease)
{
	const int64 none[4] = {0};
	const int64 *numbers = old != NULL ? old->kv.numbers : none;

	appendStringInfoChar(buf, (char) kind);
	etcd_append_int64(buf, numbers[ETCD_MOD_REVISION - ETCD_CREATE_REVISION]);
	etcd_append_int64(buf, numbers[0]);
	etcd_append_int64(buf, numbers[ETCD_VERSION - ETCD_CREATE_REVISION]);
	etcd_append_int64(buf, lease);
}

static void
append_bytes(StringInfo buf, const char *data, uint32 len)
{
	etcd_append_uint32(buf, len);
	appendBinaryStringInfo(buf, data, len);
}

/*
 * Sends a WRITE.  With `wait`, the answer is read; otherwise what goes wrong is
 * told later.
 */
static void
send_write(EtcdModify *modify, const char *payload, int len, bool wait, EtcdStageReply *reply)
{
	MemoryContext context = NULL;
	EtcdRequest *request;

	wait = wait || modify->check;
	if (wait || modify->immediate)
		context = AllocSetContextCreate(modify->estate->es_query_cxt, "etcd_fdw write", ALLOCSET_SMALL_SIZES);
	etcd_stage_note(modify->userid, modify->serverid, !modify->immediate);
	request = etcd_stage(modify->userid, modify->serverid, STAGE_WRITE, payload, len,
						 context);
	memset(reply, 0, sizeof(*reply));
	if (wait)
	{
		etcd_stage_reply(request, reply);
		MemoryContextDelete(context);
	}
	else if (modify->immediate)
	{
		MemoryContext old = MemoryContextSwitchTo(modify->estate->es_query_cxt);

		modify->in_flight = lappend(modify->in_flight, request);
		MemoryContextSwitchTo(old);
		/* Writes of one key must keep their order, which only INSERT has no need of. */
		while (list_length(modify->in_flight) >= (modify->upsert ? 1 : MAX_IN_FLIGHT))
			await_oldest(modify);
	}
}

/*
 * Where the entry that begins here ends.
 */
static char *
entry_end(char *entry)
{
	char	   *end = entry + ENTRY_HEADER;

	for (int part = 0; part < 2; part++)	/* the key, the value */
		end += sizeof(uint32) + etcd_get_uint32(end);
	if (end - entry > FRAME_MAX_PAYLOAD - WRITE_HEADER)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row is too large for etcd"),
				 errdetail("It takes %zu bytes.", (Size) (end - entry)),
				 errhint("etcd takes 1.5 MB in a request unless its --max-request-bytes says otherwise.")));
	return end;
}

/*
 * Sends what the payload holds, in pieces of bounded size: one frame of all rows
 * could be larger than a frame may be.
 */
static void
send_payload(EtcdModify *modify, bool wait, EtcdStageReply *reply)
{
	char	   *end = modify->payload.data + modify->payload.len;
	char	   *from = modify->payload.data + WRITE_HEADER;
	char		header[WRITE_HEADER];
	char		covered[WRITE_HEADER];
	List	   *refused = NIL;
	int			sent = 0;

	memcpy(header, modify->payload.data, WRITE_HEADER);
	while (from < end)
	{
		char	   *to = entry_end(from);
		int			entries = 1;
		ListCell   *lc;

		while (to < end && entry_end(to) - from <= BATCH_BYTES)
		{
			to = entry_end(to);
			entries++;
		}
		/* A piece's header lies over what was sent before it, which is still to be read. */
		memcpy(covered, from - WRITE_HEADER, WRITE_HEADER);
		memcpy(from - WRITE_HEADER, header, WRITE_HEADER);
		send_write(modify, from - WRITE_HEADER, (int) (to - from) + WRITE_HEADER, wait, reply);
		memcpy(from - WRITE_HEADER, covered, WRITE_HEADER);
		foreach(lc, reply->refused)
			refused = lappend_int(refused, sent + lfirst_int(lc));
		sent += entries;
		from = to;
	}
	reply->refused = refused;
}

static void
duplicate_key(EtcdModify *modify, const char *key, int len)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("duplicate key in foreign table \"%s\"", RelationGetRelationName(modify->writer->relation)),
			 errdetail("Key \"%s\" already exists in etcd.", etcd_printable(key, len)),
			 errtable(modify->writer->relation)));
}

/*
 * Inserts rows; returns the list of indexes that were refused because their
 * keys exist, which only happens with ON CONFLICT DO NOTHING.
 */
static List *
insert_rows(EtcdModify *modify, ResultRelInfo *rinfo, TupleTableSlot **slots, int count)
{
	bool		shown = etcd_shows_rows(rinfo);
	int64	   *leases = palloc(count * sizeof(int64));
	int		   *keys = palloc(count * sizeof(int));
	EtcdStageReply reply;

	begin_payload(modify);
	for (int i = 0; i < count; i++)
	{
		StringInfoData part;

		etcd_check_maintained(modify->writer, slots[i]);
		initStringInfo(&part);
		leases[i] = etcd_row_lease(modify, slots[i], NULL);
		append_entry(&modify->payload, modify->upsert ? STAGE_UPSERT : STAGE_INSERT, NULL, leases[i]);
		etcd_write_key(modify->writer, slots[i], NULL, &part);
		keys[i] = modify->payload.len;
		append_bytes(&modify->payload, part.data, part.len);
		resetStringInfo(&part);
		etcd_write_value(modify->writer, slots[i], NULL, &part);
		append_bytes(&modify->payload, part.data, part.len);
	}
	send_payload(modify, modify->immediate && shown, &reply);
	if (reply.refused != NIL && !modify->skip)
	{
		char	   *key = modify->payload.data + keys[linitial_int(reply.refused)];
		uint32		len;

		memcpy(&len, key, sizeof(len));
		duplicate_key(modify, key + sizeof(len), (int) pg_ntoh32(len));
	}
	for (int i = 0; shown && i < count; i++)
		etcd_show_row(modify, slots[i], NULL, leases[i], reply.revision);
	return reply.refused;
}

static TupleTableSlot *
etcdExecForeignInsert(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	EtcdModify *modify = rinfo->ri_FdwState;
	MemoryContext old = MemoryContextSwitchTo(modify->work);
	bool		refused;

	(void) estate;
	(void) plan_slot;
	refused = insert_rows(modify, rinfo, &slot, 1) != NIL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(modify->work);
	return refused ? NULL : slot;
}

static TupleTableSlot **
etcdExecForeignBatchInsert(EState *estate, ResultRelInfo *rinfo, TupleTableSlot **slots,
						   TupleTableSlot **plan_slots, int *count)
{
	EtcdModify *modify = rinfo->ri_FdwState;
	MemoryContext old = MemoryContextSwitchTo(modify->work);

	(void) estate;
	(void) plan_slots;
	*count -= list_length(insert_rows(modify, rinfo, slots, *count));
	MemoryContextSwitchTo(old);
	MemoryContextReset(modify->work);
	return slots;
}

/*
 * Batches only where nobody looks at the single row.
 */
static int
etcdGetForeignModifyBatchSize(ResultRelInfo *rinfo)
{
	TriggerDesc *triggers = rinfo->ri_TrigDesc;

	if (etcd_shows_rows(rinfo) || (triggers != NULL && triggers->trig_insert_before_row))
		return 1;
	return BATCH_ROWS;
}

static EtcdRow *
row_to_change(EtcdModify *modify, TupleTableSlot *plan_slot)
{
	bool		isnull;
	Datum		tid = ExecGetJunkAttribute(plan_slot, modify->tid_attno, &isnull);

	if (isnull)
		elog(ERROR, "ctid is NULL");
	return etcd_rows_find(modify->estate, RelationGetRelid(modify->writer->relation), (ItemPointer) DatumGetPointer(tid));
}

static TupleTableSlot *
etcdExecForeignUpdate(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	EtcdModify *modify = rinfo->ri_FdwState;
	EtcdWriter *writer = modify->writer;
	EtcdRow    *row = row_to_change(modify, plan_slot);
	MemoryContext old;
	StringInfoData key;
	StringInfoData value;
	int64		lease;
	bool		renamed;
	EtcdStageReply reply;

	(void) estate;
	/* As with a local table, a row is changed once by a statement. */
	if (row->changed)
		return NULL;
	old = MemoryContextSwitchTo(modify->work);
	initStringInfo(&key);
	initStringInfo(&value);
	renamed = etcd_writer_sets(writer, writer->key, row);
	for (int i = 0; i < list_length(writer->segments); i++)
		renamed = renamed || etcd_writer_sets(writer, list_nth_int(writer->segments, i), row);
	if (renamed)
	{
		etcd_write_key(writer, slot, row, &key);
		renamed = key.len != (int) row->kv.key_len || memcmp(key.data, row->kv.key, key.len) != 0;
	}
	lease = etcd_row_lease(modify, slot, row);
	etcd_write_value(writer, slot, row, &value);

	begin_payload(modify);
	if (renamed)
	{
		append_entry(&modify->payload, STAGE_DELETE, row, 0);
		append_bytes(&modify->payload, row->kv.key, row->kv.key_len);
		append_bytes(&modify->payload, "", 0);
	}
	append_entry(&modify->payload, renamed ? modify->upsert ? STAGE_UPSERT : STAGE_INSERT : STAGE_UPDATE,
				 renamed ? NULL : row, lease);
	append_bytes(&modify->payload, renamed ? key.data : row->kv.key, renamed ? (uint32) key.len : row->kv.key_len);
	append_bytes(&modify->payload, value.data, value.len);
	send_payload(modify, renamed || (modify->immediate && etcd_shows_rows(rinfo)), &reply);
	if (reply.refused != NIL)
		duplicate_key(modify, key.data, key.len);
	row->changed = true;
	if (etcd_shows_rows(rinfo))
		etcd_show_row(modify, slot, renamed ? NULL : row, lease, reply.revision);
	MemoryContextSwitchTo(old);
	MemoryContextReset(modify->work);
	return slot;
}

static TupleTableSlot *
etcdExecForeignDelete(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	EtcdModify *modify = rinfo->ri_FdwState;
	EtcdRow    *row = row_to_change(modify, plan_slot);
	MemoryContext old;
	EtcdStageReply reply;

	(void) estate;
	if (row->changed)
		return NULL;
	old = MemoryContextSwitchTo(modify->work);
	begin_payload(modify);
	append_entry(&modify->payload, STAGE_DELETE, row, 0);
	append_bytes(&modify->payload, row->kv.key, row->kv.key_len);
	append_bytes(&modify->payload, "", 0);
	send_payload(modify, false, &reply);
	row->changed = true;
	if (modify->cells != NULL)
		etcd_show_deleted(modify, slot, row);
	MemoryContextSwitchTo(old);
	MemoryContextReset(modify->work);
	return slot;
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
etcd_modify_callbacks(FdwRoutine *routine)
{
	routine->IsForeignRelUpdatable = etcdIsForeignRelUpdatable;
	routine->AddForeignUpdateTargets = etcdAddForeignUpdateTargets;
	routine->PlanForeignModify = etcdPlanForeignModify;
	routine->BeginForeignModify = etcdBeginForeignModify;
	routine->BeginForeignInsert = etcdBeginForeignInsert;
	routine->ExecForeignInsert = etcdExecForeignInsert;
	routine->ExecForeignBatchInsert = etcdExecForeignBatchInsert;
	routine->GetForeignModifyBatchSize = etcdGetForeignModifyBatchSize;
	routine->ExecForeignUpdate = etcdExecForeignUpdate;
	routine->ExecForeignDelete = etcdExecForeignDelete;
	routine->EndForeignModify = etcdEndForeignModify;
	routine->EndForeignInsert = etcdEndForeignModify;
	routine->ExplainForeignModify = etcdExplainForeignModify;
}
