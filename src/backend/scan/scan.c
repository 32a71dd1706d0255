/*
 * scan.c
 *	  Pages in, keys out.
 *
 * Core says what to ask; this file sends it, waits, and walks the pages.  Two
 * pages' memory takes turns: while the keys of one are handed out, the request
 * for the next is on its way into the other.  Resetting a page's memory
 * cancels its request, which also covers every kind of abort.
 *
 * What happens to a scan, in each of its states (enum EtcdScanState):
 *
 *			start		core: send	core: done	core: row	a page comes
 *	FRESH	-			FIRST		EMPTY		ROW			-
 *	FIRST	FRESH		FIRST		-			ROW			WHOLE
 *	WHOLE	WHOLE (*)	AHEAD		WHOLE		-			-
 *	AHEAD	FRESH		AHEAD		-			-			TAIL
 *	TAIL	FRESH		AHEAD		TAIL		-			-
 *	EMPTY	EMPTY (*)	-			-			-			-
 *	ROW		FRESH		-			-			-			-
 *
 * (*) if the rows are the same, otherwise FRESH.  Core is asked right after a
 * page has come, unless that was the last, before its first row is taken.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "core/dispatch.h"
#include "etcd/page.h"
#include "constants.h"
#include "scan/cell.h"
#include "scan/feed.h"
#include "scan/private.h"
#include "scan/scan.h"
#include "server/option.h"
#include "txn/revision.h"
#include "txn/stage.h"

#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapshot.h"

static EtcdBytes *
read_lookup(List *parts)
{
	EtcdBytes  *lookup;
	ListCell   *lc;

	if (parts == NIL)
		return NULL;
	lookup = palloc(sizeof(EtcdBytes) * list_length(parts));
	foreach(lc, parts)
	{
		EtcdBytes  *part = &lookup[foreach_current_index(lc)];
		int			len;

		part->data = etcd_from_hex(strVal(lfirst(lc)), &len);
		part->len = len;
	}
	return lookup;
}

/*
 * A scan that a ForeignScan's private list describes; `desc` is the row that
 * it forms.  It lives in a context of its own under the current one.
 */
EtcdScan *
etcd_scan_create(List *fdw_private, Oid userid, TupleDesc desc, EState *estate)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw scan", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EtcdScan   *scan = palloc0(sizeof(EtcdScan));
	Oid			table = linitial_oid(list_nth(fdw_private, ETCD_SCAN_TABLE));

	scan->context = context;
	scan->estate = estate;
	scan->userid = userid;
	scan->serverid = GetForeignTable(table)->serverid;
	scan->past = etcd_reads_past(table);
	scan->feed = etcd_feed_take(table);
	/* What is fetched later may be so by another role, under another setting. */
	scan->named = etcd_named_revision(userid, estate);
	scan->serializable = list_nth_int(list_nth(fdw_private, ETCD_SCAN_NUMBERS), ETCD_SCAN_SERIALIZABLE) != 0;
	scan->dispatch = etcd_dispatch_function(scan->serverid);
	scan->plan = strVal(list_nth(fdw_private, ETCD_SCAN_PLAN));
	scan->order = strVal(list_nth(fdw_private, ETCD_SCAN_ORDER));
	scan->aggregates = list_nth(fdw_private, ETCD_SCAN_AGGREGATES);
	scan->lookup = read_lookup(list_nth(fdw_private, ETCD_SCAN_LOOKUP));
	scan->cells = etcd_cells_create(table, fdw_private, desc);
	scan->cells->userid = userid;
	scan->cells->serverid = scan->serverid;
	scan->pages[0] = AllocSetContextCreate(context, "etcd_fdw page", ALLOCSET_SMALL_SIZES);
	scan->pages[1] = AllocSetContextCreate(context, "etcd_fdw page", ALLOCSET_SMALL_SIZES);
	scan->work = AllocSetContextCreate(context, "etcd_fdw dispatch", ALLOCSET_SMALL_SIZES);
	initStringInfo(&scan->begun);
	MemoryContextSwitchTo(old);
	return scan;
}

