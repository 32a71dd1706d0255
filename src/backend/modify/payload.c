/*
 * payload.c
 *	  The writes of rows on their way to the proxy: the payload of a WRITE frame
 *	  (src/ipc/stage.ts), entry by entry, and its sending.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "constants.h"
#include "ipc/request.h"
#include "modify/payload.h"
#include "modify/pin.h"
#include "scan/cell.h"
#include "txn/revision.h"
#include "txn/stage.h"

#include "access/xact.h"
#include "utils/memutils.h"

/* Batches on their way with write_mode 'immediate'. */
#define MAX_IN_FLIGHT	16
/* What comes before the length of an entry's key. */
#define ENTRY_HEADER	(1 + 4 * 8)

void
etcd_await_oldest(EtcdModify *modify)
{
	EtcdRequest *request = linitial(modify->in_flight);
	MemoryContext context = request->context;
	EtcdStageReply reply;

	etcd_stage_reply(request, &reply);
	modify->in_flight = list_delete_first(modify->in_flight);
	MemoryContextDelete(context);
}

/*
 * Whether the statement itself learns which keys exist.
 */
static bool
waits_to_know(EtcdModify *modify)
{
	return modify->collision == ETCD_SKIP || modify->collision == ETCD_REFUSE_NOW;
}

/*
 * The revision behind which ON CONFLICT DO NOTHING must not find a row: a
 * transaction cannot rest on what it cannot see.  0 where all is seen; what
 * write_mode 'immediate' has written itself is newer, too.
 */
static int64
revision_to_see(EtcdModify *modify)
{
	if (modify->collision != ETCD_SKIP || modify->immediate || !IsolationUsesXactSnapshot())
		return 0;
	return etcd_statement_revision(modify->estate, modify->serverid, false);
}

void
etcd_begin_payload(EtcdModify *modify)
{
	uint8		flags = modify->immediate ? STAGE_IMMEDIATE : 0;

	/* That a key exists is something that was read. */
	if (waits_to_know(modify))
		flags |= STAGE_CHECK | etcd_stage_recorded(modify->userid, modify->serverid);

	resetStringInfo(&modify->payload);
	etcd_stage_header(&modify->payload, flags, modify->command, revision_to_see(modify));
}

/*
 * Appends an entry up to its key's length; the key and the value follow.
 */
void
etcd_append_entry(StringInfo buf, uint8 kind, const EtcdKeyValue *old, int64 lease)
{
	const int64 none[4] = {0};
	const int64 *numbers = old != NULL ? old->numbers : none;

	appendStringInfoChar(buf, (char) kind);
	etcd_append_int64(buf, numbers[ETCD_MOD_REVISION - ETCD_CREATE_REVISION]);
	etcd_append_int64(buf, numbers[0]);
	etcd_append_int64(buf, numbers[ETCD_VERSION - ETCD_CREATE_REVISION]);
	etcd_append_int64(buf, lease);
}

void
etcd_append_counted(StringInfo buf, const char *data, uint32 len)
{
	etcd_append_uint32(buf, len);
	appendBinaryStringInfo(buf, data, len);
}

/*
 * Sends so many bytes of the payload as a WRITE.  With `wait`, the answer is
 * read; otherwise what goes wrong is told later.
 */
void
etcd_send_write(EtcdModify *modify, int len, bool wait, EtcdStageReply *reply)
{
	MemoryContext context = NULL;
	EtcdRequest *request;
	bool		overtaken;

	if (len > FRAME_MAX_PAYLOAD)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row is too large for etcd"),
				 errdetail("It takes %d bytes.", len - ETCD_WRITE_HEADER),
				 errhint("etcd takes 1.5 MB in a request unless its --max-request-bytes says otherwise.")));
	if (modify->immediate && !modify->pinned)
	{
		etcd_pin_revision(modify);
		modify->pinned = true;
	}
	overtaken = etcd_stage_note(modify->userid, modify->serverid, !modify->immediate, modify->command);
	/* Whether this very row is concerned is for the proxy to say: it is an error of the statement, which may be caught. */
	wait = wait || waits_to_know(modify) || (modify->immediate && modify->watched) || (overtaken && modify->rows != NULL);
	if (wait || modify->immediate)
		context = AllocSetContextCreate(modify->estate->es_query_cxt, "etcd_fdw write", ALLOCSET_SMALL_SIZES);
	request = etcd_stage(modify->userid, modify->serverid, STAGE_WRITE, modify->payload.data, len,
						 context);
	memset(reply, 0, sizeof(*reply));
	if (wait)
	{
		etcd_stage_reply(request, reply);
		MemoryContextDelete(context);
	}
	else if (modify->immediate)
	{
		MemoryContext old = MemoryContextSwitchTo(modify->estate->es_query_cxt);

		modify->in_flight = lappend(modify->in_flight, request);
		MemoryContextSwitchTo(old);
		/* Writes of one key must keep their order, which only INSERT has no need of. */
		while (list_length(modify->in_flight) >= (modify->collision == ETCD_REPLACE ? 1 : MAX_IN_FLIGHT))
			etcd_await_oldest(modify);
	}
}

/*
 * The key and the value of the payload's entry with this index.
 */
void
etcd_entry_at(EtcdModify *modify, int index, EtcdKeyValue *kv)
{
	const char *at = modify->payload.data + ETCD_WRITE_HEADER;

	for (; index >= 0; index--)
	{
		at += ENTRY_HEADER;
		kv->key_len = etcd_get_uint32(at);
		kv->key = at + sizeof(uint32);
		at = kv->key + kv->key_len;
		kv->value_len = etcd_get_uint32(at);
		kv->value = at + sizeof(uint32);
		at = kv->value + kv->value_len;
	}
}

void
etcd_append_delete(EtcdModify *modify, const EtcdKeyValue *row)
{
	etcd_append_entry(&modify->payload, STAGE_DELETE, row, 0);
	etcd_append_counted(&modify->payload, row->key, row->key_len);
	etcd_append_counted(&modify->payload, "", 0);
}
