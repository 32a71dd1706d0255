/*
 * revision.h
 *	  Which revision of etcd a scan reads.
 */
#ifndef ETCD_FDW_REVISION_H
#define ETCD_FDW_REVISION_H

#include "postgres.h"

struct EState;
extern int64 etcd_named_revision(Oid userid, struct EState *estate);
extern int64 etcd_transaction_revision(Oid serverid);
extern int64 etcd_statement_revision(struct EState *estate, Oid serverid, bool serializable);
extern void etcd_set_statement_revision(struct EState *estate, Oid serverid, bool serializable, int64 revision,
										uint64 cluster);
extern void etcd_check_cluster(struct EState *estate, Oid serverid, bool serializable, uint64 cluster);
extern bool etcd_holds_revision(Oid serverid);
extern void etcd_revision_init(void);

#endif							/* ETCD_FDW_REVISION_H */
