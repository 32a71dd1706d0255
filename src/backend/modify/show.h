/*
 * show.h
 *	  What a statement's own rows look like.
 */
#ifndef ETCD_FDW_SHOW_H
#define ETCD_FDW_SHOW_H

#include "postgres.h"

#include "modify/modify.h"

extern int64 etcd_row_lease(EtcdModify *modify, TupleTableSlot *slot, const EtcdKeyValue *old);
extern void etcd_check_maintained(EtcdWriter *writer, TupleTableSlot *slot);
extern void etcd_read_replaced(EtcdModify *modify, const char *key, uint32 len, int64 written, EtcdKeyValue *replaced);
extern void etcd_show_new(EtcdModify *modify, TupleTableSlot *slot, const EtcdKeyValue *kv, const EtcdKeyValue *replaced,
						  int64 revision);
extern void etcd_show_row(EtcdModify *modify, TupleTableSlot *slot, const EtcdKeyValue *kv);
extern bool etcd_shows_rows(ResultRelInfo *rinfo);

#endif							/* ETCD_FDW_SHOW_H */
