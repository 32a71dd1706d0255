/*
 * modify.c
 *	  INSERT, UPDATE, DELETE, COPY FROM and TRUNCATE, row by row or in batches.
 *
 * A row's write goes to the proxy, which keeps it until the transaction
 * commits; nothing is waited for, unless a key that exists must be an error of
 * this very statement.  In a transaction that is this statement alone, the
 * commit tells it just as well.  With write_mode 'immediate', batches go
 * to etcd as they come, some of them at a time.
 *
 * A new row whose key exists (enum EtcdCollision), by what is known when the
 * statement starts; the first that holds:
 *
 *	ON CONFLICT DO NOTHING			SKIP			waits for the answer to each batch; fails where
 *													the transaction's revision lacks the row
 *	upsert 'true'					REPLACE			waits for nothing
 *	write_mode 'immediate'			REFUSE_LATER	the batch fails
 *	in a transaction block or
 *	subtransaction					REFUSE_NOW		waits: the error may be caught
 *	alone in its transaction		REFUSE_LATER	the commit fails
 */
#include "postgres.h"

#include "base/bytes.h"
#include "base/compat.h"
#include "ipc/request.h"
#include "constants.h"
#include "modify/encode.h"
#include "modify/modify.h"
#include "modify/payload.h"
#include "modify/prepare.h"
#include "modify/show.h"
#include "modify/trigger.h"
#include "modify/watched.h"
#include "scan/cell.h"
#include "scan/modes.h"
#include "scan/rows.h"
#include "server/option.h"
#include "txn/revision.h"
#include "txn/stage.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#define BATCH_ROWS		1024
/* Bytes of rows that go in one frame, unless a row is larger by itself: with write_mode 'immediate', etcd takes them at once. */
#define BATCH_BYTES		(1024 * 1024)

/* ---- beginning and end ---- */

/*
 * The columns that the statement gives to new rows, as attnums: those that an
 * INSERT or COPY names, or that the UPDATE sets which moves rows here from
 * another partition.
 */
static Bitmapset *
given_columns(ResultRelInfo *rinfo, EState *estate)
{
	Bitmapset  *given = bms_union(ExecGetInsertedCols(rinfo, estate), ExecGetUpdatedCols(rinfo, estate));
	Bitmapset  *result = NULL;
	int			member = -1;

	while ((member = bms_next_member(given, member)) >= 0)
	{
		if (member + FirstLowInvalidHeapAttributeNumber > 0)
			result = bms_add_member(result, member + FirstLowInvalidHeapAttributeNumber);
	}
	return result;
}

static EtcdCollision
collision_of(Oid table, bool immediate, bool do_nothing)
{
	if (do_nothing)
		return ETCD_SKIP;
	if (etcd_table_flag(table, "upsert"))
		return ETCD_REPLACE;
	/* Alone in its transaction, the statement fails with the commit. */
	if (!immediate && (IsTransactionBlock() || GetCurrentTransactionNestLevel() > 1))
		return ETCD_REFUSE_NOW;
	return ETCD_REFUSE_LATER;
}

static EtcdModify *
create_modify(EState *estate, ResultRelInfo *rinfo, const char *plan, Bitmapset *named, bool do_nothing)
{
	Relation	relation = rinfo->ri_RelationDesc;
	Oid			table = RelationGetRelid(relation);
	TriggerDesc *triggers = rinfo->ri_TrigDesc;
	EtcdModify *modify = palloc0(sizeof(EtcdModify));

	modify->writer = etcd_writer_create(relation, plan, named);
	modify->estate = estate;
	modify->userid = compat_modify_user(rinfo, estate);
	modify->serverid = GetForeignTable(table)->serverid;
	modify->command = estate->es_output_cid;
	modify->immediate = etcd_writes_at_once(table);
	modify->watched = (triggers != NULL && (triggers->trig_insert_before_row || triggers->trig_update_before_row ||
											triggers->trig_delete_before_row)) || etcd_is_watched(estate);
	modify->collision = collision_of(table, modify->immediate, do_nothing);
	modify->work = AllocSetContextCreate(estate->es_query_cxt, "etcd_fdw modify", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&modify->payload);
	initStringInfo(&modify->part);
	return modify;
}

