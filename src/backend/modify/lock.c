/*
 * lock.c
 *	  SELECT ... FOR UPDATE and its like.
 *
 * Nobody can be kept from writing a key of etcd.  So a row that is to be locked
 * is read once more and recorded, as SERIALIZABLE does with all that is read:
 * the transaction commits only if the row is still the same then.  Only the rows
 * that the statement returns come here, not all that its scans find.
 *
 * As with a local table, a row that has changed since the statement began is
 * looked at anew at READ COMMITTED, and above that it is 40001.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "constants.h"
#include "etcd/page.h"
#include "modify/lock.h"
#include "plan/analyze.h"
#include "scan/cell.h"
#include "scan/rows.h"
#include "server/option.h"
#include "txn/revision.h"
#include "txn/stage.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* What locking a table's rows needs in one execution. */
typedef struct EtcdLock
{
	EtcdRows   *rows;
	EtcdCells  *cells;
} EtcdLock;

static RowMarkType
etcdGetForeignRowMarkType(RangeTblEntry *rte, LockClauseStrength strength)
{
	(void) rte;
	/* How strong it is makes no difference: what was read must not change. */
	return strength == LCS_NONE ? ROW_MARK_COPY : ROW_MARK_EXCLUSIVE;
}

static void
refuse_past(ExecRowMark *mark)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot lock rows in foreign table \"%s\"", RelationGetRelationName(mark->relation)),
			 errdetail("It shows a past revision of etcd."),
			 errhint("Read the latest one, or leave out the locking clause.")));
}

static EtcdLock *
create_lock(EState *estate, ExecRowMark *mark)
{
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	EtcdLock   *lock = palloc(sizeof(EtcdLock));

	lock->rows = etcd_rows_create(estate, mark->relid);
	lock->cells = etcd_cells_create(mark->relid, etcd_whole_row(mark->relid), RelationGetDescr(mark->relation));
	lock->cells->userid = etcd_rows_user(lock->rows);
	lock->cells->serverid = GetForeignTable(mark->relid)->serverid;
	MemoryContextSwitchTo(old);
	if (etcd_reads_past(mark->relid) || etcd_named_revision(lock->cells->userid, estate) != 0)
		refuse_past(mark);
	return lock;
}

/*
 * Reads the key as it is now, and has the proxy note that.
 */
static bool
read_again(EState *estate, EtcdLock *lock, const EtcdKeyValue *row, MemoryContext context, EtcdKeyValue *found)
{
	StringInfoData message;
	EtcdRequest *request;
	EtcdPage	page;
	ErrorData	fields = {0};

	initStringInfo(&message);
	appendStringInfoChar(&message, 1 << 3 | 2);	/* RangeRequest.key */
	etcd_append_varint(&message, row->key_len);
	appendBinaryStringInfo(&message, row->key, row->key_len);
	request = etcd_send(lock->cells->userid, lock->cells->serverid, METHOD_RANGE, message.data, message.len,
						ETCD_READ_LOCK, estate->es_snapshot->curcid, context);
	etcd_wait(request);
	if (etcd_reply_is_error(request, &fields))
		etcd_raise(&fields);
	etcd_page_open(&page, request->reply, request->reply_len, ETCD_PAGE_RANGE);
	etcd_check_cluster(estate, lock->cells->serverid, false, page.cluster);
	return etcd_page_next(&page, found);
}

static void
show_row(EState *estate, EtcdLock *lock, const EtcdKeyValue *kv, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *isnull = palloc(desc->natts * sizeof(bool));
	HeapTuple	tuple;
	MemoryContext old;

	memset(isnull, true, desc->natts * sizeof(bool));
	if (!etcd_cells_match(lock->cells, kv))
		elog(ERROR, "the row does not match its table");
	etcd_cells_fill(lock->cells, kv, values, isnull);
	tuple = heap_form_tuple(desc, values, isnull);
	old = MemoryContextSwitchTo(estate->es_query_cxt);
	ExecForceStoreHeapTuple(heap_copytuple(tuple), slot, true);
	MemoryContextSwitchTo(old);
}

/*
 * Fills the slot with the row as it is now; it stays empty when there is none
 * any more.
 */
static void
etcdRefetchForeignRow(EState *estate, ExecRowMark *mark, Datum rowid, TupleTableSlot *slot, bool *updated)
{
	MemoryContext context = AllocSetContextCreate(estate->es_query_cxt, "etcd_fdw lock", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EtcdLock   *lock;
	EtcdKeyValue row;
	EtcdKeyValue found;
	bool		exists;

	if (mark->ermExtra == NULL)
		mark->ermExtra = create_lock(estate, mark);
	lock = mark->ermExtra;
	etcd_rows_look(lock->rows, (ItemPointer) DatumGetPointer(rowid), &row);
	exists = read_again(estate, lock, &row, context, &found);
	*updated = !exists || found.numbers[ETCD_MOD_REVISION - ETCD_CREATE_REVISION] !=
		row.numbers[ETCD_MOD_REVISION - ETCD_CREATE_REVISION];
	if (*updated && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update in etcd"),
				 errdetail("The key \"%s\" was changed by another client.", etcd_printable(row.key, row.key_len)),
				 errhint("The transaction might succeed if retried.")));
	if (exists)
		show_row(estate, lock, &found, slot);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

void
etcd_lock_callbacks(FdwRoutine *routine)
{
	routine->GetForeignRowMarkType = etcdGetForeignRowMarkType;
	routine->RefetchForeignRow = etcdRefetchForeignRow;
}
