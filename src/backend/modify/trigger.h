/*
 * trigger.h
 *	  What triggers change of a row before an UPDATE writes it.
 */
#ifndef ETCD_FDW_TRIGGER_H
#define ETCD_FDW_TRIGGER_H

#include "postgres.h"

#include "modify/modify.h"

extern void etcd_trigger_begin(EtcdModify *modify, ResultRelInfo *rinfo, List *targetlist);
extern void etcd_trigger_note(EtcdModify *modify, TupleTableSlot *slot, TupleTableSlot *plan_slot);
extern void etcd_trigger_forget(EtcdModify *modify);

#endif							/* ETCD_FDW_TRIGGER_H */
