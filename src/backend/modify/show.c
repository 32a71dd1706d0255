/*
 * show.c
 *	  What a statement's own rows look like: their leases, and what RETURNING,
 *	  triggers and check options see of them.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "ipc/request.h"
#include "constants.h"
#include "modify/encode.h"
#include "modify/modify.h"
#include "modify/show.h"
#include "scan/cell.h"
#include "scan/rows.h"
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
etcd_row_lease(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *old)
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
		etcd_stage_note(modify->userid, modify->serverid, true);
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
	return old->kv.numbers[ETCD_LEASE - ETCD_CREATE_REVISION];
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

static Datum
number_as(int64 number, Form_pg_attribute att)
{
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(att->atttypid, &input, &ioparam);
	return OidInputFunctionCall(input, psprintf(INT64_FORMAT, number), ioparam, att->atttypmod);
}

/*
 * Makes the slot what a read of the row would show, for RETURNING, triggers and
 * check options.  `revision` is 0 before the commit.
 */
void
etcd_show_row(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *old, int64 lease, int64 revision)
{
	EtcdWriter *writer = modify->writer;
	TupleDesc	desc = slot->tts_tupleDescriptor;
	int64		created = old != NULL ? old->kv.numbers[0] : revision;
	int64		version = old != NULL ? old->kv.numbers[ETCD_VERSION - ETCD_CREATE_REVISION] + 1 : 1;
	struct
	{
		int			attnum;
		int64		number;
	}			shown[] = {
		{writer->create_revision, created}, {writer->mod_revision, revision},
		{writer->version, version}, {writer->lease, lease}
	};
	Datum	   *values;
	bool	   *isnull;
	bool		empty;
	HeapTuple	tuple;

	/* A row of this transaction is counted once, however often it was written. */
	if (old != NULL && old->kv.numbers[ETCD_MOD_REVISION - ETCD_CREATE_REVISION] == 0)
		shown[2].number = version - 1;
	slot_getallattrs(slot);
	empty = writer->value > 0 && slot->tts_isnull[writer->value - 1] && list_length(writer->fields) == 0;
	if (writer->create_revision == 0 && writer->mod_revision == 0 && writer->version == 0 && writer->lease == 0 &&
		!empty)
		return;
	values = palloc(desc->natts * sizeof(Datum));
	isnull = palloc(desc->natts * sizeof(bool));
	memcpy(values, slot->tts_values, desc->natts * sizeof(Datum));
	memcpy(isnull, slot->tts_isnull, desc->natts * sizeof(bool));
	for (int i = 0; i < (int) lengthof(shown); i++)
	{
		int			index = shown[i].attnum - 1;

		if (index < 0)
			continue;
		isnull[index] = i < 2 && shown[i].number == 0;
		if (!isnull[index])
			values[index] = number_as(shown[i].number, TupleDescAttr(desc, index));
	}
	/* etcd has no NULL; only text and bytea come here without a value. */
	if (empty)
	{
		isnull[writer->value - 1] = false;
		values[writer->value - 1] = PointerGetDatum(cstring_to_text(""));
	}
	tuple = heap_form_tuple(desc, values, isnull);
	/* The row lives as long as its slot, not as this row's work. */
	MemoryContextSwitchTo(modify->estate->es_query_cxt);
	ExecForceStoreHeapTuple(heap_copytuple(tuple), slot, true);
	MemoryContextSwitchTo(modify->work);
}

bool
etcd_shows_rows(ResultRelInfo *rinfo)
{
	TriggerDesc *triggers = rinfo->ri_TrigDesc;

	return rinfo->ri_projectReturning != NULL || rinfo->ri_WithCheckOptions != NIL ||
		(triggers != NULL && (triggers->trig_insert_after_row || triggers->trig_update_after_row ||
							  triggers->trig_insert_new_table || triggers->trig_update_new_table));
}

/*
 * The row as it was, for RETURNING.
 */
void
etcd_show_deleted(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *row)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *isnull = palloc(desc->natts * sizeof(bool));
	HeapTuple	tuple;

	memset(isnull, true, desc->natts * sizeof(bool));
	if (!etcd_cells_match(modify->cells, &row->kv))
		elog(ERROR, "the deleted row does not match its table");
	etcd_cells_fill(modify->cells, &row->kv, values, isnull);
	tuple = heap_form_tuple(desc, values, isnull);
	MemoryContextSwitchTo(modify->estate->es_query_cxt);
	ExecForceStoreHeapTuple(heap_copytuple(tuple), slot, true);
	MemoryContextSwitchTo(modify->work);
}
