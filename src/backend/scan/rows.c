/*
 * rows.c
 *	  What an UPDATE, DELETE or SELECT FOR UPDATE has to know of the rows that its
 *	  scan found.
 *
 * A row's identity on its way through the plan is a ctid that counts the rows
 * kept here: so the key is the one that etcd has, byte for byte, whatever the
 * columns show of it, and the revision that the statement saw is at hand
 * whether the table has a column for it or not.
 *
 * Of each row a record of fixed size stays in memory.  Keys, and values where
 * the statement needs them, go to a temporary file once they exceed work_mem;
 * a row is nearly always changed right after it was found, so the last one is
 * at hand without reading the file.
 *
 * Several scans of one statement may find the same row, some of them by its key
 * alone.  The value is kept from the first scan that has it.
 */
#include "postgres.h"

#include "etcd/page.h"
#include "scan/rows.h"

#include "commands/tablespace.h"
#include "common/hashfn.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define ROWS_PER_BLOCK	32768
#define NO_ROW			PG_UINT32_MAX

typedef struct RowRecord
{
	int64		numbers[4];
	uint32		key_len;
	uint32		value_len;
	uint32		next;			/* of the same hash, or NO_ROW */
	bool		has_value;		/* known, which an empty one can be too */
	bool		taken;			/* changed by this statement */
	int			segment;		/* of the file; -1: in memory */
	union
	{
		char	   *bytes;
		off_t		offset;
	}			at;				/* the key, and behind it the value */
} RowRecord;

struct EtcdRows
{
	dlist_node	node;
	MemoryContextCallback release;
	EState	   *estate;
	Oid			table;
	Oid			userid;			/* as whom they are read */
	MemoryContext context;
	bool		values;			/* are kept with the keys */
	RowRecord  *rows;
	uint32		count;
	uint32		room;
	HTAB	   *by_key;			/* hash of a key to the first row with it */
	Size		in_memory;		/* bytes of keys and values */
	BufFile    *file;			/* NULL until work_mem is full */
	int			end_segment;
	off_t		end_offset;
	ResourceOwner owner;		/* of the file */
	StringInfoData last;		/* bytes of the row `last_row`, from the file */
	uint32		last_row;
};

typedef struct KeyEntry
{
	uint64		hash;
	uint32		first;
} KeyEntry;

static dlist_head all_rows = DLIST_STATIC_INIT(all_rows);

/*
 * An error ends the file with its owner, before this; so it is not touched.
 */
static void
forget_rows(void *arg)
{
	dlist_delete(&((EtcdRows *) arg)->node);
}

/*
 * The rows of this table in this execution; they go when it ends.
 */
