/*
 * leftout.c
 *	  What a mirror leaves out because its target refuses it.
 *
 * A user gives revisions (skip of etcd_resume()).  A key that is refused as it is
 * at one of these is noted, and left out as long as etcd has it at that
 * revision; when it changes it is tried anew.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "scan/feed.h"
#include "watch/leftout.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

static EtcdLeftOut *
make_set(void)
{
	EtcdLeftOut *set = palloc0(sizeof(EtcdLeftOut));

	set->context = CurrentMemoryContext;
	set->room = 8;
	set->kvs = palloc0(sizeof(EtcdKeyValue) * set->room);
	set->met = palloc0(sizeof(bool) * set->room);
	return set;
}

/*
 * Puts a key where it belongs; it may be there at another revision.
 */
static void
insert(EtcdLeftOut *set, const char *key, uint32 key_len, int64 revision)
{
	MemoryContext old = MemoryContextSwitchTo(set->context);
	int			place = etcd_feed_find(set->kvs, set->count, key, key_len);
	char	   *copy;

	if (place >= 0)
	{
		set->kvs[place].numbers[1] = revision;
		set->met[place] = true;
		MemoryContextSwitchTo(old);
		return;
	}
	if (set->count == set->room)
	{
		set->room *= 2;
		set->kvs = repalloc(set->kvs, sizeof(EtcdKeyValue) * set->room);
		set->met = repalloc(set->met, sizeof(bool) * set->room);
	}
	for (place = set->count++; place > 0; place--)
	{
		if (etcd_compare_bytes(set->kvs[place - 1].key, set->kvs[place - 1].key_len, key, key_len) < 0)
			break;
		set->kvs[place] = set->kvs[place - 1];
		set->met[place] = set->met[place - 1];
	}
	copy = palloc(Max(1, key_len));
	memcpy(copy, key, key_len);
	memset(&set->kvs[place], 0, sizeof(EtcdKeyValue));
	set->kvs[place].key = copy;
	set->kvs[place].key_len = key_len;
	set->kvs[place].numbers[1] = revision;
	set->met[place] = true;
	MemoryContextSwitchTo(old);
}

/*
 * What this mirror leaves out, in the current memory context.
 */
EtcdLeftOut *
etcd_left_out_load(const char *name)
{
	EtcdLeftOut *set = make_set();
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};

	SPI_connect();
	etcd_follower_run("SELECT l.key, l.revision FROM %s.etcd_fdw_left_out l WHERE l.name OPERATOR(pg_catalog.=) $1",
					  1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bytea	   *key = DatumGetByteaPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));

		insert(set, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
			   DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull)));
	}
	SPI_finish();
	return set;
}

/*
 * For an attempt, which may come to nothing.
 */
EtcdLeftOut *
etcd_left_out_copy(const EtcdLeftOut *from)
{
	EtcdLeftOut *set = make_set();

	for (uint32 i = 0; i < from->count; i++)
		insert(set, from->kvs[i].key, from->kvs[i].key_len, from->kvs[i].numbers[1]);
	memset(set->met, 0, sizeof(bool) * set->room);
	return set;
}

/*
 * Whether somebody has said that the key may be left out as it is.
 */
bool
etcd_may_leave_out(const EtcdFollower *mirror, const EtcdKeyValue *kv)
{
	for (int i = 0; i < mirror->nskips; i++)
	{
		if (mirror->skips[i] == kv->numbers[1])
			return true;
	}
	return false;
}

/*
 * Whether it is left out, as it is.
 */
bool
etcd_is_left_out(const EtcdLeftOut *set, const EtcdKeyValue *kv)
{
	int			place = etcd_feed_find(set->kvs, set->count, kv->key, kv->key_len);

	return place >= 0 && set->kvs[place].numbers[1] == kv->numbers[1];
}

static void
delete_row(const char *name, const EtcdKeyValue *kv)
{
	Oid			types[] = {TEXTOID, BYTEAOID};
	Datum		values[] = {
		CStringGetTextDatum(name), PointerGetDatum(cstring_to_text_with_len(kv->key, kv->key_len))
	};

	etcd_follower_run("DELETE FROM %s.etcd_fdw_left_out l WHERE l.name OPERATOR(pg_catalog.=) $1"
					  " AND l.key OPERATOR(pg_catalog.=) $2", 2, types, values, NULL, SPI_OK_DELETE);
}

/*
 * Leaves the key out from now on, as it is.  SPI is connected.
 */
void
etcd_leave_out(EtcdLeftOut *set, const char *name, const EtcdKeyValue *kv)
{
	Oid			types[] = {TEXTOID, BYTEAOID, INT8OID};
	Datum		values[] = {
		CStringGetTextDatum(name), PointerGetDatum(cstring_to_text_with_len(kv->key, kv->key_len)),
		Int64GetDatum(kv->numbers[1])
	};

	delete_row(name, kv);
	etcd_follower_run("INSERT INTO %s.etcd_fdw_left_out (name, key, revision) VALUES ($1, $2, $3)",
					  3, types, values, NULL, SPI_OK_INSERT);
	insert(set, kv->key, kv->key_len, kv->numbers[1]);
	set->changed = true;
}

static void
forget(EtcdLeftOut *set, const char *name, uint32 place)
{
	delete_row(name, &set->kvs[place]);
	set->count--;
	memmove(&set->kvs[place], &set->kvs[place + 1], sizeof(EtcdKeyValue) * (set->count - place));
	memmove(&set->met[place], &set->met[place + 1], sizeof(bool) * (set->count - place));
	set->changed = true;
}

/*
 * The key is tried anew when it is not what was refused.
 */
void
etcd_left_out_changed(EtcdLeftOut *set, const char *name, const EtcdKeyValue *kv)
{
	int			place = etcd_feed_find(set->kvs, set->count, kv->key, kv->key_len);

	if (place >= 0 && set->kvs[place].numbers[1] != kv->numbers[1])
		forget(set, name, place);
}

/*
 * Everything was looked at: what was not met is not left out any more.
 */
void
etcd_left_out_prune(EtcdLeftOut *set, const char *name)
{
	for (uint32 i = set->count; i-- > 0;)
	{
		if (!set->met[i])
			forget(set, name, i);
	}
}

/*
 * Revisions mean something else now: nothing is left out, and nothing may be.
 */
void
etcd_left_out_forget(const char *name)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};

	SPI_connect();
	etcd_follower_run("DELETE FROM %s.etcd_fdw_left_out l WHERE l.name OPERATOR(pg_catalog.=) $1",
					  1, types, values, NULL, SPI_OK_DELETE);
	etcd_follower_run("UPDATE %s.etcd_fdw_follower f SET skips = '{}' WHERE f.name OPERATOR(pg_catalog.=) $1"
					  " AND f.skips OPERATOR(pg_catalog.<>) '{}'::pg_catalog.int8[]", 1, types, values, NULL, SPI_OK_UPDATE);
	SPI_finish();
}
