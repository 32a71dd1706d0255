/*
 * feed.c
 *	  What a mirror does to a scan of its foreign table: it lets a statement see
 *	  what events have told instead of etcd, through the same code that forms
 *	  rows of etcd's answers; or all of etcd's keys but those that it leaves out,
 *	  of which no value is formed; or it takes the keys before they are rows.
 *
 * It is for one scan: the next statement is planned, where the scan does not
 * read etcd, so that all conditions are left to PostgreSQL, and its scan takes
 * the feed when it is made.  What triggers and functions of that statement read
 * comes from etcd as ever.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "scan/feed.h"

static const EtcdFeed *present = NULL;

/*
 * For the next scan of its table; NULL takes that back.
 */
void
etcd_feed(const EtcdFeed *feed)
{
	present = feed;
}

/*
 * What the table's next scan shows instead of etcd; NULL for nothing.
 */
const EtcdFeed *
etcd_feed_of(Oid table)
{
	return present != NULL && present->table == table && present->kind == ETCD_FEED_INSTEAD ? present : NULL;
}

/*
 * For the scan itself: what is meant for it.
 */
const EtcdFeed *
etcd_feed_take(Oid table)
{
	const EtcdFeed *feed = present != NULL && present->table == table ? present : NULL;

	if (feed != NULL)
		present = NULL;
	return feed;
}

/*
 * Where the key is among those, which are in the order of keys; -1 for nowhere.
 */
int
etcd_feed_find(const EtcdKeyValue *kvs, uint32 count, const char *key, uint32 key_len)
{
	uint32		low = 0;
	uint32		high = count;

	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;
		int			order = etcd_compare_bytes(kvs[middle].key, kvs[middle].key_len, key, key_len);

		if (order == 0)
			return (int) middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return -1;
}

/*
 * Whether the scan does not show this key of etcd's.
 */
bool
etcd_feed_leaves_out(const EtcdFeed *feed, const EtcdKeyValue *kv)
{
	int			place = etcd_feed_find(feed->kvs, feed->count, kv->key, kv->key_len);

	if (place < 0 || feed->kvs[place].numbers[1] != kv->numbers[1])
		return false;
	if (feed->met != NULL)
		feed->met[place] = true;
	return true;
}
