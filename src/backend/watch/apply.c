/*
 * apply.c
 *	  What a mirror's worker does in one transaction: puts a snapshot by its
 *	  differences, or a batch of events, and moves the position on.
 *
 * Of several events of a key in a batch the last one counts.  When the target
 * refuses something, all is tried again one by one, to find what that is.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "scan/feed.h"
#include "server/server.h"
#include "txn/revision.h"
#include "watch/apply.h"
#include "watch/target.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* Rows of a snapshot that are taken at a time when they are put one by one. */
#define FETCH_ROWS		200

/*
 * Whether what is to go to the target is at fault, rather than that something
 * cannot be had just now.
 */
bool
etcd_mirror_refuses(const EtcdMirrorWork *work, const ErrorData *error)
{
	if (work->stage == ETCD_STAGE_REACHING || work->stage == ETCD_STAGE_BUSY ||
		error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return false;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return false;
		default:
			return error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && error->sqlerrcode != ERRCODE_OBJECT_IN_USE;
	}
}

static uint64
execute(const char *sql, int expected)
{
	int			result = SPI_execute(sql, false, 0);

	if (result != expected)
		elog(ERROR, "statement of a mirror failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

/* ---- events ---- */

static int
by_key(const void *a, const void *b)
{
	const EtcdKeyValue *x = a;
	const EtcdKeyValue *y = b;
	int			order = etcd_compare_bytes(x->key, x->key_len, y->key, y->key_len);

	if (order != 0)
		return order;
	return x->numbers[1] < y->numbers[1] ? -1 : x->numbers[1] > y->numbers[1];
}

/*
 * All events, and the last one of each key.
 */
void
etcd_mirror_read_events(EtcdMirrorWork *work)
{
	EtcdKeyValue kv;

	work->events = palloc(sizeof(EtcdKeyValue) * Max(1, work->page->kvs));
	work->kvs = palloc(sizeof(EtcdKeyValue) * Max(1, work->page->kvs));
	work->nevents = 0;
	while (etcd_page_next(work->page, &kv))
		work->events[work->nevents++] = kv;
	memcpy(work->kvs, work->events, sizeof(EtcdKeyValue) * work->nevents);
	qsort(work->kvs, work->nevents, sizeof(EtcdKeyValue), by_key);
	work->count = 0;
	for (uint32 i = 0; i < work->nevents; i++)
	{
		const EtcdKeyValue *last = work->count > 0 ? &work->kvs[work->count - 1] : NULL;

		if (last != NULL && etcd_compare_bytes(last->key, last->key_len, work->kvs[i].key, work->kvs[i].key_len) == 0)
			work->count--;
		work->kvs[work->count++] = work->kvs[i];
	}
}

static void
run_fed(const char *sql, int expected, Oid source, const EtcdKeyValue *kvs, uint32 count)
{
	EtcdFeed	feed = {source, count, kvs};

	if (sql == NULL || count == 0)
		return;
	etcd_feed(&feed);
	(void) execute(sql, expected);
	etcd_feed(NULL);
}

/*
 * Makes the target show these keys as they are now.
 */
static void
put_keys(const EtcdTarget *target, Oid source, const EtcdKeyValue *kvs, uint32 count)
{
	EtcdKeyValue *there = palloc(sizeof(EtcdKeyValue) * Max(1, count));
	EtcdKeyValue *gone = palloc(sizeof(EtcdKeyValue) * Max(1, count));
	uint32		nthere = 0;
	uint32		ngone = 0;

	for (uint32 i = 0; i < count; i++)
	{
		if (kvs[i].deleted)
			gone[ngone++] = kvs[i];
		else
			there[nthere++] = kvs[i];
	}
	run_fed(target->delete_gone, SPI_OK_DELETE, source, gone, ngone);
	run_fed(target->delete_filtered, SPI_OK_DELETE, source, there, nthere);
	run_fed(target->upsert, SPI_OK_INSERT, source, there, nthere);
	pfree(there);
	pfree(gone);
}

typedef void (*Step) (EtcdMirrorWork *work, void *arg);

/*
 * Runs a step in a subtransaction: NULL, or why the target has refused it.
 */
static ErrorData *
try_step(EtcdMirrorWork *work, Step step, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile refusal = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(work, arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		etcd_feed(NULL);
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!etcd_mirror_refuses(work, error))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		refusal = error;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return refusal;
}

/*
 * The same; what is refused is passed over where that is wanted, and is the
 * error otherwise.
 */
static void
do_step(EtcdMirrorWork *work, Step step, void *arg, bool pass)
{
	ErrorData  *refusal = try_step(work, step, arg);

	if (refusal == NULL)
		return;
	if (!pass)
		ReThrowError(refusal);
	ereport(LOG,
			(errmsg("mirror \"%s\" of etcd leaves out what its target refuses: %s", work->row->name, refusal->message)));
	FreeErrorData(refusal);
}

typedef struct SomeKeys
{
	const EtcdTarget *target;
	const EtcdKeyValue *kvs;
	uint32		count;
} SomeKeys;

static void
put_some_keys(EtcdMirrorWork *work, void *arg)
{
	SomeKeys   *some = arg;

	put_keys(some->target, work->row->source, some->kvs, some->count);
}

static void
put_key_apart(EtcdMirrorWork *work, const EtcdTarget *target, const EtcdKeyValue *kv)
{
	SomeKeys	one = {target, kv, 1};

	work->bad_revision = kv->numbers[1];
	work->bad_key = kv->key;
	work->bad_len = kv->key_len;
	do_step(work, put_some_keys, &one, kv->numbers[1] == work->row->skip);
	work->bad_key = NULL;
}

/*
 * What may be refused, and left out.
 */
static void
put_skipped_keys(EtcdMirrorWork *work, const EtcdTarget *target)
{
	for (uint32 i = 0; i < work->count; i++)
	{
		if (work->row->skip != 0 && work->kvs[i].numbers[1] == work->row->skip)
			put_key_apart(work, target, &work->kvs[i]);
	}
}

/*
 * Revision by revision, as etcd came through it: what other constraints than
 * the key's would refuse at once, they may take so.  Of a revision that is
 * refused, key by key, so that the error is about one.
 */
static void
put_in_order(EtcdMirrorWork *work, const EtcdTarget *target)
{
	uint32		end;

	for (uint32 i = 0; i < work->nevents; i = end)
	{
		SomeKeys	some = {target, &work->events[i], 0};
		ErrorData  *refusal = NULL;

		CHECK_FOR_INTERRUPTS();
		for (end = i; end < work->nevents && work->events[end].numbers[1] == work->events[i].numbers[1]; end++)
			some.count++;
		/* Scans expect them so. */
		qsort(&work->events[i], some.count, sizeof(EtcdKeyValue), by_key);
		if (some.count > 1)
			refusal = try_step(work, put_some_keys, &some);
		if (some.count > 1 && refusal == NULL)
			continue;
		if (refusal != NULL)
			FreeErrorData(refusal);
		for (uint32 one = i; one < end; one++)
			put_key_apart(work, target, &work->events[one]);
	}
}

/*
 * All that is not put apart at once: a row may need one that comes later.
 */
static void
put_keys_at_once(EtcdMirrorWork *work, const EtcdTarget *target)
{
	EtcdKeyValue *kvs = palloc(sizeof(EtcdKeyValue) * Max(1, work->count));
	uint32		count = 0;

	for (uint32 i = 0; i < work->count; i++)
	{
		if (work->row->skip == 0 || work->kvs[i].numbers[1] != work->row->skip)
			kvs[count++] = work->kvs[i];
	}
	put_keys(target, work->row->source, kvs, count);
	pfree(kvs);
}

/*
 * Moves the position on.  Rows without their position would be put twice.
 */
static void
advance(EtcdMirrorWork *work, const EtcdFollowed *followed)
{
	if (work->merges)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("several keys of etcd are the same row of the target of mirror \"%s\"", work->row->name),
				 errhint("A number is the same with a zero before it: declare the columns of the key as text.")));
	work->stage = ETCD_STAGE_BUSY;
	if (!etcd_follower_advance(work->row, followed))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("mirror \"%s\" is being changed", work->row->name)));
	work->stage = ETCD_STAGE_DONE;
	work->reached = followed->revision;
}

