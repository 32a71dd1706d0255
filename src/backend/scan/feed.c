/*
 * feed.c
 *	  Rows for a scan that were not read from etcd: a mirror lets a statement
 *	  that reads its foreign table see what events have told, through the same
 *	  code that forms rows of etcd's answers.
 *
 * It is for one scan: the next statement is planned so that all conditions are
 * left to PostgreSQL, and its scan takes the feed when it is made.  What
 * triggers and functions of that statement read comes from etcd as ever.
 */
#include "postgres.h"

#include "scan/feed.h"

static const EtcdFeed *present = NULL;

/*
 * The next scan of the table shows these keys, which are in their order; NULL
 * takes that back.
 */
void
etcd_feed(const EtcdFeed *feed)
{
	present = feed;
}

/*
 * What the table's next scan is fed with; NULL for nothing.
 */
const EtcdFeed *
etcd_feed_of(Oid table)
{
	return present != NULL && present->table == table ? present : NULL;
}

/*
 * The same, for the scan itself.
 */
const EtcdFeed *
etcd_feed_take(Oid table)
{
	const EtcdFeed *feed = etcd_feed_of(table);

	if (feed != NULL)
		present = NULL;
	return feed;
}
