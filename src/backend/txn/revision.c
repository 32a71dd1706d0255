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
 * statement is.  So the snapshot is held here, or another one could take its
 * address; it is let go when the last query with it ends.  Then PostgreSQL may
 * move it on to the next command, of a rule or an SQL function, which it does
 * with none that somebody holds: that command is a statement of its own.  After
 * an error, it is let go when a portal or a subtransaction has ended.
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

typedef struct ReadRevision
{
	dlist_node	node;
	Snapshot	snapshot;		/* NULL: of the transaction */
	Oid			serverid;
	bool		serializable;
	int64		revision;
	uint64		cluster;		/* whose revision it is; 0 when that is not known */
} ReadRevision;

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

static Snapshot
snapshot_of(EState *estate)
{
	return IsolationUsesXactSnapshot() ? NULL : estate->es_snapshot;
}

static ReadRevision *
find_revision(EState *estate, Oid serverid, bool serializable)
{
	dlist_iter	iter;

	dlist_foreach(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (read->snapshot == snapshot_of(estate) && read->serverid == serverid &&
			read->serializable == serializable)
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

static void
forget(ReadRevision *read)
{
	dlist_delete(&read->node);
	if (read->snapshot != NULL)
		UnregisterSnapshotFromOwner(read->snapshot, TopTransactionResourceOwner);
	pfree(read);
}

/*
 * Whether anybody may read by this again.
 */
static bool
is_held(const ReadRevision *read)
{
	Snapshot	snapshot = read->snapshot;

	return snapshot == NULL || snapshot->active_count > 0 || snapshot->regd_count > holds_on(snapshot);
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

		if (read->serverid == serverid && is_held(read))
			return true;
	}
	return false;
}

/*
 * Lets go of the snapshots that nobody else holds, or of all.
 */
static void
release_snapshots(bool all)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (all || !is_held(read))
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

		if (read->snapshot == snapshot)
			forget(read);
	}
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

		if (read->snapshot == NULL && read->serverid == serverid)
			return read->revision;
	}
	return 0;
}

void
etcd_set_statement_revision(EState *estate, Oid serverid, bool serializable, int64 revision, uint64 cluster)
{
	Snapshot	snapshot = snapshot_of(estate);
	ReadRevision *read;

	if (!has_state(estate) || find_revision(estate, serverid, serializable) != NULL)
		return;
	release_snapshots(false);
	read = MemoryContextAllocZero(TopTransactionContext, sizeof(ReadRevision));
	if (snapshot != NULL)
		read->snapshot = RegisterSnapshotOnOwner(snapshot, TopTransactionResourceOwner);
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
 * The value of etcd_fdw.revision; 0 for the latest, which is also what a
 * SECURITY DEFINER function reads whose caller has set it.
 */
int64
etcd_session_revision(void)
{
	return session_revision != NULL && etcd_setter_counts(session_revision->setter) ? session_revision->revision : 0;
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
