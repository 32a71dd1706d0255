/*
 * show.c
 *	  What a statement's own rows look like: their leases, and what RETURNING,
 *	  triggers and check options see of them.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "etcd/page.h"
#include "ipc/request.h"
#include "constants.h"
#include "modify/encode.h"
#include "modify/modify.h"
#include "modify/show.h"
#include "plan/analyze.h"
#include "scan/cell.h"
#include "scan/lease.h"
#include "txn/revision.h"
#include "txn/stage.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/*
 * The lease of a row: by its ttl, by its lease, or as it was.
 */
int64
etcd_row_lease(EtcdModify *modify, TupleTableSlot *slot, const EtcdKeyValue *old)
{
	EtcdWriter *writer = modify->writer;
	int64		seconds = 0;

	if (etcd_writer_sets(writer, writer->ttl, old))
		seconds = etcd_ttl_seconds(writer, slot);
	if (seconds > 0)
	{
		StringInfoData payload;
		MemoryContext context;
		EtcdStageReply reply;

		if (modify->ttl == seconds)
			return modify->ttl_lease;
		context = AllocSetContextCreate(modify->estate->es_query_cxt, "etcd_fdw lease", ALLOCSET_SMALL_SIZES);
		initStringInfo(&payload);
		etcd_append_int64(&payload, seconds);
		etcd_append_uint32(&payload, GetCurrentTransactionNestLevel());
		(void) etcd_stage_note(modify->userid, modify->serverid, true, modify->command);
		etcd_stage_reply(etcd_stage(modify->userid, modify->serverid, STAGE_GRANT, payload.data, payload.len, context),
						 &reply);
		MemoryContextDelete(context);
		modify->ttl = seconds;
		modify->ttl_lease = reply.revision;
		return reply.revision;
	}
	if (etcd_writer_sets(writer, writer->lease, old))
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, writer->lease, &isnull);
		Oid			type = TupleDescAttr(RelationGetDescr(writer->relation), writer->lease - 1)->atttypid;
		Oid			output;
		bool		varlena;

		if (isnull)
			return 0;
		getTypeOutputInfo(type, &output, &varlena);
		return DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(OidOutputFunctionCall(output, value))));
	}
	/* An UPDATE that sets ttl to NULL takes the lease away. */
	if (old == NULL || etcd_writer_sets(writer, writer->ttl, old))
		return 0;
	return old->numbers[ETCD_LEASE - ETCD_CREATE_REVISION];
}

/*
 * What etcd maintains cannot be given by a new row.
 */
void
etcd_check_maintained(EtcdWriter *writer, TupleTableSlot *slot)
{
	int			attnums[] = {writer->create_revision, writer->mod_revision, writer->version};

	for (int i = 0; i < (int) lengthof(attnums); i++)
	{
		bool		isnull = true;

		if (attnums[i] > 0)
			(void) slot_getattr(slot, attnums[i], &isnull);
		if (!isnull)
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("cannot insert a non-DEFAULT value into column \"%s\"",
							NameStr(TupleDescAttr(RelationGetDescr(writer->relation), attnums[i] - 1)->attname)),
					 errdetail("etcd maintains it.")));
	}
}

static EtcdCells *
row_cells(EtcdModify *modify)
{
	Relation	relation = modify->writer->relation;
	MemoryContext old = MemoryContextSwitchTo(modify->estate->es_query_cxt);

	if (modify->whole_row == NIL)
		modify->whole_row = etcd_whole_row(RelationGetRelid(relation));
	modify->cells = etcd_cells_create(RelationGetRelid(relation), modify->whole_row, RelationGetDescr(relation));
	modify->cells->userid = modify->userid;
	modify->cells->serverid = modify->serverid;
	MemoryContextSwitchTo(old);
	return modify->cells;
}

/*
 * Makes the slot what a read of this key shows, for RETURNING, triggers and
 * check options.
 */
