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
 *	r			its tables are not what they were	0
 *	r			the target refuses a row			r, and the mirror FAILED
 *	any			etcd or the target cannot be had	the same, again after a pause
 */
#include "postgres.h"

#include "ipc/request.h"
#include "ipc/session.h"
#include "scan/feed.h"
#include "watch/apply.h"
#include "watch/follower.h"
#include "watch/launch.h"
#include "watch/leftout.h"
#include "watch/shape.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PGDLLEXPORT void etcd_fdw_mirror_main(Datum arg);

/* Somebody changes the mirror's row: soon again, in ms. */
#define BUSY_PAUSE_MS	100
/* So often in vain, and the view says why nothing happens. */
#define BUSY_TRIES		10
/* Between two attempts, in ms: twice as long each time. */
#define FIRST_PAUSE_MS	500
#define LONGEST_PAUSE_MS 30000
/* The position of a silent range is noted so often, in ms. */
#define NOTE_MS			60000

static MemoryContext loop_context;
static MemoryContext row_context;
/* Whose events have come, though none may have been stored; 0 when that is not known. */
static uint64 told_cluster = 0;
/* The row may have changed. */
static bool is_stale = false;
/* How often somebody has changed the row meanwhile, one time after the other. */
static int	busy_tries = 0;
/* The mirror that this worker is for; "" in other processes. */
static char own_name[ETCD_FOLLOWER_NAMELEN] = "";

/*
 * Whether this is the worker of that mirror: what changes its row here would
 * make all that is done with it be in vain, again and again.
 */
bool
etcd_is_mirrors_worker(const char *name)
{
	return own_name[0] != '\0' && strcmp(own_name, name) == 0;
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
	loading->row = rows != NIL ? linitial(rows) : NULL;
	if (loading->row != NULL)
		loading->row->left_out = etcd_left_out_load(loading->name);
	MemoryContextSwitchTo(old);
	if (loading->row != NULL &&
		(!loading->row->running || loading->row->kind != ETCD_MIRROR || loading->row->owner != GetSessionUserId()))
		loading->row = NULL;
}