EtcdRows *
etcd_rows_create(EState *estate, Oid table)
{
	dlist_iter	iter;
	EtcdRows   *rows;
	MemoryContext context;
	HASHCTL		ctl = {0};

	dlist_foreach(iter, &all_rows)
	{
		rows = dlist_container(EtcdRows, node, iter.cur);
		if (rows->estate == estate && rows->table == table)
			return rows;
	}
	context = AllocSetContextCreate(estate->es_query_cxt, "etcd_fdw rows", ALLOCSET_DEFAULT_SIZES);
	rows = MemoryContextAllocZero(context, sizeof(EtcdRows));
	rows->estate = estate;
	rows->table = table;
	rows->context = context;
	rows->owner = CurrentResourceOwner;
	rows->room = 64;
	rows->rows = MemoryContextAlloc(context, rows->room * sizeof(RowRecord));
	rows->last_row = NO_ROW;
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(KeyEntry);
	ctl.hcxt = context;
	rows->by_key = hash_create("etcd_fdw rows", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	rows->release.func = forget_rows;
	rows->release.arg = rows;
	MemoryContextRegisterResetCallback(context, &rows->release);
	dlist_push_head(&all_rows, &rows->node);
	return rows;
}

/*
 * The statement writes, or returns, values as they were.
 */
void
etcd_rows_keep_values(EtcdRows *rows)
{
	rows->values = true;
}

/* ---- bytes in memory and in the file ---- */

static void
create_file(EtcdRows *rows)
{
	MemoryContext old = MemoryContextSwitchTo(rows->context);
	ResourceOwner owner = CurrentResourceOwner;

	PrepareTempTablespaces();
	initStringInfo(&rows->last);
	CurrentResourceOwner = rows->owner;
	rows->file = BufFileCreateTemp(false);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
}

static void
seek_file(EtcdRows *rows, int segment, off_t offset)
{
	if (BufFileSeek(rows->file, segment, offset, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not seek in temporary file of rows: %m")));
}

static void
set_last(EtcdRows *rows, uint32 index, uint32 len)
{
	resetStringInfo(&rows->last);
	enlargeStringInfo(&rows->last, (int) len);
	rows->last.len = (int) len;
	rows->last_row = index;
}

/*
 * Keeps the key of this row and, if wanted and known, its value.
 */
static void
store_bytes(EtcdRows *rows, uint32 index, const EtcdKeyValue *kv, bool has_value)
{
	RowRecord  *row = &rows->rows[index];
	Size		len;

	row->has_value = rows->values && has_value;
	row->key_len = kv->key_len;
	row->value_len = row->has_value ? kv->value_len : 0;
	len = (Size) row->key_len + row->value_len;
	if (rows->file == NULL && rows->in_memory + len > work_mem * (Size) 1024)
		create_file(rows);
	if (rows->file == NULL)
	{
		row->segment = -1;
		row->at.bytes = MemoryContextAlloc(rows->context, len + 1);
		memcpy(row->at.bytes, kv->key, row->key_len);
		memcpy(row->at.bytes + row->key_len, kv->value, row->value_len);
		rows->in_memory += len;
		return;
	}
	seek_file(rows, rows->end_segment, rows->end_offset);
	BufFileTell(rows->file, &row->segment, &row->at.offset);
	set_last(rows, index, len);
	memcpy(rows->last.data, kv->key, row->key_len);
	memcpy(rows->last.data + row->key_len, kv->value, row->value_len);
	BufFileWrite(rows->file, rows->last.data, len);
	BufFileTell(rows->file, &rows->end_segment, &rows->end_offset);
}

/*
 * The bytes of a row, until the next call.
 */
static const char *
row_bytes(EtcdRows *rows, uint32 index)
{
	RowRecord  *row = &rows->rows[index];
	uint32		len = row->key_len + row->value_len;

	if (row->segment < 0)
		return row->at.bytes;
	if (rows->last_row != index)
	{
		set_last(rows, NO_ROW, len);
		seek_file(rows, row->segment, row->at.offset);
		if (BufFileRead(rows->file, rows->last.data, len) != len)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read from temporary file of rows: %m")));
		rows->last_row = index;
	}
	return rows->last.data;
}

/* ---- rows ---- */

static void
set_tid(ItemPointer tid, uint32 index)
{
	ItemPointerSet(tid, index / ROWS_PER_BLOCK, (OffsetNumber) (index % ROWS_PER_BLOCK + 1));
}

/*
 * Keeps the row, once for each key, and says by which ctid it will be found.
 */
void
etcd_rows_add(EtcdRows *rows, const EtcdKeyValue *kv, bool has_value, ItemPointer tid)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) kv->key, (int) kv->key_len, 0);
	bool		found;
	KeyEntry   *entry = hash_search(rows->by_key, &hash, HASH_ENTER, &found);
	RowRecord  *row;

	if (!found)
		entry->first = NO_ROW;
	for (uint32 index = entry->first; index != NO_ROW; index = rows->rows[index].next)
	{
		if (rows->rows[index].key_len == kv->key_len && memcmp(row_bytes(rows, index), kv->key, kv->key_len) == 0)
		{
			if (rows->values && has_value && !rows->rows[index].has_value)
				store_bytes(rows, index, kv, true);
			set_tid(tid, index);
			return;
		}
	}
	if (rows->count == rows->room)
	{
		rows->room *= 2;
		rows->rows = repalloc_huge(rows->rows, (Size) rows->room * sizeof(RowRecord));
	}
	row = &rows->rows[rows->count];
	memcpy(row->numbers, kv->numbers, sizeof(row->numbers));
	row->next = entry->first;
	row->taken = false;
	store_bytes(rows, rows->count, kv, has_value);
	entry->first = rows->count;
	set_tid(tid, rows->count++);
}

/*
 * The row with this ctid, until the next call.  A value that no scan had is NULL.
 */
static RowRecord *
row_at(EtcdRows *rows, ItemPointer tid, EtcdKeyValue *kv)
{
	uint32		index = ItemPointerGetBlockNumber(tid) * ROWS_PER_BLOCK + ItemPointerGetOffsetNumber(tid) - 1;
	RowRecord  *row;

	if (index >= rows->count)
		elog(ERROR, "the row with this ctid is not known");
	row = &rows->rows[index];
	memcpy(kv->numbers, row->numbers, sizeof(kv->numbers));
	kv->key = row_bytes(rows, index);
	kv->key_len = row->key_len;
	kv->value = row->has_value ? kv->key + row->key_len : NULL;
	kv->value_len = row->value_len;
	return row;
}

/*
 * The row to be changed; false when the statement has changed it already: as
 * with a local table, that happens once.
 */
bool
etcd_rows_take(EtcdRows *rows, ItemPointer tid, EtcdKeyValue *kv)
{
	RowRecord  *row = row_at(rows, tid, kv);
	bool		taken = row->taken;

	row->taken = true;
	return !taken;
}

/*
 * The row to be locked.
 */
void
etcd_rows_look(EtcdRows *rows, ItemPointer tid, EtcdKeyValue *kv)
{
	(void) row_at(rows, tid, kv);
}

/*
 * The role as which a scan has found the rows: the first of them, should views
 * make several of it.
 */
void
etcd_rows_read_as(EtcdRows *rows, Oid userid)
{
	if (!OidIsValid(rows->userid))
		rows->userid = userid;
}

Oid
etcd_rows_user(EtcdRows *rows)
{
	return rows->userid;
}

/*
 * The execution is over: the file is closed while its owner is there.
 */
void
etcd_rows_close(EtcdRows *rows)
{
	if (rows->file != NULL)
		BufFileClose(rows->file);
	rows->file = NULL;
}
