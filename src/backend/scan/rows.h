/*
 * rows.h
 *	  What an UPDATE or DELETE has to know of the rows that its scan found.
 */
#ifndef ETCD_FDW_ROWS_H
#define ETCD_FDW_ROWS_H

#include "postgres.h"

#include "etcd/page.h"

#include "nodes/execnodes.h"
#include "storage/itemptr.h"

typedef struct EtcdRows EtcdRows;

extern EtcdRows *etcd_rows_create(EState *estate, Oid table);
extern void etcd_rows_keep_values(EtcdRows *rows);
extern void etcd_rows_add(EtcdRows *rows, const EtcdKeyValue *kv, bool has_value, ItemPointer tid);
extern void etcd_rows_look(EtcdRows *rows, ItemPointer tid, EtcdKeyValue *kv);
extern void etcd_rows_read_as(EtcdRows *rows, Oid userid);
extern Oid	etcd_rows_user(EtcdRows *rows);
extern bool etcd_rows_take(EtcdRows *rows, ItemPointer tid, EtcdKeyValue *kv);
extern void etcd_rows_close(EtcdRows *rows);

#endif							/* ETCD_FDW_ROWS_H */
