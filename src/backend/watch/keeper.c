/*
 * keeper.c
 *	  Keeps a worker for each mirror of a database: starts it, tells it to look
 *	  at its row, starts it again when it has ended, and ends it with the row.
 *
 * It is a part of the database's worker.
 */
#include "postgres.h"

#include "watch/keeper.h"
#include "watch/launch.h"

#include "lib/ilist.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"

/* A mirror's worker that has ended is started again after this, in ms, and then twice as long each time. */
#define MIRROR_PAUSE_MS	2000
#define LONGEST_PAUSE_MS 30000

typedef struct Mirror
{
	dlist_node	node;
	MemoryContext context;
	EtcdFollower *row;
	BackgroundWorkerHandle *handle; /* NULL: none was started */
	TimestampTz due;
	long		pause;
	bool		seen;
} Mirror;

static dlist_head mirrors = DLIST_STATIC_INIT(mirrors);

/*
 * The rows are read again: those that are not seen now are no more.
 */
void
etcd_keeper_look(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &mirrors)
		dlist_container(Mirror, node, iter.cur)->seen = false;
}

void
etcd_keeper_add(EtcdFollower *row, MemoryContext context)
{
	Mirror	   *one = MemoryContextAllocZero(context, sizeof(Mirror));

	one->context = context;
	one->row = row;
	one->seen = true;
	dlist_push_tail(&mirrors, &one->node);
}

/*
 * Whether this mirror's worker is kept already; it is told to look at its row.
 */
bool
etcd_keeper_keeps(const EtcdFollower *row, bool told_to_look)
{
	dlist_iter	iter;

	dlist_foreach(iter, &mirrors)
	{
		Mirror	   *one = dlist_container(Mirror, node, iter.cur);

		if (strcmp(one->row->name, row->name) == 0 && one->row->owner == row->owner)
		{
			pid_t		pid;

			/* It looks at its row by itself, or it has ended for what has changed now. */
			if (told_to_look && one->handle != NULL && GetBackgroundWorkerPid(one->handle, &pid) == BGWH_STARTED)
				(void) kill(pid, SIGHUP);
			else if (told_to_look)
				one->due = one->pause = 0;
			return one->seen = true;
		}
	}
	return false;
}

void
etcd_keeper_end_unseen(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &mirrors)
	{
		Mirror	   *one = dlist_container(Mirror, node, iter.cur);

		if (one->seen)
			continue;
		if (one->handle != NULL)
			TerminateBackgroundWorker(one->handle);
		dlist_delete(&one->node);
		MemoryContextDelete(one->context);
	}
}

/*
 * When a worker is to be started.
 */
TimestampTz
etcd_keeper_due(void)
{
	TimestampTz until = DT_NOEND;
	dlist_iter	iter;

	dlist_foreach(iter, &mirrors)
	{
		Mirror	   *one = dlist_container(Mirror, node, iter.cur);

		if (one->handle == NULL)
			until = Min(until, one->due);
	}
	return until;
}

/*
 * Nobody would look after them.
 */
void
etcd_keeper_end_all(int code, Datum arg)
{
	dlist_iter	iter;

	(void) code;
	(void) arg;
	dlist_foreach(iter, &mirrors)
	{
		Mirror	   *one = dlist_container(Mirror, node, iter.cur);

		if (one->handle != NULL)
			TerminateBackgroundWorker(one->handle);
	}
}

typedef struct Launching
{
	Mirror	   *one;
	Oid			table;			/* that is followed */
	bool		may;
} Launching;

/*
 * A session of nobody's, or of one who may not log in, would fail at once.
 */
static void
check_owner(void *arg)
{
	Launching  *launching = arg;
	const EtcdFollower *row = launching->one->row;
	ErrorData	error = {0};

	launching->may = etcd_owner_may_work(row->owner);
	if (launching->may || etcd_follower_table() != launching->table)
		return;
	error.sqlerrcode = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
	error.message = psprintf("the owner of mirror \"%s\" does not exist any more, or may not log in to this database", row->name);
	error.hint = "It needs CONNECT, and LOGIN before PostgreSQL 17.";
	etcd_follower_note_error(row->name, &error, 0, NULL, 0);
}

static void
launch(Mirror *one, Oid table)
{
	Launching	launching = {one, table, false};
	MemoryContext old;

	etcd_attempt_or_log(check_owner, &launching, "starting a mirror");
	if (!launching.may)
		return;
	old = MemoryContextSwitchTo(one->context);
	one->handle = etcd_launch_mirror(one->row);
	MemoryContextSwitchTo(old);
	if (one->handle == NULL)
		ereport(LOG,
				(errmsg("no background worker slot is free for mirror \"%s\" of etcd", one->row->name),
				 errhint("Raise max_worker_processes.")));
}

/*
 * Starts the workers that do not run; whether one has ended by itself.
 */
bool
etcd_keeper_tend(Oid table)
{
	bool		ended = false;
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	dlist_foreach(iter, &mirrors)
	{
		Mirror	   *one = dlist_container(Mirror, node, iter.cur);
		pid_t		pid;

		if (one->handle != NULL && GetBackgroundWorkerPid(one->handle, &pid) == BGWH_STOPPED)
		{
			ended = true;
			pfree(one->handle);
			one->handle = NULL;
		}
		if (one->handle != NULL || one->due > now)
			continue;
		/* Those that do not live long are not started all the time. */
		one->pause = Min(one->pause == 0 ? MIRROR_PAUSE_MS : one->pause * 2, LONGEST_PAUSE_MS);
		one->due = TimestampTzPlusMilliseconds(now, one->pause);
		launch(one, table);
	}
	return ended;
}
