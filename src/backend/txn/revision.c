/*
 * revision.c
 *	  Which revision of etcd a scan reads.
 *
 * All scans of one statement read the revision that the first of them found to
 * be the latest: a statement is known by its snapshot, which nested queries of
 * stable functions share with it and those of volatile functions do not, just
 * as for local tables.  Where PostgreSQL keeps one snapshot for the whole
 * transaction (REPEATABLE READ and above), so it is with the revision.
 *
 * The first scan may be one of a nested query, which is over long before its
 * statement is.  So a snapshot is not known by its address, which another one
 * may take, but by a mark in its own memory, in a field that PostgreSQL leaves
 * at 0 in the copies that statements have.  And by its command: the next one of
 * a rule or an SQL function, to which PostgreSQL moves a snapshot on, is a
 * statement of its own.
 *
 * What becomes of what a statement has read:
 *
 *	HELD -> PARKED		the last query with the snapshot ends, but it is active:
 *						an expression, a rule or an SQL function may go on with
 *						it; PostgreSQL moves on none that somebody holds
 *	PARKED -> HELD		another query with it runs
 *	HELD -> (none)		the last query with it ends; after an error, a portal
 *						or a subtransaction
 *	PARKED -> (none)	many others were parked since
 *	any -> (none)		the transaction ends, as does all that is of it (WHOLE)
 *
 * What one member of etcd knows may be older than what others have read, and
 * it may not know yet what they have: serializable reads have a revision of
 * their own.
 *
 * etcd_fdw.revision is time travel: tables that would read the latest
 * revision read that one.
 */
#include "postgres.h"

#include "base/compat.h"
#include "server/setter.h"
#include "txn/revision.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"

typedef enum ReadState
{
	READ_WHOLE,					/* of the transaction, whatever the snapshot */
	READ_HELD,					/* of a snapshot that is registered here */
	READ_PARKED					/* of a snapshot that may be gone */
} ReadState;

/* Those that are parked: more than expressions are nested in practice. */
#define MAX_PARKED	32

typedef struct ReadRevision
{
	dlist_node	node;
	ReadState	state;
	Snapshot	snapshot;		/* NULL unless it is held */
	uint64		mark;			/* of the snapshot; 0 for the transaction's */
	CommandId	command;
	Oid			serverid;
	bool		serializable;
	int64		revision;
	uint64		cluster;		/* whose revision it is; 0 when that is not known */
} ReadRevision;

static uint64 last_mark = 0;
static dlist_head read_revisions = DLIST_STATIC_INIT(read_revisions);
static ExecutorEnd_hook_type next_executor_end = NULL;
static char *session_revision_text = NULL;

/* A value of etcd_fdw.revision. */
typedef struct RevisionSetting
{
	int64		revision;
	Oid			setter;
} RevisionSetting;

static RevisionSetting *session_revision = NULL;	/* NULL: the latest */

/*
 * Whether all statements of the transaction share one state, or this one has a
 * snapshot to be known by.
 */
static bool
has_state(EState *estate)
{
	return IsolationUsesXactSnapshot() || estate->es_snapshot != NULL;
}

/*
 * The field counts transactions for snapshots that are taken again; a copy is not.
 */
static uint64 *
mark_of(Snapshot snapshot)
{
	return &snapshot->snapXactCompletionCount;
}

static bool
is_of(const ReadRevision *read, EState *estate)
{
	if (IsolationUsesXactSnapshot() || estate->es_snapshot == NULL)
		return read->state == READ_WHOLE;
	return read->state != READ_WHOLE && read->mark == *mark_of(estate->es_snapshot) &&
		read->command == estate->es_snapshot->curcid;
}

static void
hold(ReadRevision *read, Snapshot snapshot)
{
	read->snapshot = RegisterSnapshotOnOwner(snapshot, TopTransactionResourceOwner);
	read->state = READ_HELD;
}

