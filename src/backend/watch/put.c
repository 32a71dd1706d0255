/*
 * put.c
 *	  Puts keys into a mirror's target, and finds those that it refuses.
 *
 * Keys are put together, each lot in a subtransaction.  Of a lot that is refused
 * each half is put, down to single keys.  A row may need another that comes
 * later: so this is done again as long as fewer keys are refused each time.
 * Those that are refused in the end are left out, where somebody has said so,
 * or are what the mirror fails of.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "scan/feed.h"
#include "watch/leftout.h"
#include "watch/put.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

uint64
etcd_run_step(const char *sql, int expected)
{
	int			result = SPI_execute(sql, false, 0);

	if (result != expected)
		elog(ERROR, "statement of a mirror failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * A statement that sees these keys in the foreign table, and no others.
 */
uint64
etcd_run_fed(const char *sql, int expected, const EtcdMirrorWork *work, const EtcdKeyValue *kvs, uint32 count)
{
	EtcdFeed	feed = {.table = work->row->source, .kind = ETCD_FEED_INSTEAD, .count = count, .kvs = kvs};
	uint64		rows;

	if (sql == NULL || count == 0)
		return 0;
	etcd_feed(&feed);
	rows = etcd_run_step(sql, expected);
	etcd_feed(NULL);
	return rows;
}

/* ---- steps ---- */

/*
 * Which constraints of all tables are deferred at first, when that matters:
 * they are told by their names alone.
 */
static const char *
deferring(void)
{
	char	   *names;

	(void) etcd_run_step("SELECT pg_catalog.string_agg(pg_catalog.format('%I.%I', c.nspname, c.conname), ', ') FROM ("
						 "SELECT n.nspname, o.conname FROM pg_catalog.pg_constraint o"
						 " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) o.connamespace"
						 " WHERE pg_catalog.has_schema_privilege(n.oid, 'USAGE')"
						 " GROUP BY 1, 2 HAVING pg_catalog.bool_and(o.condeferred)) c", SPI_OK_SELECT);
	names = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return names == NULL ? NULL : psprintf("SET CONSTRAINTS %s DEFERRED", names);
}

/*
 * SPI is connected.
 */
void
etcd_putting_begin(EtcdPutting *putting, EtcdMirrorWork *work, EtcdTarget *target)
{
	memset(putting, 0, sizeof(EtcdPutting));
	putting->work = work;
	putting->target = target;
	putting->checks = work->pace == ETCD_PACE_CHECKED;
	if (putting->checks)
		putting->defer = deferring();
}

/*
 * What constraints have put off until the commit is looked at now, so that it
 * is known whose fault it is.
 */
void
etcd_check_deferred(EtcdPutting *putting)
{
	if (putting->defer == NULL)
		return;
	(void) etcd_run_step("SET CONSTRAINTS ALL IMMEDIATE", SPI_OK_UTILITY);
	(void) etcd_run_step(putting->defer, SPI_OK_UTILITY);
}

/*
 * Runs a step in a subtransaction: NULL, or why the target has refused it.
 */
ErrorData *
etcd_try_step(EtcdPutting *putting, EtcdStep step, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile refusal = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(putting, arg);
		etcd_check_deferred(putting);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		etcd_feed(NULL);
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!etcd_mirror_refuses(putting->work, error))
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

/* ---- keys ---- */

/*
 * Makes the target show these keys as they are now.
 */
void
etcd_put_some(EtcdPutting *putting, const EtcdKeyValue *kvs, uint32 count)
{
	const EtcdTarget *target = putting->target;
	EtcdKeyValue *there;
	EtcdKeyValue *gone;
	uint32		nthere = 0;
	uint32		ngone = 0;

	if (putting->differences)
	{
		putting->work->differences += etcd_run_fed(target->repair, SPI_OK_INSERT, putting->work, kvs, count);
		return;
	}
	there = palloc(sizeof(EtcdKeyValue) * Max(1, count));
	gone = palloc(sizeof(EtcdKeyValue) * Max(1, count));
	for (uint32 i = 0; i < count; i++)
	{
		if (kvs[i].deleted)
			gone[ngone++] = kvs[i];
		else
			there[nthere++] = kvs[i];
	}
	(void) etcd_run_fed(target->delete_gone, SPI_OK_DELETE, putting->work, gone, ngone);
	(void) etcd_run_fed(target->delete_filtered, SPI_OK_DELETE, putting->work, there, nthere);
	(void) etcd_run_fed(target->upsert, SPI_OK_INSERT, putting->work, there, nthere);
	pfree(there);
	pfree(gone);
}

typedef struct Some
{
	const EtcdKeyValue *kvs;
	uint32		count;
} Some;

static void
put_lot(EtcdPutting *putting, void *arg)
{
	Some	   *some = arg;

	etcd_put_some(putting, some->kvs, some->count);
}

/*
 * Copies the key; its value is of no interest any more.
 */
static EtcdKeyValue *
copy_key(const EtcdKeyValue *kv)
{
	EtcdKeyValue *copy = palloc0(sizeof(EtcdKeyValue));
	char	   *key = palloc(Max(1, kv->key_len));

	memcpy(key, kv->key, kv->key_len);
	copy->key = key;
	copy->key_len = kv->key_len;
	copy->numbers[1] = kv->numbers[1];
	copy->deleted = kv->deleted;
	return copy;
}

