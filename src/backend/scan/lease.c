/*
 * lease.c
 *	  How long leases still live, for columns that show it: one request for
 *	  each lease of a scan, however many keys it holds.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "etcd/wire.h"
#include "constants.h"
#include "scan/cell.h"
#include "scan/lease.h"
#include "txn/stage.h"

#include "utils/memutils.h"

#define TTL_FIELD 3				/* of LeaseTimeToLiveResponse */

/*
 * The TTL in a LeaseTimeToLiveResponse; 0 is not sent.
 */
static int64
read_ttl(const char *at, const char *end)
{
	EtcdField	field;
	int64		seconds = 0;

	while (etcd_next_field(&at, end, &field))
	{
		if (field.field != TTL_FIELD)
			continue;
		etcd_expect(&field, WIRE_VARINT);
		seconds = (int64) field.number;
	}
	return seconds;
}

static int64
ask_seconds(EtcdCells *cells, int64 lease)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw lease", ALLOCSET_SMALL_SIZES);
	StringInfoData payload;
	EtcdRequest *request;
	ErrorData	fields = {0};
	int64		seconds;

	initStringInfo(&payload);
	appendStringInfoChar(&payload, 1 << 3);		/* LeaseTimeToLiveRequest.ID */
	etcd_append_varint(&payload, (uint64) lease);
	request = etcd_send(cells->userid, cells->serverid, METHOD_LEASE_TTL, payload.data, payload.len, ETCD_READ_ALONE, 0,
						context);
	etcd_wait(request);
	if (etcd_reply_is_error(request, &fields))
		etcd_raise(&fields);
	seconds = read_ttl(request->reply, request->reply + request->reply_len);
	MemoryContextDelete(context);
	return seconds;
}

/*
 * The lease is known to live so long.
 */
void
etcd_lease_note(EtcdCells *cells, int64 lease, int64 seconds)
{
	MemoryContext old;
	EtcdLease  *known;
	ListCell   *lc;

	foreach(lc, cells->leases)
	{
		if (((EtcdLease *) lfirst(lc))->id == lease)
			return;
	}
	old = MemoryContextSwitchTo(cells->context);
	known = palloc(sizeof(EtcdLease));
	known->id = lease;
	known->seconds = seconds;
	cells->leases = lappend(cells->leases, known);
	MemoryContextSwitchTo(old);
}

/*
 * Seconds that are left of the lease; -1 when it has ended.
 */
int64
etcd_lease_seconds(EtcdCells *cells, int64 lease)
{
	int64		seconds;
	ListCell   *lc;

	foreach(lc, cells->leases)
	{
		EtcdLease  *known = lfirst(lc);

		if (known->id == lease)
			return known->seconds;
	}
	seconds = ask_seconds(cells, lease);
	etcd_lease_note(cells, lease, seconds);
	return seconds;
}