static void
note_refusal(void *arg)
{
	EtcdMirrorWork *work = arg;

	etcd_follower_note_error(work->row->name, work->error, work->bad_revision, work->bad_key, work->bad_len);
	if (etcd_mirror_refuses(work, work->error))
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
try_work(EtcdMirrorWork *work, int isolation, void (*attempt) (void *), const char *activity)
{
	ErrorData  *error = etcd_attempt_at(isolation, attempt, work, activity);

	if (error != NULL)
	{
		work->reached = 0;
		/* It may have failed before its scan was made. */
		etcd_feed(NULL);
	}
	else
	{
		busy_tries = 0;
		is_stale = is_stale || work->row_changed;
	}
	return error;
}

/*
 * An attempt has failed: the row that is at fault is looked for, and the error
 * is noted.  A refusal ends the mirror until it is resumed.
 */
static void
after_failure(EtcdMirrorWork *work, ErrorData *error, int isolation, void (*attempt) (void *), long *pause)
{
	is_stale = true;
	if (work->stage == ETCD_STAGE_BUSY)
	{
		if (++busy_tries == BUSY_TRIES)
		{
			work->error = error;
			etcd_attempt_or_log(note_refusal, work, "noting an error");
		}
		sleep_ms(BUSY_PAUSE_MS);
		return;
	}
	/* Only the commit finds out what was put off until then. */
	while (etcd_mirror_refuses(work, error) &&
		   (work->pace == ETCD_PACE_AT_ONCE || (work->pace == ETCD_PACE_APART && work->stage == ETCD_STAGE_DONE)))
	{
		ErrorData  *again;

		work->merges = work->merges || error->sqlerrcode == ERRCODE_CARDINALITY_VIOLATION;
		work->pace++;
		again = try_work(work, isolation, attempt, "looking for the row that is refused");
		if (again == NULL)
			return;				/* so there was no fault */
		error = again;
	}
	work->error = error;
	ereport(LOG,
			(errmsg("mirror \"%s\" of etcd could not go on: %s", work->row->name, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0));
	etcd_attempt_or_log(note_refusal, work, "noting an error");
	if (etcd_mirror_refuses(work, error))
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
put_snapshot(EtcdMirrorWork *work, long *pause)
{
	ErrorData  *error = try_work(work, XACT_REPEATABLE_READ, etcd_mirror_apply_snapshot, "putting a snapshot of etcd");

	if (error != NULL)
		after_failure(work, error, XACT_REPEATABLE_READ, etcd_mirror_apply_snapshot, pause);
	else
		*pause = 0;
	if (work->reached != 0)
		work->row->revision = work->reached;
}

static void
verify(EtcdMirrorWork *work, long *pause)
{
	ErrorData  *error = try_work(work, XACT_READ_COMMITTED, etcd_mirror_apply_verification, "comparing with etcd");

	if (error != NULL && etcd_mirror_is_compacted(error))
		return;					/* just now: next time */
	if (error != NULL)
		after_failure(work, error, XACT_READ_COMMITTED, etcd_mirror_apply_verification, pause);
	if (work->reached != 0)
		work->row->revision = work->reached;
	if (error == NULL && work->differences > 0)
		ereport(LOG,
				(errmsg("mirror \"%s\" differed from etcd in " INT64_FORMAT " rows, which were put right",
						work->row->name, work->differences)));
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
	EtcdMirrorWork work = {.row = row, .context = loop_context};

	/* A server that has another name cannot be asked. */
	if (etcd_shape_is_stale())
		return position;
	if (error == NULL)
		error = await_news(asking.request);
	if (error == NULL && ConfigReloadPending)
		return position;
	if (error == NULL && etcd_reply_is_error(asking.request, &fields))
		error = &fields;
	if (error == NULL)
	{
		etcd_page_open(&page, asking.request->reply, asking.request->reply_len, ETCD_PAGE_WATCHED);
		if (etcd_follower_strays(row, &page))
		{
			fields.sqlerrcode = ERRCODE_INVALID_PARAMETER_VALUE;
			fields.message = "the server leads to another cluster";
			error = &fields;
		}
		else
			told_cluster = page.cluster;
	}
	if (error != NULL && error->sqlerrcode == ERRCODE_INVALID_PARAMETER_VALUE)
	{
		ereport(LOG, (errmsg("mirror \"%s\" of etcd begins anew: %s", row->name, error->message)));
		work.strays = !etcd_mirror_is_compacted(error);
		error = etcd_attempt(etcd_mirror_forget_position, &work, "beginning anew");
		told_cluster = 0;
		if (error == NULL)
			return row->revision = 0;
	}
	if (error != NULL)
	{
		after_failure(&work, error, XACT_READ_COMMITTED, NULL, pause);
		return position;
	}
	work.page = &page;
	if (page.kvs == 0 && *pause == 0 && !TimestampDifferenceExceeds(*noted, GetCurrentTimestamp(), NOTE_MS))
		return page.revision;
	etcd_mirror_read_events(&work);
	error = try_work(&work, XACT_READ_COMMITTED, etcd_mirror_apply_events, "putting events of etcd");
	if (error != NULL)
		after_failure(&work, error, XACT_READ_COMMITTED, etcd_mirror_apply_events, pause);
	else
		*pause = 0;
	if (work.reached == 0)
		return position;
	row->revision = work.reached;
	row->cluster = page.cluster;
	*noted = GetCurrentTimestamp();
	return work.reached;
}

/*
 * Looks whether the mirror is made of what there is now; if not, its row is
 * another then.
 */
static void
check_shape(EtcdFollower *row, long *pause)
{
	/* There is nothing to be looked for one by one. */
	EtcdMirrorWork work = {.row = row, .context = loop_context, .pace = ETCD_PACE_CHECKED};
	ErrorData  *error = try_work(&work, XACT_READ_COMMITTED, etcd_mirror_check_shape, "looking at the tables");

	if (error == NULL)
		return;
	etcd_shape_doubt();
	after_failure(&work, error, XACT_READ_COMMITTED, etcd_mirror_check_shape, pause);
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
	strlcpy(own_name, start.name, sizeof(own_name));
	if (!etcd_follow_connect(arg, start.owner))
		proc_exit(0);
	/* In another schema, somebody could put what suits the statements' names better; triggers have paths of their own. */
	SetConfigOption("search_path", "pg_catalog", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("standard_conforming_strings", "on", PGC_SUSET, PGC_S_OVERRIDE);
	loop_context = AllocSetContextCreate(TopMemoryContext, "etcd_fdw mirror loop", ALLOCSET_DEFAULT_SIZES);
	etcd_shape_watch();
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
			if (row->cluster == 0 && row->revision != 0)
				row->cluster = told_cluster;
			position = Max(position, row->revision);
		}
		if (etcd_shape_is_stale())
		{
			check_shape(row, &pause);
			continue;
		}
		if (row->revision == 0)
		{
			EtcdMirrorWork work = {.row = row, .context = loop_context};

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
			EtcdMirrorWork work = {.row = row, .context = loop_context, .position = position};

			verified = GetCurrentTimestamp();
			verify(&work, &pause);
			if (is_stale)
				continue;
		}
		position = follow(row, position, wait, &noted, &pause);
	}
}
