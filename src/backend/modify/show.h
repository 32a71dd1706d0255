/*
 * show.h
 *	  What a statement's own rows look like.
 */
#ifndef ETCD_FDW_SHOW_H
#define ETCD_FDW_SHOW_H

#include "postgres.h"

#include "modify/modify.h"

extern int64 etcd_row_lease(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *old);
extern void etcd_check_maintained(EtcdWriter *writer, TupleTableSlot *slot);
extern void etcd_show_row(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *old, int64 lease, int64 revision);
extern void etcd_show_deleted(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *row);
extern bool etcd_shows_rows(ResultRelInfo *rinfo);

#endif							/* ETCD_FDW_SHOW_H */