static void
etcdBeginForeignModify(ModifyTableState *mtstate, ResultRelInfo *rinfo, List *fdw_private, int subplan, int eflags)
{
	EState	   *estate = mtstate->ps.state;
	Oid			table = RelationGetRelid(rinfo->ri_RelationDesc);
	EtcdModify *modify;
	Bitmapset  *named = NULL;
	ListCell   *lc;

	(void) subplan;
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	foreach(lc, (List *) lsecond(fdw_private))
		named = bms_add_member(named, lfirst_int(lc));
	if (mtstate->operation == CMD_INSERT)
		named = given_columns(rinfo, estate);
	modify = create_modify(estate, rinfo, strVal(linitial(fdw_private)), named, intVal(lthird(fdw_private)) != 0);
	modify->whole_row = lfourth(fdw_private);
	if (mtstate->operation != CMD_INSERT)
	{
		modify->tid_attno = ExecFindJunkAttributeInTlist(outerPlanState(mtstate)->plan->targetlist, "ctid");
		if (!AttributeNumberIsValid(modify->tid_attno))
			elog(ERROR, "could not find junk ctid column");
		modify->rows = etcd_rows_create(estate, table);
		/* Attnum 0, of no value column, is no member. */
		if (mtstate->operation == CMD_UPDATE ? !bms_is_member(modify->writer->value, named)
			: modify->whole_row != NIL)
			etcd_rows_keep_values(modify->rows);
	}
	if (mtstate->operation == CMD_UPDATE)
		etcd_trigger_begin(modify, rinfo, outerPlanState(mtstate)->plan->targetlist);
	rinfo->ri_FdwState = modify;
}

static void
etcdBeginForeignInsert(ModifyTableState *mtstate, ResultRelInfo *rinfo)
{
	ModifyTable *plan = castNode(ModifyTable, mtstate->ps.plan);
	Relation	relation = rinfo->ri_RelationDesc;
	EState	   *estate = mtstate->ps.state;
	EtcdModify *modify;

	if (plan != NULL && plan->onConflictAction == ONCONFLICT_UPDATE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("INSERT ... ON CONFLICT DO UPDATE is not supported on foreign tables")));
	/* A row that an UPDATE moves out of another partition. */
	if (rinfo->ri_FdwState != NULL)
		return;
	modify = create_modify(estate, rinfo, etcd_plan_modify(relation, "insert", NULL), given_columns(rinfo, estate),
						   plan != NULL && plan->onConflictAction == ONCONFLICT_NOTHING);
	/* COPY says nowhere which command it is. */
	if (plan == NULL)
		modify->command = GetCurrentCommandId(true);
	rinfo->ri_FdwState = modify;
}

static void
etcdEndForeignModify(EState *estate, ResultRelInfo *rinfo)
{
	EtcdModify *modify = rinfo->ri_FdwState;

	(void) estate;
	if (modify == NULL)
		return;
	while (modify->in_flight != NIL)
		etcd_await_oldest(modify);
}

/* ---- writing ---- */

static void
duplicate_key(EtcdModify *modify, const char *key, int len)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("duplicate key in foreign table \"%s\"", RelationGetRelationName(modify->writer->relation)),
			 errdetail("Key \"%s\" already exists in etcd.", etcd_printable(key, len)),
			 errtable(modify->writer->relation)));
}

static uint8
insert_kind(EtcdModify *modify)
{
	return modify->collision == ETCD_REPLACE ? STAGE_UPSERT : STAGE_INSERT;
}

/*
 * Appends a new row to the payload.  Of one that is to be shown, `replaced` is
 * filled with what an upsert will replace, which the proxy is told for the
 * transaction's reads; NULL for others.
 */
static void
append_row(EtcdModify *modify, TupleTableSlot *slot, int64 *lease, EtcdKeyValue *replaced)
{
	StringInfo	part = &modify->part;
	StringInfo	payload = &modify->payload;
	int			key;

	etcd_check_maintained(modify->writer, slot);
	*lease = etcd_row_lease(modify, slot, NULL);
	resetStringInfo(part);
	etcd_write_key(modify->writer, slot, NULL, part);
	if (replaced != NULL)
		etcd_read_replaced(modify, part->data, part->len, 0, replaced);
	etcd_append_entry(payload, insert_kind(modify), replaced, *lease);
	key = payload->len;
	etcd_append_counted(payload, part->data, part->len);
	resetStringInfo(part);
	etcd_write_value(modify->writer, slot, NULL, payload->data + key + sizeof(uint32),
					 (int) etcd_get_uint32(payload->data + key), part);
	etcd_append_counted(payload, part->data, part->len);
}

/*
 * Sends new rows, so many bytes of the payload; how many were refused because
 * their keys exist, which is none but with ON CONFLICT DO NOTHING.
 */
static int
send_rows(EtcdModify *modify, int len, bool wait, EtcdStageReply *reply)
{
	etcd_send_write(modify, len, wait, reply);
	if (reply->refused != NIL && modify->collision != ETCD_SKIP)
	{
		EtcdKeyValue kv;

		etcd_entry_at(modify, linitial_int(reply->refused), &kv);
		duplicate_key(modify, kv.key, (int) kv.key_len);
	}
	return list_length(reply->refused);
}