/*
 * A batch of events, and the position behind it.
 */
void
etcd_mirror_apply_events(void *arg)
{
	EtcdMirrorWork *work = arg;
	EtcdFollowed followed = {work->page->revision, work->page->kvs, work->page->behind, work->page->cluster};
	work->stage = ETCD_STAGE_REACHING;
	if (work->count > 0)
	{
		EtcdTarget *target = etcd_target_statements(work->row);

		work->stage = ETCD_STAGE_PUTTING;
		SPI_connect();
		switch (work->pace)
		{
			case ETCD_PACE_AT_ONCE:
				put_keys_at_once(work, target);
				put_skipped_keys(work, target);
				break;
			case ETCD_PACE_IN_ORDER:
				put_in_order(work, target);
				break;
			case ETCD_PACE_BY_KEY:
				for (uint32 i = 0; i < work->count; i++)
					put_key_apart(work, target, &work->kvs[i]);
				break;
		}
		SPI_finish();
	}
	advance(work, &followed);
}

/* ---- snapshots ---- */

typedef struct OneRow
{
	SPIPlanPtr	plan;
	int			natts;
	Datum	   *values;
	char	   *nulls;
} OneRow;

static void
put_one_row(EtcdMirrorWork *work, void *arg)
{
	OneRow	   *one = arg;

	(void) work;
	if (SPI_execute_plan(one->plan, one->values, one->nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "a row could not be put");
}

/*
 * What tells the row apart, as the view shows it; it outlives the transaction.
 */
static char *
key_text(const EtcdMirrorWork *work, const EtcdTarget *target, HeapTuple tuple, TupleDesc desc)
{
	MemoryContext old = MemoryContextSwitchTo(work->context);
	StringInfoData text;
	int			column = -1;

	initStringInfo(&text);
	MemoryContextSwitchTo(old);
	while ((column = bms_next_member(target->keys, column)) >= 0)
	{
		char	   *value = SPI_getvalue(tuple, desc, column);

		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", value ? value : "NULL");
	}
	return text.data;
}

static void
put_tuple(EtcdMirrorWork *work, OneRow *one, const EtcdTarget *target, HeapTuple tuple, TupleDesc desc)
{
	char	   *key = key_text(work, target, tuple, desc);

	work->bad_key = key;
	work->bad_len = strlen(key);
	for (int i = 0; i < desc->natts; i++)
	{
		bool		isnull;

		one->values[i] = SPI_getbinval(tuple, desc, i + 1, &isnull);
		one->nulls[i] = isnull ? 'n' : ' ';
	}
	do_step(work, put_one_row, one, work->row->skip != 0);
	work->bad_key = NULL;
	pfree(key);
}

/*
 * Puts the rows one by one; slow, for when one of them is refused.
 */
static void
put_rows_apart(EtcdMirrorWork *work, const EtcdTarget *target)
{
	Portal		cursor = SPI_cursor_open_with_args(NULL, target->select, 0, NULL, NULL, NULL, true, 0);
	OneRow		one = {0};

	for (;;)
	{
		SPITupleTable *rows;

		SPI_cursor_fetch(cursor, true, FETCH_ROWS);
		rows = SPI_tuptable;
		if (SPI_processed == 0)
			break;
		work->bad_revision = etcd_transaction_revision(etcd_server_by_name(work->row->server));
		if (one.plan == NULL)
		{
			TupleDesc	desc = rows->tupdesc;
			Oid		   *types = palloc(sizeof(Oid) * desc->natts);

			for (int i = 0; i < desc->natts; i++)
				types[i] = TupleDescAttr(desc, i)->atttypid;
			one.plan = SPI_prepare(target->put, desc->natts, types);
			one.values = palloc(sizeof(Datum) * desc->natts);
			one.nulls = palloc(desc->natts);
		}
		for (uint64 i = 0, count = rows->numvals; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			put_tuple(work, &one, target, rows->vals[i], rows->tupdesc);
		}
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(cursor);
}

/*
 * Makes the target equal to what its foreign table shows, by the differences.
 */
static void
put_difference(EtcdMirrorWork *work)
{
	EtcdTarget *target;

	work->stage = ETCD_STAGE_REACHING;
	target = etcd_target_statements(work->row);
	work->stage = ETCD_STAGE_PUTTING;
	SPI_connect();
	work->differences = execute(target->delete_others, SPI_OK_DELETE);
	if (work->pace == ETCD_PACE_BY_KEY || work->row->skip != 0)
		put_rows_apart(work, target);
	else
		work->differences += execute(target->repair, SPI_OK_INSERT);
	SPI_finish();
}

/*
 * All at the revision that the transaction has found to be the latest.
 */
void
etcd_mirror_apply_snapshot(void *arg)
{
	EtcdMirrorWork *work = arg;
	EtcdFollowed followed = {0};
	int64		read;

	work->stage = ETCD_STAGE_REACHING;
	/* A filter may be such that nothing is read. */
	followed.revision = etcd_present_revision(work->row->server);
	put_difference(work);
	read = etcd_transaction_revision(etcd_server_by_name(work->row->server));
	if (read != 0)
		followed.revision = read;
	advance(work, &followed);
}

/*
 * Compares the target with etcd as it was at the position, and puts it right.
 */
void
etcd_mirror_apply_verification(void *arg)
{
	EtcdMirrorWork *work = arg;
	EtcdFollowed followed = {work->position, 0, 0, work->row->cluster};

	(void) set_config_option("etcd_fdw.revision", psprintf(INT64_FORMAT, work->position), PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	put_difference(work);
	advance(work, &followed);
	etcd_follower_note_repair(work->row->name, work->differences);
}

/*
 * Gives the position back: what happened since is not known any more.
 */
void
etcd_mirror_forget_position(void *arg)
{
	EtcdMirrorWork *work = arg;
	EtcdFollowed followed = {0};

	/* It is not just that etcd cannot be asked in this way. */
	(void) etcd_present_revision(work->row->server);
	advance(work, &followed);
}
