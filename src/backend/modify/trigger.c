/*
 * trigger.c
 *	  What triggers change of a row before an UPDATE writes it.
 *
 * A column that an UPDATE sets becomes part of the key or the value, or decides
 * about the lease; what it does not set stays in etcd as it is, to the byte.
 * BEFORE triggers may set any column, and nobody says which: so the row that
 * they return is compared with the row as it was.
 */
#include "postgres.h"

#include "modify/prepare.h"
#include "modify/trigger.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "utils/datum.h"
#include "utils/rel.h"

/*
 * Finds the row as it was in what the UPDATE's plan returns; only where there
 * are triggers.
 */
void
etcd_trigger_begin(EtcdModify *modify, ResultRelInfo *rinfo, List *targetlist)
{
	TriggerDesc *triggers = rinfo->ri_TrigDesc;

	if (triggers == NULL || !triggers->trig_update_before_row)
		return;
	modify->old_attno = ExecFindJunkAttributeInTlist(targetlist, "wholerow");
	if (!AttributeNumberIsValid(modify->old_attno))
		elog(ERROR, "could not find junk wholerow column");
	modify->assigned = modify->writer->named;
	modify->allowed = bms_copy(modify->assigned);
}

/*
 * Has core say whether these columns may be set, as it did of those that the
 * statement sets.  What it has allowed needs no asking again, nor does a part
 * of that.
 */
static void
check_named(EtcdModify *modify)
{
	EtcdWriter *writer = modify->writer;
	MemoryContext old;

	if (bms_is_subset(writer->named, modify->allowed))
		return;
	(void) etcd_plan_modify(writer->relation, "update", writer->named);
	bms_free(modify->allowed);
	old = MemoryContextSwitchTo(modify->estate->es_query_cxt);
	modify->allowed = bms_copy(writer->named);
	MemoryContextSwitchTo(old);
}

/*
 * Until etcd_trigger_forget(), the columns that triggers have changed count as
 * set too.
 */
void
etcd_trigger_note(EtcdModify *modify, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	EtcdWriter *writer = modify->writer;
	TupleDesc	desc = RelationGetDescr(writer->relation);
	HeapTupleData old = {0};
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *isnull = palloc(desc->natts * sizeof(bool));
	bool		missing;
	Datum		row = ExecGetJunkAttribute(plan_slot, modify->old_attno, &missing);

	if (missing)
		elog(ERROR, "wholerow is NULL");
	old.t_data = DatumGetHeapTupleHeader(row);
	old.t_len = HeapTupleHeaderGetDatumLength(old.t_data);
	heap_deform_tuple(&old, desc, values, isnull);
	writer->named = bms_copy(modify->assigned);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		new_isnull;
		Datum		value;

		if (att->attisdropped || bms_is_member(att->attnum, modify->assigned))
			continue;
		value = slot_getattr(slot, att->attnum, &new_isnull);
		if (new_isnull == isnull[i] &&
			(new_isnull || datum_image_eq(value, values[i], att->attbyval, att->attlen)))
			continue;
		writer->named = bms_add_member(writer->named, att->attnum);
	}
	check_named(modify);
}

/*
 * The row is written: what its triggers have set says nothing about others, nor
 * about rows that the UPDATE moves here from another partition.
 */
void
etcd_trigger_forget(EtcdModify *modify)
{
	modify->writer->named = modify->assigned;
}
