/*
 * worker.c
 *	  The worker of a database: hands the events of all its subscriptions on,
 *	  and keeps a worker for each of its mirrors (keeper.c).
 *
 * It waits for all subscriptions at once, each with a request of its own at the
 * proxy.  What has come is handed on in one transaction, the notifications
 * together with the position behind them, each subscription's in a
 * subtransaction, so that one's trouble is not another's.  It asks as the
 * subscription's owner; nothing that a user has written runs here.
 *
 *	state		what happens						becomes
 *	RESTING		its time has come: it asks			WAITING
 *	RESTING		asking failed						RESTING, for longer
 *	WAITING		the answer is here, or no more		READY
 *	READY		handed on and committed				RESTING, for no time
 *	READY		it failed, or is being changed		RESTING, for longer
 *	any			its row has changed					gone, and new where it runs
 */
#include "postgres.h"

#include "etcd/page.h"
#include "ipc/request.h"
#include "ipc/session.h"
#include "watch/follower.h"
#include "watch/keeper.h"
#include "watch/launch.h"
#include "watch/payload.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

PGDLLEXPORT void etcd_fdw_follow_main(Datum arg);

/* Between two attempts, in ms: twice as long each time. */
#define FIRST_PAUSE_MS	200
#define LONGEST_PAUSE_MS 30000
/* Somebody changes the row: soon again. */
#define BUSY_PAUSE_MS	100
/* The position of a silent range is noted so often, in ms, in case that etcd is compacted. */
#define NOTE_MS			60000

typedef enum SubscriptionState
{
	RESTING,
	WAITING,
	READY
} SubscriptionState;

typedef enum Outcome
{
	OUTCOME_DONE,
	OUTCOME_BUSY,				/* the row is not what it was, or is being changed */
	OUTCOME_FAILED
} Outcome;

typedef struct Subscription
{
	dlist_node	node;
	MemoryContext context;		/* of this and what it points to */
	EtcdFollower *row;			/* its revision is the one that is stored */
	SubscriptionState state;
	MemoryContext answer;		/* of the request */
	EtcdRequest *request;
	int64		position;		/* up to where all is known */
	TimestampTz due;			/* of RESTING */
	TimestampTz noted;			/* when the position was stored */
	long		pause;
	/* What became of it in the present transaction. */
	Outcome		outcome;
	int64		reached;
	uint64		cluster;
	bool		stored;
	ErrorData  *error;
	bool		seen;			/* while the rows are read again */
} Subscription;

static dlist_head subscriptions = DLIST_STATIC_INIT(subscriptions);
static MemoryContext loop_context;
/* The table that is followed: of an extension that is made anew there is another. */
static Oid	followed_table = InvalidOid;
/* Somebody has asked to look at the table. */
static bool told_to_look = true;
/* What is known of the table may be wrong. */
static bool is_stale = true;

