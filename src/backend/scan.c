/*
 * scan.c
 *	  Executor callbacks: pages in, rows out.
 *
 * Core says what to ask; this file sends it, waits, and forms tuples from the
 * page.  Two pages' memory takes turns: while the rows of one are handed out,
 * the request for the next is on its way into the other.  Resetting a page's
 * memory cancels its request, which also covers every kind of abort.
 */
#include "postgres.h"

#include "compat.h"
#include "etcd_fdw.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "mb/pg_wchar.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/rel.h"

typedef struct ScanColumn
{
	AttrNumber	attnum;
	EtcdField	field;
} ScanColumn;

typedef struct EtcdScan
{
	Oid			userid;
	Oid			serverid;
	Oid			dispatch;
	char	   *plan;
	int			ncolumns;
	ScanColumn *columns;
	uint32		strip;
	List	   *params;			/* of ExprState */
	List	   *param_types;
	MemoryContext pages[2];
	MemoryContext work;			/* for the calls of core */
	int			current;		/* which of the two holds `page` */
	bool		started;
	bool		finished;		/* no page after `page` */
	bool		single;			/* `page` is the scan's only one */
	bool		last;			/* a page that is not cut off ends the scan */
	EtcdRequest *request;		/* the next page, on its way */
	char	   *state;			/* core's, in the scan's memory */
	EtcdPage	page;
	int64		revision;		/* what the first page said */
} EtcdScan;

static void
etcdBeginForeignScan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = castNode(ForeignScan, node->ss.ps.plan);
	EState	   *estate = node->ss.ps.state;
	EtcdScan   *scan;
	List	   *columns;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	scan = palloc0(sizeof(EtcdScan));
	node->fdw_state = scan;
	scan->userid = compat_scan_user(plan, estate);
	scan->serverid = GetForeignTable(RelationGetRelid(node->ss.ss_currentRelation))->serverid;
	scan->dispatch = etcd_dispatch_function(scan->serverid);
	scan->plan = strVal(list_nth(plan->fdw_private, ETCD_SCAN_PLAN));
	columns = list_nth(plan->fdw_private, ETCD_SCAN_COLUMNS);
	scan->ncolumns = list_length(columns) / 2;
	scan->columns = palloc(sizeof(ScanColumn) * Max(scan->ncolumns, 1));
	for (int i = 0; i < scan->ncolumns; i++)
	{
		scan->columns[i].attnum = list_nth_int(columns, 2 * i);
		scan->columns[i].field = list_nth_int(columns, 2 * i + 1);
	}
	scan->strip = intVal(list_nth(plan->fdw_private, ETCD_SCAN_STRIP));
	scan->param_types = list_nth(plan->fdw_private, ETCD_SCAN_PARAM_TYPES);
	scan->params = ExecInitExprList(plan->fdw_exprs, &node->ss.ps);
	scan->pages[0] = AllocSetContextCreate(estate->es_query_cxt, "etcd_fdw page", ALLOCSET_SMALL_SIZES);
	scan->pages[1] = AllocSetContextCreate(estate->es_query_cxt, "etcd_fdw page", ALLOCSET_SMALL_SIZES);
	scan->work = AllocSetContextCreate(estate->es_query_cxt, "etcd_fdw scan", ALLOCSET_SMALL_SIZES);
}

/*
 * What core answered to begin, page or failed: sends its frame, or notes that
 * there is nothing more to ask.
 */
static void
follow_answer(EtcdScan *scan, EtcdAnswer *answer)
{
	MemoryContext into = scan->pages[1 - scan->current];

	if (etcd_json_is(answer->control, "do", "done"))
	{
		scan->finished = true;
		return;
	}
	if (scan->state != NULL)
		pfree(scan->state);
	scan->state = MemoryContextStrdup(GetMemoryChunkContext(scan), etcd_json_text(answer->control, "state"));
	scan->last = etcd_json_is(answer->control, "then", "done");
	MemoryContextReset(into);
	scan->request = etcd_send(scan->userid, scan->serverid, answer->payload, answer->payload_len, into);
}

