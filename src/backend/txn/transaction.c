/*
 * transaction.c
 *	  Ends the transactions that the proxy holds as PostgreSQL's ends.
 *
 * The proxy learns of subtransactions' ends, of rollback, which waits for
 * nothing and cannot fail, and of the commit, which is made before
 * PostgreSQL's own: then a refusal by etcd is still an error of the
 * transaction.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "base/compat.h"
#include "constants.h"
#include "ipc/session.h"
#include "txn/revision.h"
#include "txn/stage.h"
#include "txn/transaction.h"

#include "access/xact.h"
#include "commands/tablecmds.h"
#include "storage/predicate.h"
#include "utils/memutils.h"

/* Those of the present transaction; their memory is the transaction's. */
static dlist_head transactions = DLIST_STATIC_INIT(transactions);
static bool warned_of_servers = false;

/*
 * The transaction in which this role uses the server; NULL when there is none
 * yet.  A role stays in the transaction that it has begun to use: a user mapping
 * that another session makes meanwhile must not tear it in two.
 */
EtcdTransaction *
etcd_transaction_of(Oid userid, Oid serverid)
{
	EtcdChannel *channel;
	dlist_iter	iter;

	if (dlist_is_empty(&transactions))
		return NULL;
	dlist_foreach(iter, &transactions)
	{
		EtcdTransaction *transaction = dlist_container(EtcdTransaction, node, iter.cur);

		if (transaction->channel->key.serverid == serverid && list_member_oid(transaction->roles, userid))
			return transaction;
	}
	channel = etcd_channel(userid, serverid, ETCD_CHANNEL_OF_MAPPING);
	dlist_foreach(iter, &transactions)
	{
		EtcdTransaction *transaction = dlist_container(EtcdTransaction, node, iter.cur);

		if (transaction->channel == channel)
			return transaction;
	}
	return NULL;
}

/*
 * Raises an error when what the proxy held is lost.
 */
void
etcd_transaction_check(EtcdTransaction *transaction)
{
	if (transaction->state == ETCD_TRANSACTION_OPEN &&
		(etcd_session_state() == ETCD_SESSION_DOWN || transaction->generation != etcd_session_generation()))
		transaction->state = ETCD_TRANSACTION_LOST;
	if (transaction->state == ETCD_TRANSACTION_LOST)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the connection to the etcd proxy was lost, and the transaction's writes with it"),
				 errhint("Nothing was written to etcd: repeat the transaction.")));
}

/*
 * The transaction in which this role uses the server, on a channel that is open
 * and ready.
 */
EtcdTransaction *
etcd_transaction_begin(Oid userid, Oid serverid)
{
	EtcdTransaction *transaction = etcd_transaction_of(userid, serverid);
	EtcdChannel *channel = transaction ? transaction->channel : etcd_channel(userid, serverid, ETCD_CHANNEL_OF_MAPPING);

	etcd_channel_ready(channel, userid, etcd_holds_revision(serverid));
	if (transaction == NULL)
	{
		transaction = MemoryContextAllocZero(TopTransactionContext, sizeof(EtcdTransaction));
		transaction->state = ETCD_TRANSACTION_OPEN;
		transaction->channel = channel;
		transaction->generation = etcd_session_generation();
		transaction->level = 1;
		dlist_push_tail(&transactions, &transaction->node);
		channel->busy = true;
	}
	if (!list_member_oid(transaction->roles, userid))
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		transaction->roles = lappend_oid(transaction->roles, userid);
		MemoryContextSwitchTo(old);
	}
	etcd_transaction_check(transaction);
	return transaction;
}

/*
 * Sends COMMIT and waits.  Whatever ends the wait without an answer leaves open
 * how it ends in etcd, which is an error of its own.
 */
