/*
 * rows.c
 *	  What an UPDATE or DELETE has to know of the rows that its scan found.
 *
 * A row's identity on its way through the plan is a ctid that counts the rows
 * kept here: so the key is the one that etcd has, byte for byte, whatever the
 * columns show of it, and the revision that the statement saw is at hand
 * whether the table has a column for it or not.
 */
#include "postgres.h"

#include "etcd/page.h"
#include "scan/rows.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#define ROWS_PER_BLOCK 32768

struct EtcdRows
{
	dlist_node	node;
	MemoryContextCallback release;
	EState	   *estate;
	Oid			table;
	MemoryContext context;
	EtcdRow   **rows;
	uint32		count;
	uint32		room;
	HTAB	   *by_key;			/* hash of a key to the first row with it */
};

typedef struct KeyEntry
{
	uint32		hash;
	EtcdRow    *first;
} KeyEntry;

static dlist_head all_rows = DLIST_STATIC_INIT(all_rows);

static EtcdRows *
find_rows(EState *estate, Oid table)
{
	dlist_iter	iter;

	dlist_foreach(iter, &all_rows)
	{
		EtcdRows   *rows = dlist_container(EtcdRows, node, iter.cur);

		if (rows->estate == estate && rows->table == table)
			return rows;
	}
	return NULL;
}

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
	EtcdRows   *rows = find_rows(estate, table);
	MemoryContext context;
	HASHCTL		ctl = {0};

	if (rows != NULL)
		return rows;
	context = AllocSetContextCreate(estate->es_query_cxt, "etcd_fdw rows", ALLOCSET_DEFAULT_SIZES);
	rows = MemoryContextAllocZero(context, sizeof(EtcdRows));
	rows->estate = estate;
	rows->table = table;
	rows->context = context;
	rows->room = 64;
	rows->rows = MemoryContextAlloc(context, rows->room * sizeof(EtcdRow *));
	ctl.keysize = sizeof(uint32);
	ctl.entrysize = sizeof(KeyEntry);
	ctl.hcxt = context;
	rows->by_key = hash_create("etcd_fdw rows", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	rows->release.func = forget_rows;
	rows->release.arg = rows;
	MemoryContextRegisterResetCallback(context, &rows->release);
	dlist_push_head(&all_rows, &rows->node);
	return rows;
}

static char *
copy_bytes(EtcdRows *rows, const char *data, uint32 len)
{
	char	   *copy = MemoryContextAlloc(rows->context, len + 1);

	memcpy(copy, data, len);
	return copy;
}

static void
set_tid(ItemPointer tid, uint32 index)
{
	ItemPointerSet(tid, index / ROWS_PER_BLOCK, (OffsetNumber) (index % ROWS_PER_BLOCK + 1));
}

/*
 * Keeps the row, once for each key, and says by which ctid it will be found.
 */
void
etcd_rows_add(EtcdRows *rows, const EtcdKeyValue *kv, ItemPointer tid)
{
	uint32		hash = hash_bytes((const unsigned char *) kv->key, (int) kv->key_len);
	bool		found;
	KeyEntry   *entry = hash_search(rows->by_key, &hash, HASH_ENTER, &found);
	EtcdRow    *row;

	if (!found)
		entry->first = NULL;
	for (row = entry->first; row != NULL; row = row->next)
	{
		if (row->kv.key_len == kv->key_len && memcmp(row->kv.key, kv->key, kv->key_len) == 0)
		{
			set_tid(tid, row->index);
			return;
		}
	}
	row = MemoryContextAllocZero(rows->context, sizeof(EtcdRow));
	row->kv = *kv;
	row->kv.key = copy_bytes(rows, kv->key, kv->key_len);
	row->kv.value = copy_bytes(rows, kv->value, kv->value_len);
	row->index = rows->count;
	row->next = entry->first;
	entry->first = row;
	if (rows->count == rows->room)
	{
		rows->room *= 2;
		rows->rows = repalloc_huge(rows->rows, (Size) rows->room * sizeof(EtcdRow *));
	}
	rows->rows[rows->count++] = row;
	set_tid(tid, row->index);
}

EtcdRow *
etcd_rows_find(EState *estate, Oid table, ItemPointer tid)
{
	EtcdRows   *rows = find_rows(estate, table);
	uint32		index = ItemPointerGetBlockNumber(tid) * ROWS_PER_BLOCK + ItemPointerGetOffsetNumber(tid) - 1;

	if (rows == NULL || index >= rows->count)
		elog(ERROR, "the row to be changed is not known");
	return rows->rows[index];
}