/*
 * Inserts rows, in frames of bounded size; how many were refused.
 */
static int
insert_rows(EtcdModify *modify, ResultRelInfo *rinfo, TupleTableSlot **slots, int count)
{
	StringInfo	payload = &modify->payload;
	bool		shown = etcd_shows_rows(rinfo);
	bool		wait = modify->immediate && shown;
	int			level = etcd_modes_enter(modify->writer->modes);
	int			refused = 0;
	int64		lease = 0;
	EtcdKeyValue replaced = {0};
	EtcdStageReply reply;

	etcd_begin_payload(modify);
	for (int i = 0; i < count; i++)
	{
		int			before = payload->len;

		append_row(modify, slots[i], &lease, shown && !modify->immediate ? &replaced : NULL);
		if (payload->len > BATCH_BYTES && before > ETCD_WRITE_HEADER)
		{
			refused += send_rows(modify, before, wait, &reply);
			memmove(payload->data + ETCD_WRITE_HEADER, payload->data + before, payload->len - before);
			payload->len -= before - ETCD_WRITE_HEADER;
		}
		MemoryContextReset(modify->work);
	}
	etcd_modes_leave(level);
	refused += send_rows(modify, payload->len, wait, &reply);
	/* Rows that are shown come one at a time. */
	if (shown && refused == 0)
	{
		EtcdKeyValue kv = {.numbers = {0, 0, 0, lease}};

		etcd_entry_at(modify, 0, &kv);
		if (modify->immediate)
			etcd_read_replaced(modify, kv.key, kv.key_len, reply.revision, &replaced);
		etcd_show_new(modify, slots[0], &kv, &replaced, reply.revision);
	}
	return refused;
}

static TupleTableSlot *
etcdExecForeignInsert(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	EtcdModify *modify = rinfo->ri_FdwState;
	MemoryContext old = MemoryContextSwitchTo(modify->work);
	bool		refused;

	(void) estate;
	(void) plan_slot;
	refused = insert_rows(modify, rinfo, &slot, 1) > 0;
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
	*count -= insert_rows(modify, rinfo, slots, *count);
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
	EtcdModify *modify = rinfo->ri_FdwState;

	return modify == NULL || modify->watched || etcd_shows_rows(rinfo) ? 1 : BATCH_ROWS;
}

/*
 * What is written at once stays, whatever becomes of the transaction; and then
 * its own write of the row would fail.
 */
static void
refuse_uncommitted(EtcdModify *modify, const EtcdKeyValue *row)
{
	Relation	relation = modify->writer->relation;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot change key \"%s\" of foreign table \"%s\" at once",
					etcd_printable(row->key, row->key_len), RelationGetRelationName(relation)),
			 errdetail("The transaction has written it through a table with write_mode \"transactional\", and is not committed."),
			 errhint("Use a table with write_mode \"transactional\", or commit before."),
			 errtable(relation)));
}

/*
 * The row as the scan has found it; false when this statement has changed it.
 */
static bool
row_to_change(EtcdModify *modify, TupleTableSlot *plan_slot, EtcdKeyValue *row)
{
	bool		isnull;
	Datum		tid = ExecGetJunkAttribute(plan_slot, modify->tid_attno, &isnull);

	if (isnull)
		elog(ERROR, "ctid is NULL");
	if (!etcd_rows_take(modify->rows, (ItemPointer) DatumGetPointer(tid), row))
		return false;
	/* The transaction's own rows have no mod_revision yet. */
	if (modify->immediate && row->numbers[ETCD_MOD_REVISION - ETCD_CREATE_REVISION] == 0)
		refuse_uncommitted(modify, row);
	return true;
}

/*
 * Makes the bytes of a changed row; whether it goes under another key.
 */
static bool
write_changed(EtcdModify *modify, TupleTableSlot *slot, const EtcdKeyValue *row, StringInfo key, StringInfo value,
			  int64 *lease)
{
	EtcdWriter *writer = modify->writer;
	int			level = etcd_modes_enter(writer->modes);
	bool		renamed = etcd_writer_sets(writer, writer->key, row);
	ListCell   *lc;

	initStringInfo(key);
	initStringInfo(value);
	foreach(lc, writer->segments)
		renamed = renamed || etcd_writer_sets(writer, lfirst_int(lc), row);
	if (renamed)
	{
		etcd_write_key(writer, slot, row, key);
		renamed = key->len != (int) row->key_len || memcmp(key->data, row->key, key->len) != 0;
	}
	if (!renamed)
	{
		resetStringInfo(key);
		appendBinaryStringInfo(key, row->key, row->key_len);
	}
	*lease = etcd_row_lease(modify, slot, row);
	etcd_write_value(writer, slot, row, key->data, key->len, value);
	etcd_modes_leave(level);
	return renamed;
}

