/*
 * keeper.h
 *	  Keeps a worker for each mirror of a database.
 */
#ifndef ETCD_FDW_KEEPER_H
#define ETCD_FDW_KEEPER_H

#include "postgres.h"

#include "utils/timestamp.h"
#include "watch/follower.h"

/* Reading the rows: look; keeps or add for each; end those that were not seen. */
extern void etcd_keeper_look(void);
extern bool etcd_keeper_keeps(const EtcdFollower *row, bool told_to_look);
extern void etcd_keeper_add(EtcdFollower *row, MemoryContext context);
extern void etcd_keeper_end_unseen(void);

extern bool etcd_keeper_tend(Oid table);
extern TimestampTz etcd_keeper_due(void);
extern void etcd_keeper_end_all(int code, Datum arg);

#endif							/* ETCD_FDW_KEEPER_H */
