/*
 * launch.c
 *	  How the workers that follow etcd come to life.
 *
 * There is one for each database with subscriptions or mirrors, and one for
 * each mirror.  A change of the table tells the database's worker to look when
 * it is committed, or starts one.  Of two that start the lock decides: the
 * other tells the one that has it to look, and leaves.  Who leaves because there
 * is nothing to do looks once more when others could have the lock.
 *
 * Dynamic workers do not outlive the server.  With etcd_fdw in
 * shared_preload_libraries a launcher starts them again, on a standby once it
 * has been promoted.  Without, the next change of the table or
 * etcd_follow() does.
 */
#include "postgres.h"

#include "base/compat.h"
#include "watch/follower.h"
#include "watch/launch.h"

#include <signal.h>
#include <sys/stat.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "common/relpath.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(etcd_fdw_followers_changed);
PG_FUNCTION_INFO_V1(etcd_fdw_follow);
PG_FUNCTION_INFO_V1(etcd_fdw_home);
PGDLLEXPORT void etcd_fdw_follow_main(Datum arg);
PGDLLEXPORT void etcd_fdw_launch_main(Datum arg);

/* A worker that has died is started again after so many seconds. */
#define RESTART_S		5
/* How long a mirror's second worker waits for the first to leave, if it does. */
#define LOCK_TRIES		10
#define LOCK_POLL_MS	50
/* How long the launcher waits for a worker that finds nothing to do, so that all do not take slots at once. */
#define LAUNCH_TRIES	100
#define LAUNCH_POLL_MS	20

typedef enum Wish
{
	WISH_NONE,
	WISH_WORKER
} Wish;

/* What this transaction wants at its commit, and for which table. */
static Wish wish = WISH_NONE;
static Oid	wish_table = InvalidOid;
/* Of a worker. */
static LOCKTAG own_lock;

static Oid
own_tablespace(void)
{
	return MyDatabaseTableSpace;
}

static void
describe_worker(BackgroundWorker *worker, Oid database, const char *function, const char *type)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_main_arg = ObjectIdGetDatum(database);
	strlcpy(worker->bgw_library_name, "etcd_fdw", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker->bgw_type, type, BGW_MAXLEN);
	strlcpy(worker->bgw_name, type, BGW_MAXLEN);
}

static bool
launch_database(Oid database, Oid tablespace, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	describe_worker(&worker, database, "etcd_fdw_follow_main", "etcd_fdw follower");
	worker.bgw_restart_time = RESTART_S;
	memcpy(worker.bgw_extra, &tablespace, sizeof(tablespace));
	if (handle != NULL)
		worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/*
 * Starts a mirror's worker; NULL when no slot is free.
 */
BackgroundWorkerHandle *
etcd_launch_mirror(const EtcdFollower *mirror)
{
	BackgroundWorker worker;
	EtcdMirrorStart start = {own_tablespace(), mirror->owner, ""};
	BackgroundWorkerHandle *handle;

	StaticAssertStmt(sizeof(start) <= BGW_EXTRALEN, "what a worker is told does not fit");
	describe_worker(&worker, MyDatabaseId, "etcd_fdw_mirror_main", "etcd_fdw mirror");
	snprintf(worker.bgw_name, BGW_MAXLEN, "etcd_fdw mirror \"%s\"", mirror->name);
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(start.name, mirror->name, sizeof(start.name));
	memcpy(worker.bgw_extra, &start, sizeof(start));
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/*
 * Connects a worker to its database; false when that is no more.  Without this
 * look, a worker would be started again for ever.
 */
bool
etcd_follow_connect(Datum arg, Oid role)
{
	Oid			database = DatumGetObjectId(arg);
	Oid			tablespace;
	char	   *path;
	struct stat there;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	memcpy(&tablespace, MyBgworkerEntry->bgw_extra, sizeof(tablespace));
	path = GetDatabasePath(database, tablespace);
	if (stat(path, &there) != 0)
		return false;
	pfree(path);
	BackgroundWorkerInitializeConnectionByOid(database, role, COMPAT_BYPASS_LOGIN);
	/* What is set for sessions is not for this one: it reads the present, takes its time, and no crash undoes it. */
	SetConfigOption("etcd_fdw.revision", "0", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "on", PGC_USERSET, PGC_S_OVERRIDE);
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_USERSET, PGC_S_OVERRIDE);
	return true;
}

/*
 * Runs `work` in a transaction of its own, with a snapshot; NULL, or the error
 * that ended it, in the current memory context.
 */
ErrorData *
etcd_attempt_at(int isolation, void (*work) (void *arg), void *arg, const char *activity)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	pgstat_report_activity(STATE_RUNNING, activity);
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		XactIsoLevel = isolation;
		XactReadOnly = false;
		PushActiveSnapshot(GetTransactionSnapshot());
		work(arg);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		/* It may have failed within subtransactions. */
		AbortOutOfAnyTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	(void) pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	return error;
}