static void
begin_scan(ForeignScanState *node, EtcdScan *scan)
{
	ExprContext *econtext = node->ss.ps.ps_ExprContext;
	StringInfoData input;
	EtcdAnswer	answer;
	ListCell   *value;
	ListCell   *type;
	bool		first = true;

	initStringInfo(&input);
	appendStringInfoString(&input, "{\"plan\":");
	escape_json(&input, scan->plan);
	appendStringInfo(&input, ",\"revision\":\"" INT64_FORMAT "\",\"params\":[", scan->revision);
	forboth(value, scan->params, type, scan->param_types)
	{
		bool		isnull;
		Datum		datum = ExecEvalExpr((ExprState *) lfirst(value), econtext, &isnull);

		if (!first)
			appendStringInfoChar(&input, ',');
		first = false;
		if (isnull)
			appendStringInfoString(&input, "null");
		else
			etcd_append_param(&input, datum, lfirst_oid(type));
	}
	appendStringInfoString(&input, "]}");
	etcd_dispatch(scan->dispatch, "begin", &input, &answer);
	scan->started = true;
	follow_answer(scan, &answer);
}

/*
 * Tells core why a page did not come; core may ask again, or it is an error.
 */
static void
page_failed(EtcdScan *scan, ErrorData *fields)
{
	StringInfoData input;
	EtcdAnswer	answer;

	initStringInfo(&input);
	appendStringInfoString(&input, "{\"state\":");
	escape_json(&input, scan->state);
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
	escape_json(&input, scan->state);
	appendStringInfo(&input, ",\"revision\":\"" INT64_FORMAT "\",\"count\":\"" INT64_FORMAT "\","
					 "\"more\":%s,\"kvs\":%u,\"bytes\":%ld,\"lastKey\":\"",
					 page->revision, page->count, page->more ? "true" : "false", page->kvs,
					 (long) (page->end - page->start));
	if (page->kvs > 0)
		etcd_append_hex(&input, page->last_key, page->last_key_len);
	appendStringInfoString(&input, "\"}");
	etcd_dispatch(scan->dispatch, "page", &input, &answer);
	follow_answer(scan, &answer);
}

/*
 * Waits for the page that is on its way and makes it the current one.
 */
static void
next_page(EtcdScan *scan)
{
	bool		first_page = scan->revision == 0 || scan->page.start == NULL;
	EtcdRequest *request;
	ErrorData	fields = {0};

	for (;;)
	{
		request = scan->request;
		etcd_wait(request);
		scan->request = NULL;
		if (!etcd_reply_is_error(request, &fields))
			break;
		page_failed(scan, &fields);
	}
	scan->current = 1 - scan->current;
	etcd_page_open(&scan->page, request->reply, request->reply_len);
	if (scan->revision == 0)
		scan->revision = scan->page.revision;
	scan->single = first_page && !scan->page.more && scan->last;
	if (scan->page.more || !scan->last)
		prefetch(scan);
	else
		scan->finished = true;
}

/* ---- rows ---- */

typedef struct CellContext
{
	ForeignScanState *node;
	const EtcdKeyValue *kv;
	AttrNumber	attnum;
} CellContext;

/*
 * A key as an error shows it: printable ASCII as it is, other bytes as \xNN.
 */
static char *
printable_key(const EtcdKeyValue *kv)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (uint32 i = 0; i < kv->key_len && i < 256; i++)
	{
		unsigned char byte = (unsigned char) kv->key[i];

		if (byte >= 0x20 && byte < 0x7f && byte != '\\')
			appendStringInfoChar(&buf, byte);
		else
			appendStringInfo(&buf, "\\x%02x", byte);
	}
	if (kv->key_len > 256)
		appendStringInfoString(&buf, "...");
	return buf.data;
}

static void
invalid_text(CellContext *cell)
{
	Relation	relation = cell->node->ss.ss_currentRelation;
	const char *column = NameStr(TupleDescAttr(RelationGetDescr(relation), cell->attnum - 1)->attname);

	ereport(ERROR,
			(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
			 errmsg("column \"%s\" of foreign table \"%s\" cannot show the etcd key \"%s\"",
					column, RelationGetRelationName(relation), printable_key(cell->kv)),
			 errdetail("Its bytes are not valid text in encoding \"%s\".", GetDatabaseEncodingName()),
			 errhint("Declare column \"%s\" as bytea.", column)));
}

/*
 * Text of bytes that are UTF-8 by etcd's custom; bytes that are not, or that
 * the database's encoding lacks, are an error that names the key, never a
 * silent change.
 */