static bool
same_bytes(const bytea *a, const bytea *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/*
 * Whether the row still says what this follower does.
 */
static bool
is_same(const EtcdFollower *old, const EtcdFollower *new)
{
	return old->owner == new->owner && same_text(old->server, new->server) && same_bytes(old->key, new->key) &&
		same_bytes(old->range_end, new->range_end) && old->prev == new->prev && old->revision == new->revision &&
		same_text(old->channel, new->channel) && old->batch == new->batch;
}

/* ---- what the table says ---- */

static void
end_subscription(Subscription *one)
{
	dlist_delete(&one->node);
	MemoryContextDelete(one->context);
}

static void
add_subscription(EtcdFollower *row, MemoryContext context)
{
	Subscription *one = MemoryContextAllocZero(context, sizeof(Subscription));

	one->context = context;
	one->row = row;
	one->answer = AllocSetContextCreate(context, "etcd_fdw answer", ALLOCSET_SMALL_SIZES);
	one->position = row->revision;
	one->noted = GetCurrentTimestamp();
	one->state = RESTING;
	one->seen = true;
	dlist_push_tail(&subscriptions, &one->node);
}

static bool
keeps_subscription(const EtcdFollower *row)
{
	dlist_iter	iter;

	dlist_foreach(iter, &subscriptions)
	{
		Subscription *one = dlist_container(Subscription, node, iter.cur);

		if (strcmp(one->row->name, row->name) == 0)
		{
			one->seen = is_same(one->row, row);
			return one->seen;
		}
	}
	return false;
}

/*
 * Reads the table, as it is now, into what is followed.  `arg` is set when
 * there is nothing to do: then the worker does not hold up who would rename the
 * database, or copy it.
 */
static void
read_table(void *arg)
{
	bool	   *nothing = arg;
	dlist_mutable_iter iter;
	List	   *rows = etcd_follower_table() == followed_table ? etcd_followers_load(NULL) : NIL;
	ListCell   *lc;

	*nothing = true;
	dlist_foreach_modify(iter, &subscriptions)
		dlist_container(Subscription, node, iter.cur)->seen = false;
	etcd_keeper_look();
	foreach(lc, rows)
	{
		EtcdFollower *row = lfirst(lc);
		MemoryContext context;
		MemoryContext old;
		List	   *copy;

		*nothing = *nothing && !row->running;
		if (!row->running || (row->kind == ETCD_MIRROR ? etcd_keeper_keeps(row, told_to_look) : keeps_subscription(row)))
			continue;
		context = AllocSetContextCreate(TopMemoryContext, "etcd_fdw follower", ALLOCSET_SMALL_SIZES);
		old = MemoryContextSwitchTo(context);
		copy = etcd_followers_load(row->name);
		MemoryContextSwitchTo(old);
		/* By now it may be gone. */
		if (copy == NIL)
			MemoryContextDelete(context);
		else if (row->kind == ETCD_MIRROR)
			etcd_keeper_add(linitial(copy), context);
		else
			add_subscription(linitial(copy), context);
	}
	dlist_foreach_modify(iter, &subscriptions)
	{
		Subscription *one = dlist_container(Subscription, node, iter.cur);

		if (!one->seen)
			end_subscription(one);
	}
	etcd_keeper_end_unseen();
}

/* ---- asking ---- */

static void
rest(Subscription *one, long ms)
{
	MemoryContextReset(one->answer);
	one->request = NULL;
	one->state = RESTING;
	one->due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

typedef struct Note
{
	Subscription *one;
	ErrorData  *error;
} Note;

static void
note_error(void *arg)
{
	Note	   *note = arg;

	if (etcd_follower_table() == followed_table)
		etcd_follower_note_error(note->one->row->name, note->error, 0, NULL, 0);
}

/*
 * It rests for longer each time, and the view says why.
 */
static void
failed(Subscription *one, ErrorData *error)
{
	Note		note = {one, error};
	bool		first = one->pause == 0;

	is_stale = true;
	one->pause = Min(first ? FIRST_PAUSE_MS : one->pause * 2, LONGEST_PAUSE_MS);
	rest(one, one->pause);
	if (first)
		ereport(LOG,
				(errmsg("subscription \"%s\" of etcd could not go on: %s", one->row->name, error->message),
				 error->hint ? errhint("%s", error->hint) : 0));
	etcd_attempt_or_log(note_error, &note, "noting an error");
}

/*
 * Asks with the rights of the owner, until the role is set back.
 */
static void
act_as_owner(const EtcdFollower *row, Oid *user, int *context)
{
	GetUserIdAndSecContext(user, context);
	SetUserIdAndSecContext(row->owner, *context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	/* Raises an error when there is no such role any more. */
	(void) GetUserNameFromId(row->owner, false);
}

static void
ask(void *arg)
{
	Subscription *one = arg;
	EtcdFollower row = *one->row;
	Oid			user;
	int			context;

	row.revision = one->position;
	act_as_owner(&row, &user, &context);
	one->request = etcd_follower_ask(&row, ETCD_FOLLOW_WAIT_MS, one->answer);
	SetUserIdAndSecContext(user, context);
}

static void
ask_those_due(void)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	dlist_foreach(iter, &subscriptions)
	{
		Subscription *one = dlist_container(Subscription, node, iter.cur);
		ErrorData  *error;

		if (one->state != RESTING || one->due > now)
			continue;
		error = etcd_attempt(ask, one, "asking etcd for news");
		if (error == NULL)
			one->state = WAITING;
		else
			failed(one, error);
	}
}

/* ---- handing on ---- */

/*
 * Sends the events as notifications; how many they were.
 */
static int64
notify_events(const EtcdFollower *row, EtcdPage *page)
{
	EtcdKeyValue kv;
	StringInfoData event;
	StringInfoData batch;
	int64		events = 0;

	initStringInfo(&event);
	initStringInfo(&batch);
	while (etcd_page_next(page, &kv))
	{
		resetStringInfo(&event);
		events++;
		etcd_payload_event(&event, row->name, &kv, events);
		if (!row->batch)
		{
			Async_Notify(row->channel, event.data);
			continue;
		}
		if (batch.len > 0 && batch.len + 2 + event.len > ETCD_PAYLOAD_BYTES)
		{
			appendStringInfoChar(&batch, ']');
			Async_Notify(row->channel, batch.data);
			resetStringInfo(&batch);
		}
		appendStringInfoChar(&batch, batch.len == 0 ? '[' : ',');
		appendBinaryStringInfo(&batch, event.data, event.len);
	}
	if (batch.len > 0)
	{
		appendStringInfoChar(&batch, ']');
		Async_Notify(row->channel, batch.data);
	}
	return events;
}

/*
 * What an answer leads to: notifications and the position behind them.
 */
static Outcome
hand_on(Subscription *one)
{
	EtcdFollowed followed = {0};
	ErrorData	fields = {0};
	EtcdPage	page;
	Oid			user;
	int			context;

	one->stored = false;
	etcd_wait(one->request);	/* it is answered, or that is an error */
	if (!etcd_reply_is_error(one->request, &fields))
	{
		etcd_page_open(&page, one->request->reply, one->request->reply_len, ETCD_PAGE_WATCHED);
		one->reached = followed.revision = page.revision;
		followed.behind = page.behind;
		followed.cluster = page.cluster;
		if (etcd_follower_strays(one->row, &page))
			fields.message = "the server leads to another cluster";
		else if (page.kvs == 0 && one->pause == 0 && !TimestampDifferenceExceeds(one->noted, GetCurrentTimestamp(), NOTE_MS))
			return OUTCOME_DONE;
		else
			followed.events = notify_events(one->row, &page);
	}
	else if (fields.sqlerrcode != ERRCODE_INVALID_PARAMETER_VALUE)
		etcd_raise(&fields);
	if (fields.message != NULL)
	{
		StringInfoData payload;

		/* Compacted, or another store: what was missed cannot be told. */
		act_as_owner(one->row, &user, &context);
		one->reached = followed.revision = etcd_present_revision(one->row->server);
		SetUserIdAndSecContext(user, context);
		initStringInfo(&payload);
		etcd_payload_resync(&payload, one->row->name, followed.revision);
		Async_Notify(one->row->channel, payload.data);
	}
	if (!etcd_follower_advance(one->row, &followed))
		return OUTCOME_BUSY;
	if (fields.message != NULL)
		ereport(LOG,
				(errmsg("subscription \"%s\" of etcd goes on behind a gap: %s", one->row->name, fields.message)));
	one->stored = true;
	one->cluster = followed.cluster;
	return OUTCOME_DONE;
}

/*
 * In a subtransaction, which is rolled back unless all is well.
 */
static void
hand_on_apart(Subscription *one)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		one->outcome = hand_on(one);
		if (one->outcome == OUTCOME_BUSY)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(loop_context);
		one->error = CopyErrorData();
		one->outcome = OUTCOME_FAILED;
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_END_TRY();
}

static void
hand_all_on(void *arg)
{
	dlist_iter	iter;

	(void) arg;
	/* Nobody tells when it is dropped. */
	is_stale = is_stale || etcd_follower_table() != followed_table;
	dlist_foreach(iter, &subscriptions)
	{
		Subscription *one = dlist_container(Subscription, node, iter.cur);

		if (one->state == READY)
			hand_on_apart(one);
	}
}

/*
 * What all that is READY becomes.
 */
static void
deliver(void)
{
	ErrorData  *error = etcd_attempt(hand_all_on, NULL, "handing events on");
	dlist_iter	iter;

	dlist_foreach(iter, &subscriptions)
	{
		Subscription *one = dlist_container(Subscription, node, iter.cur);

		if (one->state != READY)
			continue;
		if (error != NULL)
			failed(one, error);
		else if (one->outcome == OUTCOME_FAILED)
			failed(one, one->error);
		else if (one->outcome == OUTCOME_BUSY)
		{
			is_stale = true;
			rest(one, BUSY_PAUSE_MS);
		}
		else
		{
			one->position = one->reached;
			one->pause = 0;
			if (one->stored)
			{
				one->row->revision = one->reached;
				one->row->cluster = one->cluster;
				one->noted = GetCurrentTimestamp();
			}
			rest(one, 0);
		}
	}
}

/*
 * Looks for answers that are here, and for requests that have come to nothing.
 */
static bool
collect(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;
	dlist_iter	iter;

	dlist_foreach(iter, &subscriptions)
	{
		Subscription *one = dlist_container(Subscription, node, iter.cur);

		if (one->state == WAITING && (one->request->state != ETCD_REQUEST_SENT || one->request->give_up <= now))
			one->state = READY;
		any = any || one->state == READY;
	}
	return any;
}

/* ---- the loop ---- */

/*
 * Until when there is nothing to do unless something comes.
 */
static TimestampTz
next_due(void)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), NOTE_MS);
	dlist_iter	iter;

	dlist_foreach(iter, &subscriptions)
	{
		Subscription *one = dlist_container(Subscription, node, iter.cur);

		until = Min(until, one->state == RESTING ? one->due : one->request->give_up);
	}
	return Min(until, etcd_keeper_due());
}

