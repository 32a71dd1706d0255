/*
 * difference.c
 *	  Makes a mirror's target equal to what its foreign table shows, without
 *	  touching rows that are right already: for snapshots and verifications.
 *
 * Two statements do it: one deletes, one puts.  Where the target refuses one of
 * them, or a value cannot be what its column wants, etcd's keys are read as they
 * are, by pages, and each page is put like a lot of events, which finds the key
 * that is at fault; and what is to be deleted is deleted row by row.  All is of
 * one revision, in one transaction.  What is left out is passed over by the
 * scan itself, before it is made a row.
 */
#include "postgres.h"

#include "scan/feed.h"
#include "watch/leftout.h"
#include "watch/put.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* A page of keys ends with the one that comes to this many, or bytes. */
#define PAGE_KEYS		1000
#define PAGE_BYTES		(4 * 1024 * 1024)
/* Keys, and rows, that are fetched at a time. */
#define FETCH_KEYS		10
#define FETCH_ROWS		200

static EtcdFeed
all_but_left_out(EtcdMirrorWork *work, EtcdFeedKind kind, bool *met)
{
	EtcdFeed	feed = {0};

	feed.table = work->row->source;
	feed.kind = kind;
	feed.count = work->left_out->count;
	feed.kvs = work->left_out->kvs;
	feed.met = met;
	return feed;
}

static uint64
run_without(EtcdMirrorWork *work, const char *sql, int expected, bool *met)
{
	EtcdFeed	feed = all_but_left_out(work, ETCD_FEED_WITHOUT, met);
	uint64		rows;

	if (feed.count > 0)
		etcd_feed(&feed);
	rows = etcd_run_step(sql, expected);
	etcd_feed(NULL);
	return rows;
}

/* ---- deletions ---- */

static void
delete_others(EtcdPutting *putting, void *arg)
{
	uint64	   *rows = arg;

	*rows = run_without(putting->work, putting->target->delete_others, SPI_OK_DELETE, NULL);
}

/* A row of the target. */
typedef struct Row
{
	Datum		place[2];		/* tableoid and ctid */
	uint64		rows;
} Row;

static Oid	place_types[] = {OIDOID, TIDOID};

