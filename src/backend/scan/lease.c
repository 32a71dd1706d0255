/*
 * lease.c
 *	  How long leases still live, for columns that show it: one request for
 *	  each lease of a scan, however many keys it holds.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "constants.h"
#include "scan/cell.h"
#include "scan/lease.h"
#include "txn/stage.h"

#include "utils/memutils.h"

#define TTL_FIELD 3				/* of LeaseTimeToLiveResponse */

static uint64
read_varint(const char **at, const char *end)
{
	uint64		value = 0;

	for (int shift = 0; *at < end && shift < 64; shift += 7)
	{
		uint8		byte = (uint8) *(*at)++;

		value |= (uint64) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
			return value;
	}
	ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("invalid reply from etcd")));
	return 0;
}

/*
 * The TTL in a LeaseTimeToLiveResponse; 0 is not sent.
 */
static int64
read_ttl(const char *at, const char *end)
{
	int64		seconds = 0;

	while (at < end)
	{
		uint64		tag = read_varint(&at, end);
		uint64		value = read_varint(&at, end);

		if (tag >> 3 == TTL_FIELD && (tag & 7) == 0)
			seconds = (int64) value;
		else if ((tag & 7) == 2)
			at += Min(value, (uint64) (end - at));
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
	request = etcd_send(cells->userid, cells->serverid, METHOD_LEASE_TTL, payload.data, payload.len, -1, context);
	etcd_wait(request);
	if (etcd_reply_is_error(request, &fields))
		etcd_raise(&fields);
	seconds = read_ttl(request->reply, request->reply + request->reply_len);
	MemoryContextDelete(context);
	return seconds;
}

/*
 * Seconds that are left of the lease; -1 when it has ended.
 */
int64
etcd_lease_seconds(EtcdCells *cells, int64 lease)
{
	MemoryContext old;
	EtcdLease  *known;
	ListCell   *lc;

	foreach(lc, cells->leases)
	{
		known = lfirst(lc);
		if (known->id == lease)
			return known->seconds;
	}
	if (!OidIsValid(cells->serverid))
		return -1;
	old = MemoryContextSwitchTo(cells->context);
	known = palloc(sizeof(EtcdLease));
	known->id = lease;
	known->seconds = ask_seconds(cells, lease);
	cells->leases = lappend(cells->leases, known);
	MemoryContextSwitchTo(old);
	return known->seconds;
}