static void
wait_for_news(void)
{
	TimestampTz until = next_due();
	long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

	if (etcd_requests_exist())
	{
		etcd_session_turn(until);
		return;
	}
	if (ms > 0)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
take_lock(void *arg)
{
	bool	   *taken = arg;

	followed_table = etcd_follower_table();
	*taken = OidIsValid(followed_table) && etcd_follow_lock(ETCD_LOCK_DATABASE, NULL);
}

static void
leave_lock(void *arg)
{
	(void) arg;
	if (etcd_follower_table() == followed_table)
		etcd_follow_unlock(ETCD_LOCK_DATABASE, NULL);
}

/*
 * Reads the table until that succeeds; false when there is nothing to do and
 * the worker ends.
 */
static bool
reload(void)
{
	bool		nothing = false;
	ErrorData  *error = etcd_attempt(read_table, &nothing, "reading the followers");

	if (error != NULL)
		ReThrowError(error);
	if (!nothing)
		return true;
	/* Whoever adds a row now finds the lock free, or is seen. */
	etcd_attempt_or_log(leave_lock, NULL, "leaving");
	error = etcd_attempt(read_table, &nothing, "reading the followers");
	if (error != NULL || nothing)
		return false;
	etcd_attempt_or_log(take_lock, &nothing, "coming back");
	return nothing;
}

void
etcd_fdw_follow_main(Datum arg)
{
	bool		ours = false;

	if (!etcd_follow_connect(arg, InvalidOid))
		proc_exit(0);
	loop_context = AllocSetContextCreate(TopMemoryContext, "etcd_fdw follower loop", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(loop_context);
	/* What others have set for themselves is not for this. */
	SetConfigOption("search_path", "pg_catalog", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	/* One row that somebody holds must not hold up the others. */
	SetConfigOption("lock_timeout", "1s", PGC_SUSET, PGC_S_OVERRIDE);
	etcd_attempt_or_log(take_lock, &ours, "starting");
	if (!ours)
		proc_exit(0);
	before_shmem_exit(etcd_keeper_end_all, (Datum) 0);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			told_to_look = true;
		}
		if ((told_to_look || is_stale) && !reload())
			proc_exit(0);
		told_to_look = is_stale = false;
		/* The row of one that has ended may say why. */
		is_stale = etcd_keeper_tend(followed_table) || is_stale;
		ask_those_due();
		if (collect())
			deliver();
		else if (!is_stale)
			wait_for_news();
		MemoryContextReset(loop_context);
	}
}