void
etcd_scan_end(EtcdScan *scan)
{
	MemoryContextDelete(scan->context);
}

/*
 * What the scan is to the transaction: nothing without a statement's snapshot.
 */
static EtcdReadKind
read_kind(EtcdScan *scan)
{
	if (scan->estate == NULL || scan->estate->es_snapshot == NULL)
		return ETCD_READ_ALONE;
	return scan->named != 0 || scan->past ? ETCD_READ_PAST : ETCD_READ_PRESENT;
}

static CommandId
command_of(EtcdScan *scan)
{
	return read_kind(scan) == ETCD_READ_ALONE ? 0 : scan->estate->es_snapshot->curcid;
}

static void
sent(EtcdScan *scan, EtcdRequest *request)
{
	bool		first = scan->state == ETCD_SCAN_FRESH || scan->state == ETCD_SCAN_FIRST;

	scan->request = request;
	scan->state = first ? ETCD_SCAN_FIRST : ETCD_SCAN_AHEAD;
	scan->counters.requests++;
}

/*
 * What core answered to begin, page or failed: sends its frame, or notes that
 * there is nothing more to ask.
 */
static void
follow_answer(EtcdScan *scan, EtcdAnswer *answer)
{
	MemoryContext into = scan->pages[1 - scan->current];
	MemoryContext old;

	if (etcd_json_is(answer->control, "do", "done"))
	{
		if (scan->state == ETCD_SCAN_FRESH)
			scan->state = ETCD_SCAN_EMPTY;
		return;
	}
	if (etcd_json_is(answer->control, "do", "row"))
	{
		old = MemoryContextSwitchTo(into);
		scan->row = etcd_json_strings(answer->control, "cells");
		MemoryContextSwitchTo(old);
		scan->state = ETCD_SCAN_ROW;
		return;
	}
	if (scan->core_state != NULL)
		pfree(scan->core_state);
	scan->core_state = MemoryContextStrdup(scan->context, etcd_json_text(answer->control, "state"));
	scan->ends = etcd_json_is(answer->control, "then", "done");
	scan->latest = etcd_json_number(answer->control, "latest") != 0;
	MemoryContextReset(into);
	sent(scan, etcd_send_frame(scan->userid, scan->serverid, answer, read_kind(scan), command_of(scan), into));
}

/*
 * The revision that the scan is to read; 0 for the latest.
 */
static int64
revision_to_read(EtcdScan *scan)
{
	int64		revision = scan->named;

	if (revision == 0 && scan->estate != NULL)
		revision = etcd_statement_revision(scan->estate, scan->serverid, scan->serializable);
	return revision;
}

/*
 * The key that the scan looks up: known since it was planned, or made of the
 * first param, in hexadecimal and quotes, or null.  False when the table has
 * no such key.
 */
static bool
lookup_key(EtcdBytes *lookup, StringInfo params, StringInfo key)
{
	EtcdBytes	start = lookup[ETCD_LOOKUP_START];
	EtcdBytes	end = lookup[ETCD_LOOKUP_END];
	int			len;
	char	   *value;

	initStringInfo(key);
	if (lookup[ETCD_LOOKUP_KEY].len > 0)
	{
		appendBinaryStringInfo(key, lookup[ETCD_LOOKUP_KEY].data, lookup[ETCD_LOOKUP_KEY].len);
		return true;
	}
	if (params->data[0] != '"')
		return false;
	value = etcd_from_hex(pnstrdup(params->data + 1, strcspn(params->data + 1, "\"")), &len);
	appendBinaryStringInfo(key, lookup[ETCD_LOOKUP_STRIP].data, lookup[ETCD_LOOKUP_STRIP].len);
	appendBinaryStringInfo(key, value, len);
	return key->len > 0 && etcd_compare_bytes(key->data, key->len, start.data, start.len) >= 0 &&
		(end.len == 0 || etcd_compare_bytes(key->data, key->len, end.data, end.len) < 0);
}

