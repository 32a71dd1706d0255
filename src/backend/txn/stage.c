/*
 * stage.c
 *	  Reads and writes of a transaction that the proxy holds (src/ipc/stage.ts).
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
#include "port/pg_bswap.h"

/* Bytes of writes without an answer that are sent together. */
#define UNANSWERED_BYTES (64 * 1024)

/*
 * Whether the whole transaction is read-only.  In a subtransaction, or where a
 * function's SET clause says so, the next statement may write.
 */
static bool
transaction_is_read_only(void)
{
	static struct config_generic *setting = NULL;

	if (!XactReadOnly || GetCurrentTransactionNestLevel() > 1)
		return false;
	if (setting == NULL)
		setting = compat_find_setting("transaction_read_only");
	return setting == NULL || setting->stack == NULL || setting->stack->nest_level <= 1;
}

/*
 * Whether what is read now must still hold when the transaction commits.
 */
static bool
must_record(void)
{
	return IsolationIsSerializable() && !transaction_is_read_only();
}

/*
 * Of a STAGE frame: STAGE_RECORDED where what it reads must still hold when the
 * transaction commits.
 */
uint8
etcd_stage_recorded(Oid userid, Oid serverid)
{
	if (!must_record())
		return 0;
	etcd_transaction_begin(userid, serverid)->recorded = true;
	return STAGE_RECORDED;
}

/*
 * Sends a unary call to this server.  `command` is the reading command's id,
 * which sees what the transaction's commands before it have written.
 *
 * The request, and later its answer, live in `context`.
 */
EtcdRequest *
etcd_send(Oid userid, Oid serverid, uint8 method, const char *payload, int len, EtcdReadKind kind,
		  CommandId command, MemoryContext context)
{
	EtcdTransaction *transaction = NULL;
	EtcdChannel *channel;
	EtcdRequest *request;
	char		prefix[4];
	uint8		flags = 0;

	if (kind == ETCD_READ_LOCK || (kind == ETCD_READ_PRESENT && must_record()))
	{
		transaction = etcd_transaction_begin(userid, serverid);
		transaction->recorded = true;
		flags = FRAME_FLAG_STAGED | FRAME_FLAG_RECORDED;
	}
	else if (kind != ETCD_READ_ALONE && (transaction = etcd_transaction_of(userid, serverid)) != NULL)
	{
		etcd_transaction_check(transaction);
		flags = FRAME_FLAG_STAGED;
	}
	channel = transaction ? transaction->channel : etcd_channel(userid, serverid, ETCD_CHANNEL_OF_MAPPING);
	etcd_channel_ready(channel, userid, etcd_holds_revision(serverid));
	if (transaction != NULL)
		etcd_transaction_check(transaction);
	request = etcd_request_create(method, channel->deadline, context);
	etcd_put_uint32(prefix, command);
	etcd_session_queue(FRAME_UNARY, method, flags, channel->number, request->id, request->deadline,
					   prefix, flags ? sizeof(prefix) : 0, payload, len);
	etcd_session_flush();
	return request;
}

/*
 * The same for a frame that core wrote.
 */
EtcdRequest *
etcd_send_frame(Oid userid, Oid serverid, const EtcdAnswer *answer, EtcdReadKind kind, CommandId command,
				MemoryContext context)
{
	if (answer->payload_len < FRAME_HEADER)
		elog(ERROR, "core wrote a frame of %d bytes", answer->payload_len);
	return etcd_send(userid, serverid, (uint8) answer->payload[FRAME_AT_CODE],
					 answer->payload + FRAME_HEADER, answer->payload_len - FRAME_HEADER, kind, command, context);
}

/*
 * The transaction is about to write on this server, or to leave something with
 * the proxy that ends with it.  Whether a command after this one has written
 * already: one of a function or trigger of its statement.
 */
bool
etcd_stage_note(Oid userid, Oid serverid, bool writes, CommandId command)
{
	EtcdTransaction *transaction = etcd_transaction_begin(userid, serverid);

	if (writes)
	{
		transaction->writes = true;
		transaction->level = Max(transaction->level, GetCurrentTransactionNestLevel());
		transaction->command = Max(transaction->command, command);
	}
	return transaction->command > command;
}

/*
 * Sends a STAGE frame.  With a context, an answer is asked for, which will
 * live there; without one, the result is NULL.
 */
EtcdRequest *
etcd_stage(Oid userid, Oid serverid, uint8 code, const char *payload, int len, MemoryContext context)
{
	EtcdTransaction *transaction = etcd_transaction_begin(userid, serverid);
	EtcdChannel *channel = transaction->channel;
	EtcdRequest *request = context ? etcd_request_create(code, channel->deadline, context) : NULL;

	etcd_session_queue(FRAME_STAGE, code, 0, channel->number, request ? request->id : 0,
					   request ? request->deadline : 0, payload, len, NULL, 0);
	/* What nobody waits for travels with the next frame that somebody waits for. */
	if (request != NULL || etcd_session_unsent() > UNANSWERED_BYTES)
		etcd_session_flush();
	return request;
}

/*
 * The beginning of a WRITE's or DELETE_RANGE's payload.  `revision` is what the
 * whole transaction reads, 0 where there is none.
 */
void
etcd_stage_header(StringInfo buf, uint8 flags, CommandId command, int64 revision)
{
	etcd_append_uint32(buf, GetCurrentTransactionNestLevel());
	etcd_append_uint32(buf, command);
	appendStringInfoChar(buf, (char) flags);
	etcd_append_int64(buf, revision);
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
