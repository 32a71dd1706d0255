/*
 * pin.c
 *	  The revision that a statement reads, from before its own writes.
 *
 * As a rule, the first scan of a statement finds out what is the latest.  What
 * is written with write_mode 'immediate' before that scan would be read by it,
 * though no statement sees its own writes.  So where a scan may still come, etcd
 * is asked first.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "etcd/page.h"
#include "constants.h"
#include "ipc/request.h"
#include "modify/pin.h"
#include "txn/revision.h"
#include "txn/stage.h"

#include "catalog/pg_class.h"
#include "foreign/foreign.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/*
 * Whether a table of the server may be read under the statement's snapshot: by
 * its plan, or by a function that is not PostgreSQL's own.  What an INSERT alone
 * writes to is not read.
 */
static bool
may_read(PlannedStmt *query, Oid serverid)
{
	bool		reads_targets = query->commandType != CMD_INSERT || query->hasModifyingCTE;
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_FOREIGN_TABLE &&
			(reads_targets || !list_member_int(query->resultRelations, foreach_current_index(lc) + 1)) &&
			GetForeignTable(rte->relid)->serverid == serverid)
			return true;
	}
	foreach(lc, query->invalItems)
	{
		if (lfirst_node(PlanInvalItem, lc)->cacheId == PROCOID)
			return true;
	}
	return false;
}

/*
 * To be called before the statement's first write that is made at once.
 */
void
etcd_pin_revision(EtcdModify *modify)
{
	PlannedStmt *query = modify->estate->es_plannedstmt;
	EtcdBytes	key = modify->writer->start;
	MemoryContext context;
	StringInfoData message;
	EtcdRequest *request;
	EtcdPage	page;
	ErrorData	fields = {0};

	if (query == NULL || modify->estate->es_snapshot == NULL || !may_read(query, modify->serverid) ||
		etcd_statement_revision(modify->estate, modify->serverid, false) != 0)
		return;
	context = AllocSetContextCreate(modify->estate->es_query_cxt, "etcd_fdw pin", ALLOCSET_SMALL_SIZES);
	initStringInfo(&message);
	appendStringInfoChar(&message, 1 << 3 | 2);	/* RangeRequest.key, which must not be empty */
	etcd_append_varint(&message, Max(key.len, 1));
	appendBinaryStringInfo(&message, key.len > 0 ? key.data : "", Max(key.len, 1));
	appendStringInfoChar(&message, 9 << 3);	/* RangeRequest.count_only */
	etcd_append_varint(&message, 1);
	request = etcd_send(modify->userid, modify->serverid, METHOD_RANGE, message.data, message.len, ETCD_READ_ALONE, 0,
						context);
	etcd_wait(request);
	if (etcd_reply_is_error(request, &fields))
		etcd_raise(&fields);
	etcd_page_open(&page, request->reply, request->reply_len, ETCD_PAGE_RANGE);
	etcd_set_statement_revision(modify->estate, modify->serverid, false, page.revision, page.cluster);
	MemoryContextDelete(context);
}