/*
 * Shows a row that was changed, or is a new one in place of `replaced`.  Of those
 * that the transaction itself has made, only one version counts, however often it
 * writes them.
 */
static void
show_changed(EtcdModify *modify, TupleTableSlot *slot, const EtcdKeyValue *old, StringInfo key, StringInfo value,
			 int64 lease, EtcdKeyValue *replaced, int64 revision)
{
	EtcdKeyValue kv = {.key = key->data, .value = value->data, .key_len = key->len, .value_len = value->len,
	.numbers = {0, revision, 0, lease}};

	if (old == NULL)
	{
		if (modify->immediate)
			etcd_read_replaced(modify, kv.key, kv.key_len, revision, replaced);
		etcd_show_new(modify, slot, &kv, replaced, revision);
		return;
	}
	kv.numbers[0] = old->numbers[0];
	kv.numbers[2] = old->numbers[2] + (old->numbers[1] != 0);
	etcd_show_row(modify, slot, &kv);
}

static TupleTableSlot *
etcdExecForeignUpdate(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	EtcdModify *modify = rinfo->ri_FdwState;
	EtcdKeyValue row;
	MemoryContext old;
	StringInfoData key;
	StringInfoData value;
	int64		lease;
	bool		renamed;
	EtcdKeyValue replaced = {0};
	EtcdStageReply reply;

	(void) estate;
	if (!row_to_change(modify, plan_slot, &row))
		return NULL;
	old = MemoryContextSwitchTo(modify->work);
	if (AttributeNumberIsValid(modify->old_attno))
		etcd_trigger_note(modify, slot, plan_slot);
	renamed = write_changed(modify, slot, &row, &key, &value, &lease);
	etcd_begin_payload(modify);
	if (renamed)
		etcd_append_delete(modify, &row);
	if (renamed && etcd_shows_rows(rinfo) && !modify->immediate)
		etcd_read_replaced(modify, key.data, key.len, 0, &replaced);
	etcd_append_entry(&modify->payload, renamed ? insert_kind(modify) : STAGE_UPDATE, renamed ? &replaced : &row, lease);
	etcd_append_counted(&modify->payload, key.data, key.len);
	etcd_append_counted(&modify->payload, value.data, value.len);
	etcd_send_write(modify, modify->payload.len, renamed || (modify->immediate && etcd_shows_rows(rinfo)), &reply);
	if (reply.refused != NIL)
		duplicate_key(modify, key.data, key.len);
	if (etcd_shows_rows(rinfo))
		show_changed(modify, slot, renamed ? NULL : &row, &key, &value, lease, &replaced, reply.revision);
	if (AttributeNumberIsValid(modify->old_attno))
		etcd_trigger_forget(modify);
	MemoryContextSwitchTo(old);
	MemoryContextReset(modify->work);
	return slot;
}

static TupleTableSlot *
etcdExecForeignDelete(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	EtcdModify *modify = rinfo->ri_FdwState;
	EtcdKeyValue row;
	MemoryContext old;
	EtcdStageReply reply;

	(void) estate;
	if (!row_to_change(modify, plan_slot, &row))
		return NULL;
	old = MemoryContextSwitchTo(modify->work);
	etcd_begin_payload(modify);
	etcd_append_delete(modify, &row);
	etcd_send_write(modify, modify->payload.len, false, &reply);
	if (rinfo->ri_projectReturning != NULL)
		etcd_show_row(modify, slot, &row);
	MemoryContextSwitchTo(old);
	MemoryContextReset(modify->work);
	return slot;
}

void
etcd_modify_callbacks(FdwRoutine *routine)
{
	routine->BeginForeignModify = etcdBeginForeignModify;
	routine->BeginForeignInsert = etcdBeginForeignInsert;
	routine->ExecForeignInsert = etcdExecForeignInsert;
	routine->ExecForeignBatchInsert = etcdExecForeignBatchInsert;
	routine->GetForeignModifyBatchSize = etcdGetForeignModifyBatchSize;
	routine->ExecForeignUpdate = etcdExecForeignUpdate;
	routine->ExecForeignDelete = etcdExecForeignDelete;
	routine->EndForeignModify = etcdEndForeignModify;
	routine->EndForeignInsert = etcdEndForeignModify;
}
