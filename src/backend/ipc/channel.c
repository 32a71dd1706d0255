/*
 * channel.c
 *	  Channels to the proxy.
 *
 * A channel is opened by the first request that needs it, and again in a new
 * session, and after ALTER SERVER, ALTER USER MAPPING and the like; but not
 * while the proxy holds a transaction's writes for it, or the transaction has a
 * revision that it may read again.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "base/compat.h"
#include "constants.h"
#include "ipc/channel.h"
#include "ipc/session.h"
#include "server/open.h"

#include "catalog/pg_user_mapping.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(etcd_fdw_disconnect);

/* How long the proxy may take to answer what it needs no server for, in ms. */
#define PROXY_DEADLINE_MS	30000

static HTAB *channels = NULL;

/* Counts what may have changed a server's options. */
static uint64 epoch = 1;
static uint32 last_number = 0;

static void
options_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	(void) arg;
	(void) cacheid;
	(void) hashvalue;
	epoch++;
}

void
etcd_channels_init(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(((EtcdChannel *) 0)->key);
	ctl.entrysize = sizeof(EtcdChannel);
	ctl.hcxt = TopMemoryContext;
	channels = hash_create("etcd_fdw channels", 8, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, options_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, options_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, options_changed, (Datum) 0);
}

/*
 * etcd_fdw_disconnect() returns integer
 *
 * Ends all that this session has with the proxy; how many channels it was.
 */
Datum
etcd_fdw_disconnect(PG_FUNCTION_ARGS)
{
	HASH_SEQ_STATUS scan;
	EtcdChannel *channel;
	int			count = 0;
	bool		busy = false;

	(void) fcinfo;
	hash_seq_init(&scan, channels);
	while ((channel = hash_seq_search(&scan)) != NULL)
	{
		busy = busy || (channel->busy && etcd_channel_is_open(channel));
		count += etcd_channel_is_open(channel);
	}
	if (busy)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot disconnect from etcd while the transaction has rows that are not committed"),
				 errhint("COMMIT or ROLLBACK first.")));
	if (etcd_requests_exist())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot disconnect from etcd while a query reads it"),
				 errhint("Close the cursors on foreign tables first.")));
	etcd_session_close();
	PG_RETURN_INT32(count);
}

/*
 * The user mapping by which this role is known to the server; InvalidOid when
 * there is none.
 */
static Oid
mapping_of(Oid userid, Oid serverid)
{
	Oid			users[] = {userid, InvalidOid};

	for (int i = 0; i < lengthof(users); i++)
	{
		Oid			mapping = GetSysCacheOid2(USERMAPPINGUSERSERVER, Anum_pg_user_mapping_oid,
											  ObjectIdGetDatum(users[i]), ObjectIdGetDatum(serverid));

		if (OidIsValid(mapping))
			return mapping;
	}
	return InvalidOid;
}

/*
 * The channel by which this role reaches the server, open or not.
 */
EtcdChannel *
etcd_channel(Oid userid, Oid serverid, EtcdChannelKind kind)
{
	Oid			key[] = {serverid, mapping_of(userid, serverid), kind == ETCD_CHANNEL_OF_ROLE ? userid : InvalidOid};
	bool		found;
	EtcdChannel *channel = hash_search(channels, key, HASH_ENTER, &found);

	if (!found)
	{
		channel->state = ETCD_CHANNEL_CLOSED;
		channel->busy = false;
	}
	return channel;
}

bool
etcd_channel_is_open(EtcdChannel *channel)
{
	if (channel->state == ETCD_CHANNEL_OPEN &&
		(etcd_session_state() == ETCD_SESSION_DOWN || channel->generation != etcd_session_generation()))
		channel->state = ETCD_CHANNEL_CLOSED;
	return channel->state == ETCD_CHANNEL_OPEN;
}

/*
 * Tells the proxy how to reach the server.  Nothing is waited for: what cannot
 * be reached fails the requests.
 */