static void
let_go(ReadRevision *read)
{
	Snapshot	snapshot = read->snapshot;

	if (read->state != READ_HELD)
		return;
	read->snapshot = NULL;
	read->state = READ_PARKED;
	UnregisterSnapshotFromOwner(snapshot, TopTransactionResourceOwner);
}

static void
forget(ReadRevision *read)
{
	dlist_delete(&read->node);
	let_go(read);
	pfree(read);
}

/*
 * What the statement has read, which from now on is held.
 */
static ReadRevision *
find_revision(EState *estate, Oid serverid, bool serializable)
{
	dlist_iter	iter;

	dlist_foreach(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (!is_of(read, estate) || read->serverid != serverid || read->serializable != serializable)
			continue;
		if (read->state == READ_PARKED)
			hold(read, estate->es_snapshot);
		return read;
	}
	return NULL;
}

static int
holds_on(Snapshot snapshot)
{
	dlist_iter	iter;
	int			holds = 0;

	dlist_foreach(iter, &read_revisions)
		holds += dlist_container(ReadRevision, node, iter.cur)->snapshot == snapshot;
	return holds;
}

/*
 * Whether anybody may read by this again, as far as that is known.
 */
static bool
is_wanted(const ReadRevision *read)
{
	switch (read->state)
	{
		case READ_WHOLE:
			return true;
		case READ_HELD:
			return read->snapshot->active_count > 0 || read->snapshot->regd_count > holds_on(read->snapshot);
		case READ_PARKED:
			return ActiveSnapshotSet() && *mark_of(GetActiveSnapshot()) == read->mark;
	}
	return false;
}

/*
 * Whether the transaction may read a revision of this server again, so that it
 * must go on with the cluster that the revision is of.
 */
bool
etcd_holds_revision(Oid serverid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (read->serverid == serverid && is_wanted(read))
			return true;
	}
	return false;
}

/*
 * Forgets of snapshots that nobody else holds, or all.
 */
static void
release_snapshots(bool all)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (all || (read->state == READ_HELD && !is_wanted(read)))
			forget(read);
	}
}

static void
forget_oldest_parked(void)
{
	dlist_mutable_iter iter;
	int			parked = 0;

	dlist_foreach_modify(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (read->state == READ_PARKED && ++parked > MAX_PARKED)
			forget(read);
	}
}

/*
 * A query has ended that may have been the last with its snapshot.
 */
static void
executor_end(QueryDesc *query)
{
	Snapshot	snapshot = query->snapshot;
	dlist_mutable_iter iter;

	if (next_executor_end != NULL)
		next_executor_end(query);
	else
		standard_ExecutorEnd(query);
	/* The query itself holds it until it is freed, and nobody else does. */
	if (dlist_is_empty(&read_revisions) || snapshot == NULL || snapshot->regd_count > holds_on(snapshot) + 1)
		return;
	dlist_foreach_modify(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (read->snapshot != snapshot)
			continue;
		if (snapshot->active_count == 0)
			forget(read);
		else
		{
			let_go(read);
			dlist_move_head(&read_revisions, &read->node);
		}
	}
	forget_oldest_parked();
}

/*
 * The revision that this statement has read of the server; 0 for none yet.
 */
int64
etcd_statement_revision(EState *estate, Oid serverid, bool serializable)
{
	ReadRevision *read = has_state(estate) ? find_revision(estate, serverid, serializable) : NULL;

	return read != NULL ? read->revision : 0;
}

/*
 * The revision that this transaction reads of the server, at REPEATABLE READ
 * or above; 0 for none yet.
 */
int64
etcd_transaction_revision(Oid serverid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (read->state == READ_WHOLE && read->serverid == serverid)
			return read->revision;
	}
	return 0;
}

