/*
 * stage.c
 *	  Which servers the transaction has written to, and how it ends there.
 *
 * The proxy holds what a transaction has written (src/ipc/stage.ts).  Here it
 * learns of subtransactions' ends, of rollback, which waits for nothing and
 * cannot fail, and of the commit, which is made before PostgreSQL's own: then a
 * refusal by etcd is still an error of the transaction.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "ipc/channel.h"
#include "constants.h"
#include "txn/stage.h"

#include "access/xact.h"
#include "port/pg_bswap.h"
#include "utils/memutils.h"

typedef struct StagedServer
{
	dlist_node	node;
	Oid			userid;
	Oid			serverid;
	bool		writes;			/* otherwise only what it read is held */
	int			level;			/* the highest that has written, 1 for the top */
} StagedServer;

static dlist_head servers = DLIST_STATIC_INIT(servers);
static bool warned_of_servers = false;

/*
 * The proxy holds something of this transaction on the channel of this user
 * and server.
 */
void
etcd_stage_note(Oid userid, Oid serverid, bool writes)
{
	StagedServer *server = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &servers)
	{
		StagedServer *other = dlist_container(StagedServer, node, iter.cur);

		if (other->userid == userid && other->serverid == serverid)
			server = other;
	}
	if (server == NULL)
	{
		server = MemoryContextAllocZero(TopTransactionContext, sizeof(StagedServer));
		server->userid = userid;
		server->serverid = serverid;
		server->level = 1;
		dlist_push_tail(&servers, &server->node);
	}
	if (writes)
	{
		server->writes = true;
		server->level = Max(server->level, GetCurrentTransactionNestLevel());
	}
}

/*
 * The beginning of a WRITE's or DELETE_RANGE's payload.
 */
void
etcd_stage_header(StringInfo buf, uint8 flags, CommandId command)
{
	etcd_append_uint32(buf, GetCurrentTransactionNestLevel());
	etcd_append_uint32(buf, command);
	appendStringInfoChar(buf, (char) flags);
}

/*
 * Waits for the answer to a STAGE frame and reads it; errors are raised.
 */
void
etcd_stage_reply(EtcdRequest *request, EtcdStageReply *reply)
{
	ErrorData	fields = {0};
	uint64		revision;
	uint32		refused;

	etcd_wait(request);
	if (etcd_reply_is_error(request, &fields))
		etcd_raise(&fields);
	refused = request->reply_len >= 16 ? etcd_get_uint32(request->reply + 12) : 0;
	if (request->reply_len < 16 || request->reply_len != 16 + 4 * (Size) refused)
		elog(ERROR, "the etcd proxy sent a malformed answer");
	memcpy(&revision, request->reply, sizeof(revision));
	reply->revision = (int64) pg_ntoh64(revision);
	reply->count = etcd_get_uint32(request->reply + 8);
	reply->refused = NIL;
	for (uint32 i = 0; i < refused; i++)
		reply->refused = lappend_int(reply->refused, (int) etcd_get_uint32(request->reply + 16 + 4 * i));
}

/*
 * Commits on one server.  An interrupt while etcd is at it leaves open how it
 * ends, which is an error of its own.
 */
static void
commit_server(StagedServer *server)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "etcd_fdw commit", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EtcdRequest *request = etcd_stage(server->userid, server->serverid, STAGE_COMMIT, "", 0, context);
	EtcdStageReply reply;

	PG_TRY();
	{
		etcd_wait(request);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->elevel > ERROR)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
				 errmsg("whether the transaction took effect in etcd is not known"),
				 errdetail("While etcd was committing: %s.", error->message),
				 errhint("Read the rows concerned before you write them again.")));
	}
	PG_END_TRY();
	etcd_stage_reply(request, &reply);
	etcd_stage_forget(server->userid, server->serverid);
	if (reply.count > 1)
		ereport(WARNING,
				(errmsg("the transaction was written to etcd in %u Txns", reply.count),
				 errdetail("Other clients may have seen a part of it; all of its guards were checked before."),
				 errhint("The server's option max_txn_ops raises what one Txn holds, as far as etcd's --max-txn-ops allows; atomic 'require' makes this an error.")));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static void
commit_all(void)
{
	int			writing = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &servers)
	{
		if (dlist_container(StagedServer, node, iter.cur)->writes)
			writing++;
	}
	if (writing > 1 && !warned_of_servers)
	{
		warned_of_servers = true;
		ereport(WARNING,
				(errmsg("the transaction commits on %d etcd servers, one after the other", writing),
				 errdetail("When a later one refuses, the earlier ones keep what was written.")));
	}
	dlist_foreach(iter, &servers)
	{
		StagedServer *server = dlist_container(StagedServer, node, iter.cur);

		if (server->writes)
			commit_server(server);
	}
}

static void
end_all(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &servers)
	{
		StagedServer *server = dlist_container(StagedServer, node, iter.cur);

		etcd_stage_end(server->userid, server->serverid, STAGE_END, 0);
	}
	/* Their memory is the transaction's. */
	dlist_init(&servers);
}

static void
transaction_event(XactEvent event, void *arg)
{
	(void) arg;
	if (dlist_is_empty(&servers))
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			commit_all();
			break;
		case XACT_EVENT_PRE_PREPARE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has operated on etcd foreign tables"),
					 errdetail("etcd cannot promise to commit later.")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			end_all();
			break;
		default:
			break;
	}
}

static void
subtransaction_event(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	dlist_iter	iter;

	(void) id;
	(void) parent;
	(void) arg;
	if (event != SUBXACT_EVENT_PRE_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	dlist_foreach(iter, &servers)
	{
		StagedServer *server = dlist_container(StagedServer, node, iter.cur);

		if (server->level < level)
			continue;
		server->level = level - 1;
		etcd_stage_end(server->userid, server->serverid,
					   event == SUBXACT_EVENT_ABORT_SUB ? STAGE_ROLLBACK : STAGE_RELEASE, level);
	}
}

void
etcd_stage_init(void)
{
	RegisterXactCallback(transaction_event, NULL);
	RegisterSubXactCallback(subtransaction_event, NULL);
}