/*
 * Asks for one key as core has planned it, without calling core again: what
 * core would do takes longer than all else that the backend does for a key.
 */
static void
begin_lookup(EtcdScan *scan, StringInfo params)
{
	EtcdBytes  *lookup = scan->lookup;
	int64		revision = revision_to_read(scan);
	MemoryContext into = scan->pages[1 - scan->current];
	StringInfoData key;
	StringInfoData frame;

	if (!lookup_key(lookup, params, &key))
	{
		scan->state = ETCD_SCAN_EMPTY;
		return;
	}
	initStringInfo(&frame);
	appendStringInfoChar(&frame, 1 << 3 | 2);	/* RangeRequest.key */
	etcd_append_varint(&frame, key.len);
	appendBinaryStringInfo(&frame, key.data, key.len);
	appendBinaryStringInfo(&frame, lookup[ETCD_LOOKUP_REST].data, lookup[ETCD_LOOKUP_REST].len);
	if (revision != 0)
	{
		appendStringInfoChar(&frame, 4 << 3);	/* RangeRequest.revision */
		etcd_append_varint(&frame, revision);
	}
	scan->ends = true;
	scan->latest = revision == 0;
	MemoryContextReset(into);
	sent(scan, etcd_send(scan->userid, scan->serverid, METHOD_RANGE, frame.data, frame.len,
						 read_kind(scan), command_of(scan), into));
}

static void
begin_scan(EtcdScan *scan, StringInfo params, int64 wanted)
{
	StringInfoData input;
	EtcdAnswer	answer;
	ListCell   *lc;

	if (scan->lookup != NULL)
	{
		begin_lookup(scan, params);
		return;
	}
	initStringInfo(&input);
	appendStringInfoString(&input, "{\"plan\":");
	escape_json(&input, scan->plan);
	appendStringInfo(&input, ",\"params\":[%s],\"revision\":\"" INT64_FORMAT "\",\"order\":\"%s\",\"limit\":",
					 params->data, revision_to_read(scan), scan->order);
	if (wanted >= 0)
		appendStringInfo(&input, "\"" INT64_FORMAT "\"", wanted);
	else
		appendStringInfoString(&input, "null");
	appendStringInfoString(&input, ",\"aggregates\":[");
	foreach(lc, scan->aggregates)
		appendStringInfo(&input, "%s\"%s\"", lc == list_head(scan->aggregates) ? "" : ",", strVal(lfirst(lc)));
	appendStringInfoString(&input, "]}");
	etcd_dispatch(scan->dispatch, "begin", &input, &answer);
	follow_answer(scan, &answer);
}

static void
forget_pages(EtcdScan *scan)
{
	MemoryContextReset(scan->pages[0]);
	MemoryContextReset(scan->pages[1]);
	scan->request = NULL;
	scan->row = NIL;
	scan->state = ETCD_SCAN_FRESH;
}

/*
 * Whether all that is wanted with these params is at hand: the statement reads
 * one revision.  `wanted` keys from the first on, or -1 for all.
 */
static bool
is_at_hand(EtcdScan *scan, StringInfo params, int64 wanted)
{
	return (scan->state == ETCD_SCAN_WHOLE || scan->state == ETCD_SCAN_EMPTY) &&
		scan->begun.len == params->len && memcmp(scan->begun.data, params->data, params->len) == 0 &&
		(scan->begun_wanted < 0 || (wanted >= 0 && wanted <= scan->begun_wanted));
}

/*
 * Whether it shows what it is given, and nothing of etcd's.
 */
static bool
is_fed(EtcdScan *scan)
{
	return scan->feed != NULL && scan->feed->kind == ETCD_FEED_INSTEAD;
}

/*
 * Whether its keys are taken before they are rows.
 */
static bool
is_raw(EtcdScan *scan)
{
	return scan->feed != NULL && scan->feed->kind == ETCD_FEED_RAW;
}

/*
 * Starts the scan, or starts it anew.  `params` are their values as core takes
 * them, with commas between; `limit` is -1 for all rows.
 */
