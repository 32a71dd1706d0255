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
 * etcd_fdw.revision is time travel: tables that would read the latest
 * revision read that one.
 */
#include "postgres.h"

#include "base/compat.h"
#include "txn/revision.h"

#include "access/xact.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapshot.h"

typedef struct ReadRevision
{
	dlist_node	node;
	MemoryContextCallback release;
	Snapshot	snapshot;		/* NULL: of the transaction */
	Oid			serverid;
	int64		revision;
} ReadRevision;

static dlist_head read_revisions = DLIST_STATIC_INIT(read_revisions);
static char *session_revision_text = NULL;
static int64 session_revision = 0;

/*
 * An executor state holds its snapshot as long as it lives, so that no other
 * snapshot can have the same address.
 */
static Snapshot
snapshot_of(EState *estate)
{
	return IsolationUsesXactSnapshot() ? NULL : estate->es_snapshot;
}

static ReadRevision *
find_revision(EState *estate, Oid serverid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &read_revisions)
	{
		ReadRevision *read = dlist_container(ReadRevision, node, iter.cur);

		if (read->snapshot == snapshot_of(estate) && read->serverid == serverid)
			return read;
	}
	return NULL;
}

static void
forget_revision(void *arg)
{
	dlist_delete(&((ReadRevision *) arg)->node);
}

/*
 * The revision that this statement has read of the server; 0 for none yet.
 */
int64
etcd_statement_revision(EState *estate, Oid serverid)
{
	ReadRevision *read = find_revision(estate, serverid);

	return read != NULL ? read->revision : 0;
}

void
etcd_set_statement_revision(EState *estate, Oid serverid, int64 revision)
{
	Snapshot	snapshot = snapshot_of(estate);
	MemoryContext context = snapshot == NULL ? TopTransactionContext : estate->es_query_cxt;
	ReadRevision *read;

	if (find_revision(estate, serverid) != NULL)
		return;
	read = MemoryContextAllocZero(context, sizeof(ReadRevision));
	read->snapshot = snapshot;
	read->serverid = serverid;
	read->revision = revision;
	read->release.func = forget_revision;
	read->release.arg = read;
	dlist_push_head(&read_revisions, &read->node);
	MemoryContextRegisterResetCallback(context, &read->release);
}

/*
 * The value of etcd_fdw.revision; 0 for the latest.
 */
int64
etcd_session_revision(void)
{
	return session_revision;
}

static bool
check_revision(char **newval, void **extra, GucSource source)
{
	char	   *end;
	long long	revision;
	int64	   *parsed;

	(void) source;
	errno = 0;
	revision = strtoll(*newval, &end, 10);
	if (**newval < '0' || **newval > '9' || *end != '\0' || errno != 0)
	{
		GUC_check_errdetail("A revision is a number; 0 is the latest.");
		return false;
	}
	parsed = compat_guc_alloc(sizeof(int64));
	if (parsed == NULL)
		return false;
	*parsed = (int64) revision;
	*extra = parsed;
	return true;
}

static void
assign_revision(const char *newval, void *extra)
{
	(void) newval;
	session_revision = *(int64 *) extra;
}

void
etcd_revision_init(void)
{
	DefineCustomStringVariable("etcd_fdw.revision",
							   "Reads etcd as it was at this revision.",
							   "0 is the latest. A table's option revision takes precedence.",
							   &session_revision_text, "0", PGC_USERSET, 0,
							   check_revision, assign_revision, NULL);
}