/*
 * Whether the batch has a later event of the key: what it was in between need
 * not be shown.
 */
static bool
is_superseded(const EtcdMirrorWork *work, const EtcdKeyValue *kv)
{
	int			place = etcd_feed_find(work->kvs, work->count, kv->key, kv->key_len);

	return place >= 0 && work->kvs[place].numbers[1] > kv->numbers[1];
}

static void
refuse(EtcdPutting *putting, const EtcdKeyValue *kv, ErrorData *error)
{
	if (is_superseded(putting->work, kv))
	{
		FreeErrorData(error);
		return;
	}
	putting->refused++;
	if (putting->again != NULL)
		putting->again[putting->nagain++] = *kv;
	if (etcd_may_leave_out(putting->work->row, kv))
		putting->skipped = lappend(putting->skipped, copy_key(kv));
	else if (putting->first == NULL)
	{
		putting->first = copy_key(kv);
		putting->error = error;
		return;
	}
	FreeErrorData(error);
}

/*
 * Puts the keys in lots as large as can be, and notes those that are refused.
 */
void
etcd_put_apart(EtcdPutting *putting, const EtcdKeyValue *kvs, uint32 count)
{
	Some		some = {kvs, count};
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();
	if (count == 0)
		return;
	error = etcd_try_step(putting, put_lot, &some);
	if (error == NULL)
		return;
	if (count == 1)
	{
		refuse(putting, kvs, error);
		return;
	}
	putting->work->merges = putting->work->merges || error->sqlerrcode == ERRCODE_CARDINALITY_VIOLATION;
	FreeErrorData(error);
	etcd_put_apart(putting, kvs, count / 2);
	etcd_put_apart(putting, kvs + count / 2, count - count / 2);
}

/* ---- passes ---- */

static void
begin_pass(EtcdPutting *putting)
{
	putting->refused = 0;
	putting->nagain = 0;
	putting->skipped = NIL;
	putting->first = NULL;
	putting->error = putting->nameless = NULL;
	putting->nameless_key = NULL;
}

static void
remove_row(EtcdPutting *putting, void *arg)
{
	(void) etcd_run_fed(putting->target->delete_gone, SPI_OK_DELETE, putting->work, arg, 1);
}

/*
 * The target does not show the key at all, rather than as it was.
 */
static void
leave_out(EtcdPutting *putting, EtcdKeyValue *kv)
{
	EtcdMirrorWork *work = putting->work;
	ErrorData  *refusal;

	if (!kv->deleted)
	{
		refusal = etcd_try_step(putting, remove_row, kv);
		if (refusal != NULL)
			FreeErrorData(refusal);
	}
	etcd_leave_out(work->left_out, work->row->name, kv);
	ereport(LOG,
			(errmsg("mirror \"%s\" of etcd leaves out key \"%s\" of revision " INT64_FORMAT ", which its target refuses",
					work->row->name, etcd_printable(kv->key, kv->key_len), kv->numbers[1])));
}

static void
fail(EtcdPutting *putting)
{
	EtcdMirrorWork *work = putting->work;
	MemoryContext old = MemoryContextSwitchTo(work->context);

	if (putting->first != NULL)
	{
		work->bad_revision = putting->first->numbers[1];
		work->bad_key = copy_key(putting->first)->key;
		work->bad_len = putting->first->key_len;
	}
	else if (putting->nameless_key != NULL)
	{
		work->bad_revision = 0;
		work->bad_key = pstrdup(putting->nameless_key);
		work->bad_len = strlen(work->bad_key);
	}
	MemoryContextSwitchTo(old);
	ReThrowError(putting->first != NULL ? putting->error : putting->nameless);
}

/*
 * Runs the pass, which puts what has not been put, until nothing is refused
 * that is not left out; or raises the error of the first.
 */
void
etcd_settle(EtcdPutting *putting, EtcdStep pass, void *arg)
{
	uint64		before = PG_UINT64_MAX;

	for (;;)
	{
		ListCell   *lc;

		begin_pass(putting);
		pass(putting, arg);
		if (putting->refused == 0)
			return;
		if (putting->refused < before)
		{
			before = putting->refused;
			continue;
		}
		/* Without these, others may be taken. */
		if (putting->skipped == NIL)
			fail(putting);
		foreach(lc, putting->skipped)
			leave_out(putting, lfirst(lc));
		before = PG_UINT64_MAX;
	}
}

static void
put_rest(EtcdPutting *putting, void *arg)
{
	Some	   *rest = arg;
	EtcdKeyValue *kvs = palloc(sizeof(EtcdKeyValue) * Max(1, rest->count));
	uint32		count = 0;

	for (uint32 i = 0; i < rest->count; i++)
	{
		if (!etcd_is_left_out(putting->work->left_out, &rest->kvs[i]))
			kvs[count++] = rest->kvs[i];
	}
	putting->again = palloc(sizeof(EtcdKeyValue) * Max(1, count));
	etcd_put_apart(putting, kvs, count);
	rest->kvs = putting->again;
	rest->count = putting->nagain;
	putting->again = NULL;
	pfree(kvs);
}

/*
 * Puts all of these keys but those that may be left out and are refused.
 */
void
etcd_put_settled(EtcdPutting *putting, const EtcdKeyValue *kvs, uint32 count)
{
	Some		rest = {kvs, count};

	etcd_settle(putting, put_rest, &rest);
}