void
etcd_scan_start(EtcdScan *scan, StringInfo params, int64 limit, int64 offset)
{
	MemoryContext old = MemoryContextSwitchTo(scan->work);
	int64		wanted = limit < 0 || limit > PG_INT64_MAX - offset ? -1 : limit + offset;

	scan->skip = offset;
	scan->left = limit;
	scan->fed = 0;
	if (is_fed(scan))
		scan->state = ETCD_SCAN_EMPTY;
	else if (!is_at_hand(scan, params, wanted))
	{
		forget_pages(scan);
		resetStringInfo(&scan->begun);
		appendBinaryStringInfo(&scan->begun, params->data, params->len);
		scan->begun_wanted = scan->wanted = wanted;
		begin_scan(scan, params, wanted);
	}
	else if (scan->state == ETCD_SCAN_WHOLE)
		etcd_page_rewind(&scan->page);
	MemoryContextSwitchTo(old);
	MemoryContextReset(scan->work);
}

/*
 * Tells core why a page did not come; core may ask again, or it is an error.
 */
static void
page_failed(EtcdScan *scan, ErrorData *fields)
{
	StringInfoData input;
	EtcdAnswer	answer;

	if (scan->lookup != NULL)
		etcd_raise(fields);
	initStringInfo(&input);
	appendStringInfoString(&input, "{\"state\":");
	escape_json(&input, scan->core_state);
	appendStringInfoString(&input, ",\"sqlstate\":");
	escape_json(&input, unpack_sql_state(fields->sqlerrcode));
	appendStringInfoString(&input, ",\"message\":");
	escape_json(&input, fields->message);
	appendStringInfoString(&input, ",\"detail\":");
	escape_json(&input, fields->detail);
	appendStringInfoString(&input, ",\"hint\":");
	escape_json(&input, fields->hint);
	appendStringInfoChar(&input, '}');
	etcd_dispatch(scan->dispatch, "failed", &input, &answer);
	follow_answer(scan, &answer);
}

/*
 * Asks for the page after the current one, before its rows are handed out.
 */
static void
prefetch(EtcdScan *scan)
{
	EtcdPage   *page = &scan->page;
	StringInfoData input;
	EtcdAnswer	answer;

	initStringInfo(&input);
	appendStringInfoString(&input, "{\"state\":");
	escape_json(&input, scan->core_state);
	appendStringInfo(&input, ",\"revision\":\"" INT64_FORMAT "\",\"more\":%s,\"kvs\":%u,\"bytes\":%ld,\"lastKey\":\"",
					 page->revision, page->more ? "true" : "false", page->kvs, (long) (page->end - page->start));
	if (page->kvs > 0)
		etcd_append_hex(&input, page->last_key, page->last_key_len);
	appendStringInfoString(&input, "\"}");
	etcd_dispatch(scan->dispatch, "page", &input, &answer);
	follow_answer(scan, &answer);
}

/*
 * Waits for what is on its way; failures that core has an answer to are asked
 * about again.
 */
static EtcdRequest *
await_reply(EtcdScan *scan)
{
	for (;;)
	{
		ErrorData	fields = {0};
		EtcdRequest *request = scan->request;

		etcd_wait(request);
		scan->request = NULL;
		if (!etcd_reply_is_error(request, &fields))
		{
			scan->counters.bytes += request->reply_len;
			return request;
		}
		page_failed(scan, &fields);
	}
}

/*
 * The statement's other scans read what this one has found to be the latest,
 * and of the same cluster.
 */
static void
note_revision(EtcdScan *scan, const EtcdPage *page)
{
	if (scan->estate == NULL)
		return;
	if (scan->latest)
		etcd_set_statement_revision(scan->estate, scan->serverid, scan->serializable, page->revision, page->cluster);
	else if (scan->named == 0 && !scan->past)
		etcd_check_cluster(scan->estate, scan->serverid, scan->serializable, page->cluster);
}

/*
 * Waits for the page that is on its way and makes it the current one.
 */