void
etcd_show_row(EtcdModify *modify, TupleTableSlot *slot, const EtcdKeyValue *kv)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	EtcdCells  *cells = modify->cells != NULL ? modify->cells : row_cells(modify);
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *isnull = palloc(desc->natts * sizeof(bool));
	HeapTuple	tuple;

	memset(isnull, true, desc->natts * sizeof(bool));
	if (!etcd_cells_match(cells, kv))
		elog(ERROR, "the row does not match its table");
	if (modify->ttl_lease != 0 && kv->numbers[ETCD_LEASE - ETCD_CREATE_REVISION] == modify->ttl_lease)
		etcd_lease_note(cells, modify->ttl_lease, modify->ttl);
	etcd_cells_fill(cells, kv, values, isnull);
	tuple = heap_form_tuple(desc, values, isnull);
	/* The row lives as long as its slot, not as this row's work. */
	MemoryContextSwitchTo(modify->estate->es_query_cxt);
	ExecForceStoreHeapTuple(heap_copytuple(tuple), slot, true);
	MemoryContextSwitchTo(modify->work);
}

/*
 * What etcd has under a key that an upsert writes, and that is to be shown: of
 * its create_revision and version, new ones are made.  All zeros where there is
 * nothing, or the table shows neither.  The transaction's own rows are left out:
 * etcd counts all that it did to the key as one.  `written` is the revision at
 * which the row was written, 0 where that is left to the commit.
 */
void
etcd_read_replaced(EtcdModify *modify, const char *key, uint32 len, int64 written, EtcdKeyValue *replaced)
{
	EtcdWriter *writer = modify->writer;
	int64		named = written != 0 ? written : etcd_statement_revision(modify->estate, modify->serverid, false);
	StringInfoData message;
	MemoryContext context;
	EtcdRequest *request;
	EtcdPage	page;
	EtcdKeyValue found;
	ErrorData	fields = {0};

	memset(replaced, 0, sizeof(*replaced));
	if (modify->collision != ETCD_REPLACE || (writer->create_revision == 0 && writer->version == 0))
		return;
	initStringInfo(&message);
	appendStringInfoChar(&message, 1 << 3 | 2);	/* RangeRequest.key */
	etcd_append_varint(&message, len);
	appendBinaryStringInfo(&message, key, len);
	appendStringInfoChar(&message, 8 << 3);	/* RangeRequest.keys_only */
	etcd_append_varint(&message, 1);
	if (named != 0)
	{
		appendStringInfoChar(&message, 4 << 3);	/* RangeRequest.revision */
		etcd_append_varint(&message, named);
	}
	context = AllocSetContextCreate(modify->estate->es_query_cxt, "etcd_fdw replaced", ALLOCSET_SMALL_SIZES);
	request = etcd_send(modify->userid, modify->serverid, METHOD_RANGE, message.data, message.len,
						written != 0 ? ETCD_READ_ALONE : ETCD_READ_PRESENT, 0, context);
	etcd_wait(request);
	if (etcd_reply_is_error(request, &fields))
		etcd_raise(&fields);
	etcd_page_open(&page, request->reply, request->reply_len, ETCD_PAGE_RANGE);
	if (named == 0)
		etcd_set_statement_revision(modify->estate, modify->serverid, false, page.revision, page.cluster);
	else if (written == 0)
		etcd_check_cluster(modify->estate, modify->serverid, false, page.cluster);
	if (etcd_page_next(&page, &found))
	{
		replaced->numbers[0] = found.numbers[0];
		/* What was written counts itself. */
		replaced->numbers[2] = found.numbers[2] - (written != 0);
	}
	MemoryContextDelete(context);
}

/*
 * Shows a new row with the key, value and lease of `kv`.
 */
void
etcd_show_new(EtcdModify *modify, TupleTableSlot *slot, const EtcdKeyValue *kv, const EtcdKeyValue *replaced,
			  int64 revision)
{
	EtcdKeyValue row = *kv;

	row.numbers[0] = replaced->numbers[0] != 0 ? replaced->numbers[0] : revision;
	row.numbers[1] = revision;
	row.numbers[2] = replaced->numbers[2] + 1;
	etcd_show_row(modify, slot, &row);
}

bool
etcd_shows_rows(ResultRelInfo *rinfo)
{
	TriggerDesc *triggers = rinfo->ri_TrigDesc;

	return rinfo->ri_projectReturning != NULL || rinfo->ri_WithCheckOptions != NIL ||
		(triggers != NULL && (triggers->trig_insert_after_row || triggers->trig_update_after_row ||
							  triggers->trig_insert_new_table || triggers->trig_update_new_table));
}
