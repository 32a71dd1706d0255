/*
 * apply.c
 *	  What a mirror's worker does in one transaction: puts a snapshot by its
 *	  differences, or a batch of events, and moves the position on.
 *
 * Of several events of a key in a batch the last one counts.  When the target
 * refuses something, all is tried again more slowly (enum EtcdMirrorPace).
 */
#include "postgres.h"

#include "base/bytes.h"
#include "server/server.h"
#include "txn/revision.h"
#include "watch/apply.h"
#include "watch/leftout.h"
#include "watch/put.h"
#include "watch/shape.h"
#include "watch/target.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/*
 * Whether etcd has forgotten the revision while it was read.
 */
bool
etcd_mirror_is_compacted(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_INVALID_PARAMETER_VALUE && strstr(error->message, "compacted") != NULL;
}

/*
 * Whether what is to go to the target is at fault, rather than that something
 * cannot be had just now.
 */
bool
etcd_mirror_refuses(const EtcdMirrorWork *work, const ErrorData *error)
{
	if (work->stage == ETCD_STAGE_REACHING || work->stage == ETCD_STAGE_BUSY ||
		error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE || etcd_mirror_is_compacted(error))
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

/*
 * Keys of events that are put: not those that are left out as they are.
 */
static uint32
take_keys(EtcdMirrorWork *work, bool skipped, EtcdKeyValue *kvs)
{
	uint32		count = 0;

	for (uint32 i = 0; i < work->count; i++)
	{
		if (etcd_may_leave_out(work->row, &work->kvs[i]) == skipped && !etcd_is_left_out(work->left_out, &work->kvs[i]))
			kvs[count++] = work->kvs[i];
	}
	return count;
}

/*
 * All at once, as a row may need one that comes later; then what may be refused,
 * and left out.
 */
static void
put_at_once(EtcdPutting *putting)
{
	EtcdMirrorWork *work = putting->work;
	EtcdKeyValue *kvs = palloc(sizeof(EtcdKeyValue) * Max(1, work->count));

	etcd_put_some(putting, kvs, take_keys(work, false, kvs));
	if (work->row->nskips > 0)
		etcd_put_settled(putting, kvs, take_keys(work, true, kvs));
	pfree(kvs);
}

/*
 * Revision by revision, as etcd came through it: what other constraints than
 * the key's would refuse at once, they may take so.
 */
static void
put_in_order(EtcdPutting *putting)
{
	EtcdMirrorWork *work = putting->work;
	uint32		end;

	for (uint32 i = 0; i < work->nevents; i = end)
	{
		CHECK_FOR_INTERRUPTS();
		for (end = i; end < work->nevents && work->events[end].numbers[1] == work->events[i].numbers[1];)
			end++;
		/* Scans expect them so. */
		qsort(&work->events[i], end - i, sizeof(EtcdKeyValue), by_key);
		etcd_put_settled(putting, &work->events[i], end - i);
	}
}

static void
begin_attempt(EtcdMirrorWork *work)
{
	work->stage = ETCD_STAGE_REACHING;
	work->bad_key = NULL;
	work->bad_revision = 0;
	work->differences = 0;
	work->left_out = etcd_left_out_copy(work->row->left_out);
}

/*
 * The statements for the target, or an error if the tables may not be what the
 * mirror was made of.
 */
EtcdTarget *
etcd_mirror_reach(EtcdMirrorWork *work)
{
	EtcdTarget *target;

	etcd_shape_expect(work->row);
	if (etcd_shape_is_stale())
	{
		work->stage = ETCD_STAGE_BUSY;
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a table of mirror \"%s\" has changed", work->row->name)));
	}
	target = etcd_target_statements(work->row);
	work->stage = ETCD_STAGE_PUTTING;
	etcd_check_kind(work->row);
	return target;
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
	work->row_changed = work->left_out->changed;
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

	begin_attempt(work);
	if (work->count > 0)
	{
		EtcdTarget *target = etcd_mirror_reach(work);
		EtcdPutting putting;

		SPI_connect();
		etcd_putting_begin(&putting, work, target);
		/* What was left out is tried anew when it has changed. */
		for (uint32 i = 0; i < work->count && work->left_out->count > 0; i++)
			etcd_left_out_changed(work->left_out, work->row->name, &work->kvs[i]);
		if (work->pace == ETCD_PACE_AT_ONCE)
			put_at_once(&putting);
		else
			put_in_order(&putting);
		SPI_finish();
	}
	advance(work, &followed);
}

/* ---- snapshots ---- */

/*
 * All at the revision that the transaction has found to be the latest.
 */
void
etcd_mirror_apply_snapshot(void *arg)
{
	EtcdMirrorWork *work = arg;
	EtcdFollowed followed = {0};
	int64		read;

	begin_attempt(work);
	/* A filter may be such that nothing is read. */
	followed.revision = etcd_present_revision(work->row->server);
	etcd_put_difference(work);
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

	begin_attempt(work);
	(void) set_config_option("etcd_fdw.revision", psprintf(INT64_FORMAT, work->position), PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	etcd_put_difference(work);
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

	begin_attempt(work);
	/* It is not just that etcd cannot be asked in this way. */
	(void) etcd_present_revision(work->row->server);
	if (work->strays)
		etcd_left_out_forget(work->row->name);
	advance(work, &followed);
}
