/*
 * channel.h
 *	  Channels to the proxy: one etcd cluster, as one user of it.
 */
#ifndef ETCD_FDW_CHANNEL_H
#define ETCD_FDW_CHANNEL_H

#include "postgres.h"

#include "core/dispatch.h"
#include "ipc/request.h"

/*
 * Whose a channel is.  Roles that no user mapping tells apart are one client
 * for etcd: they share a channel, and so a transaction, whatever SET ROLE and
 * SECURITY DEFINER do.  What functions do belongs to no transaction; it is
 * counted, and what the session holds by it is kept, for each role.
 */
typedef enum EtcdChannelKind
{
	ETCD_CHANNEL_OF_MAPPING,
	ETCD_CHANNEL_OF_ROLE
} EtcdChannelKind;

/*
 *	CLOSED -> OPEN		the proxy was told how to reach the server
 *	OPEN -> OPEN		it was told anew: options have changed, and no transaction is open or will read
 *						a revision of it again
 *	OPEN -> CLOSED		the session it was opened in is over
 */
typedef enum EtcdChannelState
{
	ETCD_CHANNEL_CLOSED,
	ETCD_CHANNEL_OPEN
} EtcdChannelState;

typedef struct EtcdChannel
{
	struct
	{
		Oid			serverid;
		Oid			mapping;	/* InvalidOid: none */
		Oid			role;		/* InvalidOid: a mapping's channel */
	}			key;
	EtcdChannelState state;
	uint64		generation;		/* of the session in which it was opened */
	uint64		epoch;			/* of the options that the proxy was told */
	uint32		number;
	uint32		deadline;		/* of its requests, in ms */
	bool		busy;			/* a transaction is open on it */
} EtcdChannel;

extern EtcdChannel *etcd_channel(Oid userid, Oid serverid, EtcdChannelKind kind);
extern bool etcd_channel_is_open(EtcdChannel *channel);
extern void etcd_channel_ready(EtcdChannel *channel, Oid userid, bool keep);
extern void etcd_channels_init(void);

/* Requests that belong to no transaction. */
extern EtcdRequest *etcd_ask_server(Oid userid, Oid serverid, const EtcdAnswer *answer, MemoryContext context);
extern EtcdRequest *etcd_ask_proxy(const EtcdAnswer *answer, MemoryContext context);

#endif							/* ETCD_FDW_CHANNEL_H */