static EtcdRequest *
send_commit(EtcdTransaction *transaction, MemoryContext context)
{
	EtcdChannel *channel = transaction->channel;
	EtcdRequest *request;

	/* PostgreSQL does so a moment later.  It would end the session, which then could not say how it is in etcd. */
	compat_end_transaction_timeout();
	CHECK_FOR_INTERRUPTS();
	request = etcd_request_create(STAGE_COMMIT, channel->deadline, context);
	etcd_session_queue(FRAME_STAGE, STAGE_COMMIT, 0, channel->number, request->id, request->deadline, NULL, 0, NULL, 0);
	transaction->state = ETCD_TRANSACTION_COMMITTING;
	PG_TRY();
	{
		etcd_wait(request);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		transaction->state = ETCD_TRANSACTION_UNKNOWN;
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
	return request;
}

static void
commit(EtcdTransaction *transaction)
{
	MemoryContext context;
	MemoryContext old;
	EtcdRequest *request;
	EtcdStageReply reply;
	ErrorData	fields = {0};

	etcd_session_notice_end();
	if (etcd_session_state() == ETCD_SESSION_PROBING)
		etcd_session_ensure();
	etcd_transaction_check(transaction);
	context = AllocSetContextCreate(TopTransactionContext, "etcd_fdw commit", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	request = send_commit(transaction, context);
	if (etcd_reply_is_error(request, &fields))
	{
		transaction->state = fields.sqlerrcode == ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN
			? ETCD_TRANSACTION_UNKNOWN : ETCD_TRANSACTION_REFUSED;
		etcd_raise(&fields);
	}
	transaction->state = ETCD_TRANSACTION_COMMITTED;
	etcd_stage_reply(request, &reply);
	if (reply.count > 1)
		ereport(WARNING,
				(errmsg("the transaction was written to etcd in %u Txns", reply.count),
				 errdetail("Other clients may have seen a part of it; all of its guards were checked before."),
				 errhint("The server's option max_request_bytes raises what one Txn holds, as far as etcd's --max-request-bytes allows; atomic 'require' makes this an error.")));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Commits on each server.  What was only read is confirmed first, if anything
 * is written that could rest on it, be it in PostgreSQL.
 *
 * PostgreSQL looks for serialization failures of its own behind this callback,
 * when etcd would have committed already; so it is asked to do so now.  From
 * then on the transaction counts as prepared, and others are refused instead.
 * So it is with what ON COMMIT makes of temporary tables, which foreign keys
 * may forbid; done again, that finds nothing to do.
 */
static void
commit_all(void)
{
	bool		written = TransactionIdIsValid(GetTopTransactionIdIfAny());
	int			writing = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &transactions)
	{
		if (dlist_container(EtcdTransaction, node, iter.cur)->writes)
			writing++;
	}
	if (writing > 0)
		PreCommit_on_commit_actions();
	if (writing > 0 && IsolationIsSerializable())
		PreCommit_CheckForSerializationFailure();
	if (writing > 1 && !warned_of_servers)
	{
		warned_of_servers = true;
		ereport(WARNING,
				(errmsg("the transaction commits on %d etcd servers, one after the other", writing),
				 errdetail("When a later one refuses, the earlier ones keep what was written.")));
	}
	for (int pass = 0; pass < 2; pass++)
	{
		bool		writes = pass == 1;

		dlist_foreach(iter, &transactions)
		{
			EtcdTransaction *transaction = dlist_container(EtcdTransaction, node, iter.cur);

			if (transaction->writes == writes && (writes || (transaction->recorded && (written || writing > 0))))
				commit(transaction);
		}
	}
}

/*
 * PostgreSQL's transaction is over.  Cannot fail.
 */
static void
end_all(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &transactions)
	{
		EtcdTransaction *transaction = dlist_container(EtcdTransaction, node, iter.cur);
		EtcdChannel *channel = transaction->channel;

		channel->busy = false;
		if (transaction->state != ETCD_TRANSACTION_COMMITTED && transaction->state != ETCD_TRANSACTION_LOST &&
			etcd_channel_is_open(channel) && transaction->generation == channel->generation)
			etcd_session_tell(FRAME_STAGE, STAGE_END, channel->number, 0, NULL, 0);
	}
	dlist_init(&transactions);
}

static void
transaction_event(XactEvent event, void *arg)
{
	(void) arg;
	if (dlist_is_empty(&transactions))
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

/*
 * Told when a subtransaction's end is certain: before COMMIT_SUB, a callback of
 * somebody else may still fail and turn it into an abort.  Cannot fail.
 */
static void
subtransaction_event(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	dlist_iter	iter;
	char		payload[4];

	(void) id;
	(void) parent;
	(void) arg;
	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	etcd_put_uint32(payload, level);
	dlist_foreach(iter, &transactions)
	{
		EtcdTransaction *transaction = dlist_container(EtcdTransaction, node, iter.cur);
		EtcdChannel *channel = transaction->channel;

		if (transaction->level < level)
			continue;
		transaction->level = level - 1;
		if (etcd_channel_is_open(channel) && transaction->generation == channel->generation)
			etcd_session_tell(FRAME_STAGE, event == SUBXACT_EVENT_ABORT_SUB ? STAGE_ROLLBACK : STAGE_RELEASE,
							  channel->number, 0, payload, sizeof(payload));
	}
}

void
etcd_transactions_init(void)
{
	RegisterXactCallback(transaction_event, NULL);
	RegisterSubXactCallback(subtransaction_event, NULL);
}