ErrorData *
etcd_attempt(void (*work) (void *arg), void *arg, const char *activity)
{
	return etcd_attempt_at(XACT_READ_COMMITTED, work, arg, activity);
}

/*
 * For what goes on without.
 */
void
etcd_attempt_or_log(void (*work) (void *arg), void *arg, const char *activity)
{
	ErrorData  *error = etcd_attempt(work, arg, activity);

	if (error != NULL)
		ereport(LOG, (errmsg("etcd_fdw failed while %s: %s", activity, error->message)));
}

/*
 * Who holds the lock; 0 for nobody.  It may be idle, which
 * GetLockConflicts() passes over.
 */
static int
holder_of(const LOCKTAG *tag)
{
	LockData   *locks = GetLockStatusData();

	int			pid = 0;

	for (int i = 0; i < locks->nelements && pid == 0; i++)
	{
		LockInstanceData *one = &locks->locks[i];

		if (one->holdMask != 0 && memcmp(&one->locktag, tag, sizeof(LOCKTAG)) == 0)
			pid = one->pid;
	}
	pfree(locks->locks);
	pfree(locks);
	return pid;
}

/*
 * Takes the lock of this worker for as long as the process lives; when another
 * has it, that one is told to look at the table.
 */
bool
etcd_follow_lock(EtcdFollowerLock kind, const char *name)
{
	LOCKTAG		tag;
	int			pid;

	etcd_follower_tag(&tag, etcd_follower_table(), kind, name);
	for (int i = 0; i < LOCK_TRIES; i++)
	{
		if (LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL)
		{
			own_lock = tag;
			return true;
		}
		pid = holder_of(&tag);
		if (pid != 0 && kind == ETCD_LOCK_DATABASE)
		{
			(void) kill(pid, SIGHUP);
			return false;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOCK_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

/*
 * Whether the lock is still there: a trigger of the target can give back all
 * such locks of its session.  Then it is taken again.
 */
bool
etcd_follow_holds(void)
{
	LockAcquireResult result = LockAcquire(&own_lock, ExclusiveLock, true, true);

	if (result == LOCKACQUIRE_ALREADY_HELD || result == LOCKACQUIRE_ALREADY_CLEAR)
		LockRelease(&own_lock, ExclusiveLock, true);
	return result != LOCKACQUIRE_NOT_AVAIL;
}

void
etcd_follow_unlock(EtcdFollowerLock kind, const char *name)
{
	LOCKTAG		tag;
	Oid			table = etcd_follower_table();

	if (!OidIsValid(table))
		return;
	etcd_follower_tag(&tag, table, kind, name);
	LockRelease(&tag, ExclusiveLock, true);
}

/* ---- starting at commit ---- */

/*
 * Tells the worker of the database to look; false when there is none.  It may
 * not fail: all is committed.
 */
static bool
tell_worker(void)
{
	MemoryContext context = CurrentMemoryContext;
	LOCKTAG		tag;
	volatile int pid = 0;

	etcd_follower_tag(&tag, wish_table, ETCD_LOCK_DATABASE, NULL);
	PG_TRY();
	{
		pid = holder_of(&tag);
	}
	PG_CATCH();
	{
		/* Out of memory: what GetLockStatusData() held is all that is held here. */
		LWLockReleaseAll();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return pid != 0 && kill(pid, SIGHUP) == 0;
}

static void
transaction_event(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_COMMIT && wish == WISH_WORKER && !tell_worker() &&
		!launch_database(MyDatabaseId, own_tablespace(), NULL))
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot is free to follow etcd"),
				 errhint("Raise max_worker_processes, and call etcd_follow().")));
	/* Whoever commits it would not know that a worker is to look. */
	if (event == XACT_EVENT_PRE_PREPARE && wish == WISH_WORKER)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot prepare a transaction that has changed subscriptions or mirrors of etcd")));
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		wish = WISH_NONE;
}

/*
 * Trigger of the followers' table: their worker has to look at it.  What a
 * subtransaction has done in vain makes it look, too.
 */
Datum
etcd_fdw_followers_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "etcd_fdw_followers_changed() is a trigger");
	if (RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation) != etcd_follower_table())
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("etcd_fdw_followers_changed() is for the table of etcd_fdw's subscriptions and mirrors alone")));
	wish = WISH_WORKER;
	wish_table = etcd_follower_table();
	return PointerGetDatum(NULL);
}