void
etcd_set_statement_revision(EState *estate, Oid serverid, bool serializable, int64 revision, uint64 cluster)
{
	ReadRevision *read;

	if (!has_state(estate) || find_revision(estate, serverid, serializable) != NULL)
		return;
	release_snapshots(false);
	read = MemoryContextAllocZero(TopTransactionContext, sizeof(ReadRevision));
	if (!IsolationUsesXactSnapshot())
	{
		Snapshot	snapshot = estate->es_snapshot;

		Assert(snapshot->copied);
		if (*mark_of(snapshot) == 0)
			*mark_of(snapshot) = ++last_mark;
		read->mark = *mark_of(snapshot);
		read->command = snapshot->curcid;
		hold(read, snapshot);
	}
	read->serverid = serverid;
	read->serializable = serializable;
	read->revision = revision;
	read->cluster = cluster;
	dlist_push_head(&read_revisions, &read->node);
}

/*
 * Raises 40001 when the statement's revision was read from another cluster:
 * where a connection was made anew, the server may lead elsewhere by now, and a
 * number of the one cluster says nothing in the other.
 */
void
etcd_check_cluster(EState *estate, Oid serverid, bool serializable, uint64 cluster)
{
	ReadRevision *read = has_state(estate) ? find_revision(estate, serverid, serializable) : NULL;

	if (read != NULL && read->cluster != 0 && cluster != 0 && read->cluster != cluster)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not go on reading foreign server \"%s\"", GetForeignServer(serverid)->servername),
				 errdetail("It leads to another etcd cluster than before in this transaction."),
				 errhint("The transaction might succeed if retried.")));
}

static void
resources_released(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	(void) is_commit;
	(void) arg;
	/* What the transaction's own end releases has been dealt with below. */
	if (phase == RESOURCE_RELEASE_AFTER_LOCKS && !is_top_level)
		release_snapshots(false);
}

static void
transaction_event(XactEvent event, void *arg)
{
	(void) arg;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			release_snapshots(true);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			/* The transaction's resource owner takes the snapshots back, its memory the rest. */
			dlist_init(&read_revisions);
			break;
		default:
			break;
	}
}

/*
 * The value of etcd_fdw.revision for what this query reads as this role; 0 for
 * the latest, which is also what a SECURITY DEFINER function, a view or a policy
 * reads where its owner's caller has set it.
 */
int64
etcd_named_revision(Oid userid, EState *estate)
{
	PlannedStmt *query = estate != NULL ? estate->es_plannedstmt : NULL;

	if (session_revision == NULL ||
		!etcd_setter_counts_for(session_revision->setter, userid, query != NULL && query->dependsOnRole))
		return 0;
	return session_revision->revision;
}

static bool
check_revision(char **newval, void **extra, GucSource source)
{
	char	   *end;
	long long	revision;
	RevisionSetting *parsed;

	errno = 0;
	revision = strtoll(*newval, &end, 10);
	if (**newval < '0' || **newval > '9' || *end != '\0' || errno != 0)
	{
		GUC_check_errdetail("A revision is a number; 0 is the latest.");
		return false;
	}
	parsed = compat_guc_alloc(sizeof(RevisionSetting));
	if (parsed == NULL)
		return false;
	parsed->revision = (int64) revision;
	parsed->setter = etcd_setter(source);
	*extra = parsed;
	return true;
}

static void
assign_revision(const char *newval, void *extra)
{
	(void) newval;
	session_revision = extra;
}

void
etcd_revision_init(void)
{
	next_executor_end = ExecutorEnd_hook;
	ExecutorEnd_hook = executor_end;
	RegisterXactCallback(transaction_event, NULL);
	RegisterResourceReleaseCallback(resources_released, NULL);
	DefineCustomStringVariable("etcd_fdw.revision",
							   "Reads etcd as it was at this revision.",
							   "0 is the latest. A table's option revision takes precedence.",
							   &session_revision_text, "0", PGC_USERSET, 0,
							   check_revision, assign_revision, NULL);
	etcd_setter_recall("etcd_fdw.revision", session_revision ? &session_revision->setter : NULL);
}
