/*
 * transaction.h
 *	  The transaction on each channel, and how it ends.
 */
#ifndef ETCD_FDW_TRANSACTION_H
#define ETCD_FDW_TRANSACTION_H

#include "postgres.h"

#include "ipc/channel.h"
#include "lib/ilist.h"
#include "nodes/pg_list.h"

/*
 * What the proxy holds on a channel of PostgreSQL's transaction: writes until
 * they are committed, and under SERIALIZABLE what was read.
 *
 *	(none) -> OPEN			the first write, or the first read that is recorded
 *	OPEN -> LOST			the session ended, and what was held with it
 *	OPEN -> COMMITTING		PRE_COMMIT has sent it off
 *	COMMITTING -> COMMITTED	etcd has taken it
 *	COMMITTING -> REFUSED	a guard did not hold, or etcd said no: nothing was written
 *	COMMITTING -> UNKNOWN	no answer came, or the proxy does not know either
 *	any -> (none)			PostgreSQL's transaction is over
 */
typedef enum EtcdTransactionState
{
	ETCD_TRANSACTION_OPEN,
	ETCD_TRANSACTION_LOST,
	ETCD_TRANSACTION_COMMITTING,
	ETCD_TRANSACTION_COMMITTED,
	ETCD_TRANSACTION_REFUSED,
	ETCD_TRANSACTION_UNKNOWN
} EtcdTransactionState;

typedef struct EtcdTransaction
{
	dlist_node	node;
	EtcdTransactionState state;
	EtcdChannel *channel;
	uint64		generation;		/* of the session that it began in */
	bool		writes;
	bool		recorded;		/* what it has read must still hold at the end */
	int			level;			/* the highest that has written, 1 for the top */
	CommandId	command;		/* the latest that has written */
	List	   *roles;			/* OIDs of those that have used it: it stays theirs, whatever mappings come */
} EtcdTransaction;

extern EtcdTransaction *etcd_transaction_begin(Oid userid, Oid serverid);
extern EtcdTransaction *etcd_transaction_of(Oid userid, Oid serverid);
extern void etcd_transaction_check(EtcdTransaction *transaction);
extern void etcd_transactions_init(void);

#endif							/* ETCD_FDW_TRANSACTION_H */