static Datum
make_text(CellContext *cell, const char *data, uint32 len)
{
	int			encoding = GetDatabaseEncoding();
	Oid			conversion;
	Size		room;
	char	   *converted;

	if (encoding == PG_SQL_ASCII ? memchr(data, '\0', len) != NULL
		: !pg_verify_mbstr(PG_UTF8, data, len, true))
		invalid_text(cell);
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return PointerGetDatum(cstring_to_text_with_len(data, len));

	conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(conversion))
		elog(ERROR, "no conversion from UTF8 to encoding \"%s\"", GetDatabaseEncodingName());
	room = (Size) len * MAX_CONVERSION_GROWTH + 1;
	converted = palloc_extended(room, MCXT_ALLOC_HUGE);
	if (pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding,
									  (unsigned char *) pnstrdup(data, len), len,
									  (unsigned char *) converted, (int) Min(room, PG_INT32_MAX),
									  true) < (int) len)
		invalid_text(cell);
	return PointerGetDatum(cstring_to_text(converted));
}

static Datum
make_cell(CellContext *cell, const char *data, uint32 len, Oid type)
{
	bytea	   *result;

	if (type == TEXTOID)
		return make_text(cell, data, len);
	result = palloc(VARHDRSZ + len);
	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), data, len);
	return PointerGetDatum(result);
}

static void
fill_slot(ForeignScanState *node, EtcdScan *scan, TupleTableSlot *slot, const EtcdKeyValue *kv)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;

	memset(slot->tts_isnull, true, desc->natts * sizeof(bool));
	for (int i = 0; i < scan->ncolumns; i++)
	{
		const ScanColumn *column = &scan->columns[i];
		Oid			type = TupleDescAttr(desc, column->attnum - 1)->atttypid;
		CellContext cell = {node, kv, column->attnum};
		Datum		value;

		switch (column->field)
		{
			case ETCD_KEY:
				if (kv->key_len < scan->strip)
					elog(ERROR, "etcd sent a key outside of the range that was asked for");
				value = make_cell(&cell, kv->key + scan->strip, kv->key_len - scan->strip, type);
				break;
			case ETCD_VALUE:
				value = make_cell(&cell, kv->value, kv->value_len, type);
				break;
			default:
				value = Int64GetDatum(kv->numbers[column->field - ETCD_CREATE_REVISION]);
				break;
		}
		slot->tts_values[column->attnum - 1] = value;
		slot->tts_isnull[column->attnum - 1] = false;
	}
	ExecStoreVirtualTuple(slot);
}

static TupleTableSlot *
etcdIterateForeignScan(ForeignScanState *node)
{
	EtcdScan   *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	EtcdKeyValue kv;
	MemoryContext old;

	ExecClearTuple(slot);
	for (;;)
	{
		if (scan->page.start != NULL && etcd_page_next(&scan->page, &kv))
		{
			fill_slot(node, scan, slot, &kv);
			return slot;
		}
		if (scan->started && scan->finished)
			return slot;
		old = MemoryContextSwitchTo(scan->work);
		if (!scan->started)
			begin_scan(node, scan);
		if (!scan->finished)
			next_page(scan);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scan->work);
	}
}

/*
 * Starts again.  A scan of one page with the same params has its rows still;
 * otherwise etcd is asked again, at the revision that the first run read.
 */
static void
etcdReScanForeignScan(ForeignScanState *node)
{
	EtcdScan   *scan = node->fdw_state;

	if (!scan->started)
		return;
	if (scan->single && node->ss.ps.chgParam == NULL)
	{
		etcd_page_rewind(&scan->page);
		return;
	}
	MemoryContextReset(scan->pages[0]);
	MemoryContextReset(scan->pages[1]);
	scan->request = NULL;
	scan->started = scan->finished = scan->single = false;
	memset(&scan->page, 0, sizeof(scan->page));
}

static void
etcdEndForeignScan(ForeignScanState *node)
{
	EtcdScan   *scan = node->fdw_state;

	if (scan == NULL)
		return;
	MemoryContextDelete(scan->pages[0]);
	MemoryContextDelete(scan->pages[1]);
	MemoryContextDelete(scan->work);
}

void
etcd_scan_callbacks(FdwRoutine *routine)
{
	routine->BeginForeignScan = etcdBeginForeignScan;
	routine->IterateForeignScan = etcdIterateForeignScan;
	routine->ReScanForeignScan = etcdReScanForeignScan;
	routine->EndForeignScan = etcdEndForeignScan;
}
