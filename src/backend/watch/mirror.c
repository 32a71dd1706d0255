/*
 * mirror.c
 *	  The worker of one mirror: a local table kept equal to a foreign table.
 *
 * It is a session of the mirror's owner, so that triggers, constraints and
 * whatever else the target has runs as it would for him.  First, or when etcd
 * has forgotten what happened since, the target is made equal to the foreign
 * table at one revision, by its differences; then it follows the events.  Each
 * batch is a transaction that moves the position on with the rows.  Of several
 * events of a key in a batch the last one counts.
 *
 *	position	what happens						becomes
 *	0			a snapshot is put					its revision
 *	0			the target refuses a row			0, and the mirror FAILED
 *	r			events come							their revision
 *	r			etcd does not know any more			0
 *	r			the target refuses a row			r, and the mirror FAILED
 *	any			etcd or the target cannot be had	the same, again after a pause
 */
#include "postgres.h"

#include "etcd/page.h"
#include "ipc/request.h"
#include "ipc/session.h"
#include "scan/feed.h"
#include "server/server.h"
#include "txn/revision.h"
#include "base/bytes.h"
#include "watch/follower.h"
#include "watch/launch.h"
#include "watch/target.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PGDLLEXPORT void etcd_fdw_mirror_main(Datum arg);

/* Somebody changes the mirror's row: soon again, in ms. */
#define BUSY_PAUSE_MS	100
/* Between two attempts, in ms: twice as long each time. */
#define FIRST_PAUSE_MS	500
#define LONGEST_PAUSE_MS 30000
/* The position of a silent range is noted so often, in ms. */
#define NOTE_MS			60000
/* Rows of a snapshot that are taken at a time when they are put one by one. */
#define FETCH_ROWS		200

/* How far an attempt at the target has come. */
typedef enum Stage
{
	STAGE_REACHING,				/* etcd, and the target, have to be there */
	STAGE_PUTTING,				/* rows are put */
	STAGE_BUSY,					/* all is put, but somebody changes the mirror's row */
	STAGE_DONE					/* the position is moved on, if the transaction commits */
} Stage;

/* What one attempt at the target works with, and finds out. */
typedef struct Work
{
	EtcdFollower *row;
	EtcdPage   *page;			/* of events */
	EtcdKeyValue *kvs;			/* the last event of each key, in the order of keys */
	uint32		count;
	int64		position;		/* that is to be verified */
	int64		reached;		/* the revision that the target shows now */
	int64		differences;	/* rows that were put right */
	bool		one_by_one;		/* to find the row that the target refuses */
	bool		merges;			/* several keys would be one row, which one by one does not show */
	Stage		stage;
	/* Of the row that was refused. */
	int64		bad_revision;
	const char *bad_key;
	int			bad_len;
	ErrorData  *error;
} Work;

static MemoryContext loop_context;
static MemoryContext row_context;
/* The row may have changed. */
static bool is_stale = false;

/*
 * Whether what is to go to the target is at fault, rather than that something
 * cannot be had just now.
 */