static void
channel_open(EtcdChannel *channel, Oid userid)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw channel", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(work);
	/* Whatever changes from here on is not surely in what is read below. */
	uint64		read_at = epoch;
	ForeignServer *server = GetForeignServer(channel->key.serverid);
	UserMapping *mapping = OidIsValid(channel->key.mapping) ? GetUserMapping(userid, server->serverid) : NULL;
	Oid			role = OidIsValid(channel->key.role) ? channel->key.role : mapping ? mapping->userid : InvalidOid;
	const char *label = OidIsValid(role) ? GetUserNameFromId(role, false) : "public";
	char	   *payload = etcd_open_payload(server, mapping, label, &channel->deadline);

	if (etcd_channel_is_open(channel))
		etcd_session_queue(FRAME_CLOSE, 0, 0, channel->number, 0, 0, NULL, 0, NULL, 0);
	channel->state = ETCD_CHANNEL_CLOSED;
	if (++last_number == 0)
		last_number = 1;
	channel->number = last_number;
	etcd_session_queue(FRAME_OPEN, 0, 0, channel->number, 0, 0, payload, strlen(payload), NULL, 0);
	channel->generation = etcd_session_generation();
	channel->epoch = read_at;
	channel->state = ETCD_CHANNEL_OPEN;
	explicit_bzero(payload, strlen(payload));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
}

/*
 * Makes sure of the session, and that the channel is open in it as the
 * server's options are now; with `keep`, as they were when it was opened, since
 * what was read through it counts still.  What the proxy holds of a transaction
 * stays with the channel as it was opened, too.
 */
void
etcd_channel_ready(EtcdChannel *channel, Oid userid, bool keep)
{
	etcd_session_ensure();
	if (!etcd_channel_is_open(channel) || (channel->epoch != epoch && !channel->busy && !keep))
		channel_open(channel, userid);
}

static void
check_frame(const EtcdAnswer *answer)
{
	if (answer->payload_len < FRAME_HEADER)
		elog(ERROR, "core wrote a frame of %d bytes", answer->payload_len);
}

/*
 * Sends a frame that core wrote, with core's flags.  Core's deadline is what
 * the request may take beyond the server's, since it waits for other clients.
 */
static EtcdRequest *
send_as_is(uint32 channel, uint32 deadline, const EtcdAnswer *answer, MemoryContext context)
{
	uint8		method = (uint8) answer->payload[FRAME_AT_CODE];
	uint8		flags = (uint8) answer->payload[FRAME_AT_FLAGS];
	uint32		beyond = etcd_get_uint32(answer->payload + FRAME_AT_DEADLINE);
	uint64		all = (uint64) deadline + beyond;
	EtcdRequest *request;

	request = etcd_request_create(method, beyond == FRAME_NO_LIMIT || all >= FRAME_NO_LIMIT ? 0 : (uint32) all, context);

	etcd_session_queue(FRAME_UNARY, method, flags, channel, request->id, request->deadline,
					   answer->payload + FRAME_HEADER, answer->payload_len - FRAME_HEADER, NULL, 0);
	etcd_session_flush();
	return request;
}

/*
 * Sends a function's frame to this server as this role.
 */
EtcdRequest *
etcd_ask_server(Oid userid, Oid serverid, const EtcdAnswer *answer, MemoryContext context)
{
	EtcdChannel *channel = etcd_channel(userid, serverid, ETCD_CHANNEL_OF_ROLE);

	check_frame(answer);
	etcd_channel_ready(channel, userid, false);
	return send_as_is(channel->number, channel->deadline, answer, context);
}

/*
 * Sends a frame for the proxy itself.
 */
EtcdRequest *
etcd_ask_proxy(const EtcdAnswer *answer, MemoryContext context)
{
	check_frame(answer);
	etcd_session_ensure();
	return send_as_is(0, PROXY_DEADLINE_MS, answer, context);
}