static void
delete_row(EtcdPutting *putting, void *arg)
{
	Row		   *row = arg;

	if (SPI_execute_with_args(putting->target->delete_row, 2, place_types, row->place, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "a row could not be deleted");
	row->rows = SPI_processed;
}

typedef struct Owning
{
	Row		   *row;
	const EtcdKeyValue *kv;
	bool		owns;
} Owning;

static void
find_owner(EtcdPutting *putting, void *arg)
{
	Owning	   *owning = arg;
	EtcdFeed	feed = {.table = putting->work->row->source, .kind = ETCD_FEED_INSTEAD, .count = 1, .kvs = owning->kv};

	etcd_feed(&feed);
	if (SPI_execute_with_args(putting->target->is_row, 2, place_types, owning->row->place, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "a row could not be looked at");
	etcd_feed(NULL);
	owning->owns = SPI_processed > 0;
}

/*
 * Whether the row is of a key that is left out: it may stay.
 */
static bool
may_stay(EtcdPutting *putting, Row *row)
{
	EtcdLeftOut *set = putting->work->left_out;

	for (uint32 i = 0; i < set->count; i++)
	{
		Owning		owning = {row, &set->kvs[i], false};
		ErrorData  *error = etcd_try_step(putting, find_owner, &owning);

		if (error != NULL)
			FreeErrorData(error);
		if (error == NULL && owning.owns)
			return set->met[i] = true;
	}
	return false;
}

static void
refuse_nameless(EtcdPutting *putting, ErrorData *error, const char *key)
{
	putting->refused++;
	if (putting->nameless != NULL)
		FreeErrorData(error);
	else
	{
		putting->nameless = error;
		putting->nameless_key = key;
	}
}

static void
delete_rows(EtcdPutting *putting, void *arg)
{
	EtcdFeed	feed = all_but_left_out(putting->work, ETCD_FEED_WITHOUT, NULL);
	uint64	   *deleted = arg;
	Portal		cursor;

	etcd_feed(&feed);
	cursor = SPI_cursor_open_with_args(NULL, putting->target->others, 0, NULL, NULL, NULL, true, 0);
	etcd_feed(NULL);
	for (;;)
	{
		SPITupleTable *rows;

		SPI_cursor_fetch(cursor, true, FETCH_ROWS);
		rows = SPI_tuptable;
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0, count = rows->numvals; i < count; i++)
		{
			Row			row = {{0}, 0};
			bool		isnull;
			ErrorData  *error;

			CHECK_FOR_INTERRUPTS();
			for (int column = 0; column < 2; column++)
				row.place[column] = SPI_getbinval(rows->vals[i], rows->tupdesc, column + 1, &isnull);
			error = etcd_try_step(putting, delete_row, &row);
			*deleted += row.rows;
			if (error != NULL && may_stay(putting, &row))
				FreeErrorData(error);
			else if (error != NULL)
				refuse_nameless(putting, error, SPI_getvalue(rows->vals[i], rows->tupdesc, 3));
		}
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(cursor);
}

/*
 * Deletes what the foreign table does not show.
 */
static void
delete_apart(EtcdPutting *putting)
{
	uint64		rows = 0;
	uint64		refused = putting->refused;
	ErrorData  *error = etcd_try_step(putting, delete_others, &rows);

	if (error != NULL)
	{
		FreeErrorData(error);
		rows = 0;
		error = etcd_try_step(putting, delete_rows, &rows);
	}
	/* A filter may want a value that cannot be had. */
	if (error != NULL)
	{
		putting->refused = refused;
		rows = 0;
		refuse_nameless(putting, error, NULL);
	}
	putting->work->differences += rows;
}

/* ---- pages ---- */

typedef struct KeyPage
{
	MemoryContext context;		/* of the keys */
	EtcdKeyValue *kvs;
	uint32		count;
	size_t		bytes;
} KeyPage;

static char *
copy_bytes(KeyPage *page, const char *data, uint32 len)
{
	char	   *copy = MemoryContextAlloc(page->context, Max(1, len));

	memcpy(copy, data, len);
	page->bytes += len;
	return copy;
}

static void
take_key(void *arg, const EtcdKeyValue *kv)
{
	KeyPage    *page = arg;
	EtcdKeyValue *copy = &page->kvs[page->count++];

	Assert(page->count <= PAGE_KEYS);
	*copy = *kv;
	copy->key = copy_bytes(page, kv->key, kv->key_len);
	copy->value = copy_bytes(page, kv->value, kv->value_len);
}

/*
 * Puts all of etcd's keys but those that are left out.
 */
static void
put_pages(EtcdPutting *putting)
{
	EtcdMirrorWork *work = putting->work;
	EtcdFeed	feed = all_but_left_out(work, ETCD_FEED_RAW, work->left_out->met);
	KeyPage		page = {0};
	Portal		cursor;
	bool		more = true;

	page.context = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw keys", ALLOCSET_DEFAULT_SIZES);
	page.kvs = palloc(sizeof(EtcdKeyValue) * PAGE_KEYS);
	feed.take = take_key;
	feed.arg = &page;
	etcd_feed(&feed);
	cursor = SPI_cursor_open_with_args(NULL, putting->target->all, 0, NULL, NULL, NULL, true, 0);
	etcd_feed(NULL);
	while (more)
	{
		page.count = page.bytes = 0;
		MemoryContextReset(page.context);
		while (more && page.count <= PAGE_KEYS - FETCH_KEYS && page.bytes < PAGE_BYTES)
		{
			CHECK_FOR_INTERRUPTS();
			SPI_cursor_fetch(cursor, true, FETCH_KEYS);
			more = SPI_processed > 0;
			SPI_freetuptable(SPI_tuptable);
		}
		etcd_put_apart(putting, page.kvs, page.count);
	}
	SPI_cursor_close(cursor);
	MemoryContextDelete(page.context);
	pfree(page.kvs);
}

static void
settle_all(EtcdPutting *putting, void *arg)
{
	(void) arg;
	delete_apart(putting);
	put_pages(putting);
}

/*
 * Makes the target equal to what its foreign table shows.
 */
void
etcd_put_difference(EtcdMirrorWork *work)
{
	EtcdTarget *target = etcd_mirror_reach(work);
	EtcdPutting putting;

	SPI_connect();
	if (work->pace == ETCD_PACE_AT_ONCE)
	{
		work->differences = run_without(work, target->delete_others, SPI_OK_DELETE, NULL);
		work->differences += run_without(work, target->repair, SPI_OK_INSERT, work->left_out->met);
	}
	else
	{
		etcd_putting_begin(&putting, work, target);
		putting.differences = true;
		etcd_settle(&putting, settle_all, NULL);
	}
	etcd_left_out_prune(work->left_out, work->row->name);
	SPI_finish();
}