static bool
is_refusal(const Work *work, const ErrorData *error)
{
	if (work->stage == STAGE_REACHING || work->stage == STAGE_BUSY || error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
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
 * The last event of each key.
 */
static void
read_events(Work *work)
{
	uint32		all = 0;
	EtcdKeyValue kv;

	work->kvs = palloc(sizeof(EtcdKeyValue) * Max(1, work->page->kvs));
	while (etcd_page_next(work->page, &kv))
		work->kvs[all++] = kv;
	qsort(work->kvs, all, sizeof(EtcdKeyValue), by_key);
	work->count = 0;
	for (uint32 i = 0; i < all; i++)
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

typedef void (*Step) (Work *work, void *arg);

/*
 * Runs a step in a subtransaction; what the target refuses is passed over where
 * that is wanted, and is the error otherwise.
 */
static void
try_step(Work *work, Step step, void *arg, bool pass)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

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
		if (!pass || !is_refusal(work, error))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ereport(LOG,
				(errmsg("mirror \"%s\" of etcd leaves out what its target refuses: %s", work->row->name, error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

typedef struct OneKey
{
	const EtcdTarget *target;
	const EtcdKeyValue *kv;
} OneKey;

static void
put_one_key(Work *work, void *arg)
{
	OneKey	   *one = arg;

	put_keys(one->target, work->row->source, one->kv, 1);
}

static void
put_keys_apart(Work *work, const EtcdTarget *target)
{
	for (uint32 i = 0; i < work->count; i++)
	{
		OneKey		one = {target, &work->kvs[i]};

		work->bad_revision = one.kv->numbers[1];
		work->bad_key = one.kv->key;
		work->bad_len = one.kv->key_len;
		if (work->one_by_one || one.kv->numbers[1] == work->row->skip)
			try_step(work, put_one_key, &one, one.kv->numbers[1] == work->row->skip);
	}
	work->bad_key = NULL;
}

/*
 * All that is not put apart at once: a row may need one that comes later.
 */
static void
put_keys_at_once(Work *work, const EtcdTarget *target)
{
	EtcdKeyValue *kvs = palloc(sizeof(EtcdKeyValue) * Max(1, work->count));
	uint32		count = 0;

	for (uint32 i = 0; i < work->count && !work->one_by_one; i++)
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
advance(Work *work, const EtcdFollowed *followed)
{
	if (work->merges)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("several keys of etcd are the same row of the target of mirror \"%s\"", work->row->name),
				 errhint("A number is the same with a zero before it: declare the columns of the key as text.")));
	work->stage = STAGE_BUSY;
	if (!etcd_follower_advance(work->row, followed))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("mirror \"%s\" is being changed", work->row->name)));
	work->stage = STAGE_DONE;
	work->reached = followed->revision;
}

/*
 * A batch of events, and the position behind it.
 */
static void
apply_events(void *arg)
{
	Work	   *work = arg;
	EtcdFollowed followed = {work->page->revision, work->page->kvs, work->page->behind};
	work->stage = STAGE_REACHING;
	if (work->count > 0)
	{
		EtcdTarget *target = etcd_target_statements(work->row);

		work->stage = STAGE_PUTTING;
		SPI_connect();
		put_keys_at_once(work, target);
		put_keys_apart(work, target);
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
put_one_row(Work *work, void *arg)
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
key_text(const EtcdTarget *target, HeapTuple tuple, TupleDesc desc)
{
	MemoryContext old = MemoryContextSwitchTo(loop_context);
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
put_tuple(Work *work, OneRow *one, const EtcdTarget *target, HeapTuple tuple, TupleDesc desc)
{
	char	   *key = key_text(target, tuple, desc);

	/* It is told when the transaction, with its memory, has failed. */
	if (work->one_by_one)
	{
		work->bad_key = MemoryContextStrdup(loop_context, key);
		work->bad_len = strlen(key);
	}
	for (int i = 0; i < desc->natts; i++)
	{
		bool		isnull;

		one->values[i] = SPI_getbinval(tuple, desc, i + 1, &isnull);
		one->nulls[i] = isnull ? 'n' : ' ';
	}
	try_step(work, put_one_row, one, work->row->skip != 0);
	if (work->bad_key != NULL)
		pfree((void *) work->bad_key);
	work->bad_key = NULL;
	pfree(key);
}

/*
 * Puts the rows one by one; slow, for when one of them is refused.
 */
static void
put_rows_apart(Work *work, const EtcdTarget *target)
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
put_difference(Work *work)
{
	EtcdTarget *target;

	work->stage = STAGE_REACHING;
	target = etcd_target_statements(work->row);
	work->stage = STAGE_PUTTING;
	SPI_connect();
	work->differences = execute(target->delete_others, SPI_OK_DELETE);
	if (work->one_by_one || work->row->skip != 0)
		put_rows_apart(work, target);
	else
		work->differences += execute(target->repair, SPI_OK_INSERT);
	SPI_finish();
}

/*
 * All at the revision that the transaction has found to be the latest.
 */
static void
apply_snapshot(void *arg)
{
	Work	   *work = arg;
	EtcdFollowed followed = {0};
	int64		read;

	work->stage = STAGE_REACHING;
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
static void
apply_verification(void *arg)
{
	Work	   *work = arg;
	EtcdFollowed followed = {work->position, 0, 0};

	(void) set_config_option("etcd_fdw.revision", psprintf(INT64_FORMAT, work->position), PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	put_difference(work);
	advance(work, &followed);
	etcd_follower_note_repair(work->row->name, work->differences);
}

/* ---- the loop ---- */

typedef struct Loading
{
	const char *name;
	EtcdFollower *row;			/* NULL: there is none, or it does not run */
} Loading;

static void
load_row(void *arg)
{
	Loading    *loading = arg;
	MemoryContext old;
	List	   *rows;

	MemoryContextReset(row_context);
	old = MemoryContextSwitchTo(row_context);
	rows = OidIsValid(etcd_follower_table()) ? etcd_followers_load(loading->name) : NIL;
	MemoryContextSwitchTo(old);
	loading->row = rows != NIL ? linitial(rows) : NULL;
	if (loading->row != NULL &&
		(!loading->row->running || loading->row->kind != ETCD_MIRROR || loading->row->owner != GetSessionUserId()))
		loading->row = NULL;
}

static void
note_refusal(void *arg)
{
	Work	   *work = arg;

	etcd_follower_note_error(work->row->name, work->error, work->bad_revision, work->bad_key, work->bad_len);
	if (is_refusal(work, work->error))
		etcd_follower_fail(work->row->name);
}

static void
take_lock(void *arg)
{
	Loading    *loading = arg;

	if (loading->row != NULL && !etcd_follow_lock(ETCD_LOCK_MIRROR, loading->name))
		loading->row = NULL;
}

static void
sleep_ms(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * What was reached counts when it is committed.
 */
static ErrorData *
try_work(Work *work, int isolation, void (*attempt) (void *), const char *activity)
{
	ErrorData  *error = etcd_attempt_at(isolation, attempt, work, activity);

	if (error != NULL)
	{
		work->reached = 0;
		/* It may have failed before its scan was made. */
		etcd_feed(NULL);
	}
	return error;
}

/*
 * An attempt has failed: the row that is at fault is looked for, and the error
 * is noted.  A refusal ends the mirror until it is resumed.
 */
static void
after_failure(Work *work, ErrorData *error, int isolation, void (*attempt) (void *), long *pause)
{
	is_stale = true;
	if (work->stage == STAGE_BUSY)
	{
		sleep_ms(BUSY_PAUSE_MS);
		return;
	}
	if (is_refusal(work, error) && !work->one_by_one)
	{
		ErrorData  *again;

		work->one_by_one = true;
		work->merges = error->sqlerrcode == ERRCODE_CARDINALITY_VIOLATION;
		again = try_work(work, isolation, attempt, "looking for the row that is refused");
		if (again == NULL)
			return;				/* one by one there was no fault */
		error = again;
	}
	work->error = error;
	ereport(LOG,
			(errmsg("mirror \"%s\" of etcd could not go on: %s", work->row->name, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0));
	etcd_attempt_or_log(note_refusal, work, "noting an error");
	if (is_refusal(work, error))
		proc_exit(0);
	*pause = Min(*pause == 0 ? FIRST_PAUSE_MS : *pause * 2, LONGEST_PAUSE_MS);
	sleep_ms(*pause);
}

typedef struct Asking
{
	EtcdFollower *row;
	int64		position;
	int			wait;			/* ms */
	MemoryContext context;
	EtcdRequest *request;
} Asking;

static void
ask(void *arg)
{
	Asking	   *asking = arg;
	EtcdFollower row = *asking->row;

	row.revision = asking->position;
	asking->request = etcd_follower_ask(&row, asking->wait, asking->context);
}

static void
put_snapshot(Work *work, long *pause)
{
	ErrorData  *error = try_work(work, XACT_REPEATABLE_READ, apply_snapshot, "putting a snapshot of etcd");

	/* What is compacted while it is read is read anew. */
	if (error != NULL && error->sqlerrcode == ERRCODE_INVALID_PARAMETER_VALUE && strstr(error->message, "compacted") != NULL)
		error->sqlerrcode = ERRCODE_T_R_SERIALIZATION_FAILURE;
	if (error != NULL)
		after_failure(work, error, XACT_REPEATABLE_READ, apply_snapshot, pause);
	else
		*pause = 0;
	if (work->reached != 0)
		work->row->revision = work->reached;
}

static void
verify(Work *work, long *pause)
{
	ErrorData  *error = try_work(work, XACT_READ_COMMITTED, apply_verification, "comparing with etcd");

	if (error != NULL && error->sqlerrcode == ERRCODE_INVALID_PARAMETER_VALUE)
		return;					/* compacted just now: next time */
	if (error != NULL)
		after_failure(work, error, XACT_READ_COMMITTED, apply_verification, pause);
	if (work->reached != 0)
		work->row->revision = work->reached;
	if (error == NULL && work->differences > 0)
		ereport(LOG,
				(errmsg("mirror \"%s\" differed from etcd in " INT64_FORMAT " rows, which were put right",
						work->row->name, work->differences)));
}

/*
 * Gives the position back: what happened since is not known any more.
 */
static void
forget_position(void *arg)
{
	Work	   *work = arg;
	EtcdFollowed followed = {0};

	/* It is not just that etcd cannot be asked in this way. */
	(void) etcd_present_revision(work->row->server);
	advance(work, &followed);
}

/*
 * Waits for the answer, outside of a transaction: it may take long; no longer
 * than until somebody wants the row to be looked at.  NULL, or why there is no
 * answer.
 */
static ErrorData *
await_news(EtcdRequest *request)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		while (request->state == ETCD_REQUEST_SENT && !ConfigReloadPending && GetCurrentTimestamp() < request->give_up)
			etcd_session_turn(request->give_up);
		if (!ConfigReloadPending)
			etcd_wait(request);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(loop_context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	return error;
}

/*
 * Waits for news and puts them; the position that is known then.
 */
static int64
follow(EtcdFollower *row, int64 position, int wait, TimestampTz *noted, long *pause)
{
	Asking		asking = {row, position, wait, loop_context, NULL};
	ErrorData  *error = etcd_attempt(ask, &asking, NULL);
	ErrorData	fields = {0};
	EtcdPage	page;
	Work		work = {.row = row};

	if (error == NULL)
		error = await_news(asking.request);
	if (error == NULL && ConfigReloadPending)
		return position;
	if (error == NULL && etcd_reply_is_error(asking.request, &fields))
		error = &fields;
	if (error != NULL && error->sqlerrcode == ERRCODE_INVALID_PARAMETER_VALUE)
	{
		ereport(LOG, (errmsg("mirror \"%s\" of etcd begins anew: %s", row->name, error->message)));
		error = etcd_attempt(forget_position, &work, "beginning anew");
		if (error == NULL)
			return row->revision = 0;
	}
	if (error != NULL)
	{
		after_failure(&work, error, XACT_READ_COMMITTED, NULL, pause);
		return position;
	}
	etcd_page_open(&page, asking.request->reply, asking.request->reply_len, ETCD_PAGE_WATCHED);
	work.page = &page;
	if (page.kvs == 0 && *pause == 0 && !TimestampDifferenceExceeds(*noted, GetCurrentTimestamp(), NOTE_MS))
		return page.revision;
	read_events(&work);
	error = try_work(&work, XACT_READ_COMMITTED, apply_events, "putting events of etcd");
	if (error != NULL)
		after_failure(&work, error, XACT_READ_COMMITTED, apply_events, pause);
	else
		*pause = 0;
	if (work.reached == 0)
		return position;
	row->revision = work.reached;
	*noted = GetCurrentTimestamp();
	return work.reached;
}

/*
 * The row as it is now; the worker ends when it is not its any more.
 */
static EtcdFollower *
reload(const char *name)
{
	Loading		loading = {name, NULL};
	ErrorData  *error = etcd_attempt(load_row, &loading, "reading the mirror");

	if (error != NULL)
		ReThrowError(error);
	if (loading.row == NULL)
		proc_exit(0);
	return loading.row;
}

void
etcd_fdw_mirror_main(Datum arg)
{
	EtcdMirrorStart start;
	Loading		loading = {start.name, NULL};
	EtcdFollower *row;
	TimestampTz noted;
	TimestampTz verified;
	int64		position;
	long		pause = 0;
	int			wait;

	memcpy(&start, MyBgworkerEntry->bgw_extra, sizeof(start));
	if (!etcd_follow_connect(arg, start.owner))
		proc_exit(0);
	loop_context = AllocSetContextCreate(TopMemoryContext, "etcd_fdw mirror loop", ALLOCSET_DEFAULT_SIZES);
	row_context = AllocSetContextCreate(TopMemoryContext, "etcd_fdw mirror", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(loop_context);
	row = loading.row = reload(start.name);
	etcd_attempt_or_log(take_lock, &loading, "starting");
	if (loading.row == NULL)
		proc_exit(0);
	position = row->revision;
	noted = verified = GetCurrentTimestamp();
	for (;;)
	{
		MemoryContextReset(loop_context);
		CHECK_FOR_INTERRUPTS();
		if (!etcd_follow_holds())
			proc_exit(0);
		/* A trigger's SET ROLE is for its transaction. */
		if (GetUserId() != GetSessionUserId())
			SetConfigOption("role", "none", PGC_USERSET, PGC_S_SESSION);
		if (ConfigReloadPending || is_stale || row->revision == 0)
		{
			is_stale = false;
			if (ConfigReloadPending)
			{
				ConfigReloadPending = false;
				ProcessConfigFile(PGC_SIGHUP);
			}
			row = reload(start.name);
			position = Max(position, row->revision);
		}
		if (row->revision == 0)
		{
			Work		work = {.row = row};

			put_snapshot(&work, &pause);
			position = row->revision;
			verified = GetCurrentTimestamp();
			continue;
		}
		wait = ETCD_FOLLOW_WAIT_MS;
		if (row->verify_ms > 0)
			wait = (int) Min(wait, TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
																   TimestampTzPlusMilliseconds(verified, row->verify_ms)));
		if (wait == 0)
		{
			Work		work = {.row = row, .position = position};

			verified = GetCurrentTimestamp();
			verify(&work, &pause);
			if (is_stale)
				continue;
		}
		position = follow(row, position, wait, &noted, &pause);
	}
}