/*
 * etcd_fdw_home() returns text
 *
 * A dump, a copy of the database, and pg_upgrade take the followers elsewhere; a
 * standby that is promoted is at home.
 */
Datum
etcd_fdw_home(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), MyDatabaseId)));
}

/*
 * Followers that were restored, or copied, go on here: those of roles that the
 * present one is a member of.
 */
static void
settle_here(void)
{
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(GetUserId())};

	SPI_connect();
	(void) etcd_follower_run("UPDATE %s.etcd_fdw_follower f SET home = %s.etcd_fdw_home()"
							 " WHERE f.home OPERATOR(pg_catalog.<>) %s.etcd_fdw_home()"
							 " AND pg_catalog.pg_has_role($1, f.owner::pg_catalog.oid, 'USAGE')", 1, types, values, NULL,
							 SPI_OK_UPDATE);
	SPI_finish();
}

/*
 * etcd_follow() returns void
 *
 * Has the worker of this database started, when the transaction commits and
 * there is something to follow.
 */
Datum
etcd_fdw_follow(PG_FUNCTION_ARGS)
{
	List	   *followers;
	ListCell   *lc;
	bool		foreign = false;

	(void) fcinfo;
	PreventCommandDuringRecovery("etcd_follow()");
	followers = etcd_followers_load(NULL);
	foreach(lc, followers)
	{
		EtcdFollower *one = lfirst(lc);

		foreign = foreign || (one->restored && has_privs_of_role(GetUserId(), one->owner));
		if (!one->running)
			continue;
		wish = WISH_WORKER;
		wish_table = etcd_follower_table();
	}
	/* What this changes is a wish, too. */
	if (foreign)
		settle_here();
	PG_RETURN_VOID();
}

/* ---- starting with the server ---- */

typedef struct Place
{
	Oid			database;
	Oid			tablespace;
} Place;

typedef struct Places
{
	MemoryContext context;
	List	   *all;
} Places;

static void
list_databases(void *arg)
{
	Places	   *places = arg;
	Relation	catalog = table_open(DatabaseRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(catalog, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old = MemoryContextSwitchTo(places->context);
		Place	   *place = palloc(sizeof(Place));

		place->database = database->oid;
		place->tablespace = database->dattablespace;
		if (database->datallowconn && !database->datistemplate)
			places->all = lappend(places->all, place);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/*
 * Waits until the worker has found that it has nothing to do, or long enough.
 */
static void
await_idle(BackgroundWorkerHandle *handle)
{
	pid_t		pid;

	for (int i = 0; i < LAUNCH_TRIES; i++)
	{
		if (GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LAUNCH_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
etcd_fdw_launch_main(Datum arg)
{
	Places		places = {TopMemoryContext, NIL};
	ErrorData  *error;
	ListCell   *lc;

	(void) arg;
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	error = etcd_attempt(list_databases, &places, "looking for databases");
	if (error != NULL)
		ReThrowError(error);
	foreach(lc, places.all)
	{
		Place	   *place = lfirst(lc);
		BackgroundWorkerHandle *handle;

		if (launch_database(place->database, place->tablespace, &handle))
			await_idle(handle);
		else
			ereport(LOG,
					(errmsg("no background worker slot is free to follow etcd"),
					 errhint("Raise max_worker_processes.")));
	}
	proc_exit(0);
}

void
etcd_follow_init(void)
{
	BackgroundWorker worker;

	RegisterXactCallback(transaction_event, NULL);
	if (!process_shared_preload_libraries_in_progress)
		return;
	describe_worker(&worker, InvalidOid, "etcd_fdw_launch_main", "etcd_fdw launcher");
	worker.bgw_restart_time = RESTART_S;
	RegisterBackgroundWorker(&worker);
}