static void
next_page(EtcdScan *scan)
{
	EtcdRequest *request = await_reply(scan);
	EtcdPage   *page = &scan->page;

	scan->current = 1 - scan->current;
	scan->state = scan->state == ETCD_SCAN_FIRST ? ETCD_SCAN_WHOLE : ETCD_SCAN_TAIL;
	etcd_page_open(page, request->reply, request->reply_len,
				   request->method == METHOD_READ_TXN ? ETCD_PAGE_TXN : ETCD_PAGE_RANGE);
	scan->counters.pages++;
	scan->counters.rows += page->kvs;
	scan->counters.cached += page->cached;
	note_revision(scan, page);
	if (scan->wanted >= 0)
		scan->wanted = Max(scan->wanted - page->kvs, 0);
	if (scan->wanted != 0 && (page->more || !scan->ends))
		prefetch(scan);
}

static bool
has_page(EtcdScan *scan)
{
	return scan->state == ETCD_SCAN_WHOLE || scan->state == ETCD_SCAN_AHEAD || scan->state == ETCD_SCAN_TAIL;
}

/*
 * The next key at hand; false when there is none.
 */
static bool
next_key(EtcdScan *scan, EtcdKeyValue *kv)
{
	if (!is_fed(scan))
		return has_page(scan) && etcd_page_next(&scan->page, kv);
	if (scan->fed == scan->feed->count)
		return false;
	*kv = scan->feed->kvs[scan->fed++];
	return true;
}

/*
 * The next key that is a row; false after the last.
 */
bool
etcd_scan_next(EtcdScan *scan, EtcdKeyValue *kv)
{
	MemoryContext old;

	while (scan->left != 0)
	{
		if (next_key(scan, kv))
		{
			if (scan->feed != NULL && !is_fed(scan) && etcd_feed_leaves_out(scan->feed, kv))
				continue;
			if (!is_raw(scan) && !etcd_cells_match(scan->cells, kv))
				continue;
			if (scan->skip > 0)
			{
				scan->skip--;
				continue;
			}
			if (scan->left > 0)
				scan->left--;
			return true;
		}
		if (scan->request == NULL)
			return false;
		old = MemoryContextSwitchTo(scan->work);
		next_page(scan);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scan->work);
	}
	return false;
}

static void
read_aggregates(EtcdScan *scan)
{
	EtcdRequest *request = await_reply(scan);
	EtcdPage	page;
	StringInfoData input;
	EtcdAnswer	answer;

	etcd_page_open(&page, request->reply, request->reply_len, ETCD_PAGE_TXN);
	scan->counters.pages++;
	scan->counters.rows += page.kvs;
	scan->counters.cached += page.cached;
	note_revision(scan, &page);
	initStringInfo(&input);
	appendStringInfoString(&input, "{\"state\":");
	escape_json(&input, scan->core_state);
	appendStringInfoChar(&input, '}');
	etcd_dispatch_bytes(scan->dispatch, "aggregate", &input, request->reply, request->reply_len, &answer);
	follow_answer(scan, &answer);
}

/*
 * The row of aggregates, once.
 */
bool
etcd_scan_aggregates(EtcdScan *scan, Datum *values, bool *isnull)
{
	MemoryContext old = MemoryContextSwitchTo(scan->work);

	/* What does not fit one request takes several. */
	while (scan->request != NULL)
		read_aggregates(scan);
	MemoryContextSwitchTo(old);
	MemoryContextReset(scan->work);
	if (scan->left == 0)
		return false;
	for (int i = 0; i < scan->cells->ncolumns; i++)
	{
		EtcdColumn *column = &scan->cells->columns[i];
		char	   *hex = list_nth(scan->row, i);
		int			len;
		char	   *data;

		isnull[i] = hex == NULL;
		if (hex == NULL)
			continue;
		data = etcd_from_hex(hex, &len);
		values[i] = etcd_cell_make(scan->cells, column, data, len);
	}
	scan->left = 0;
	return true;
}
