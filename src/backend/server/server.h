/*
 * server.h
 *	  Which foreign server a function is about.
 */
#ifndef ETCD_FDW_SERVER_H
#define ETCD_FDW_SERVER_H

#include "postgres.h"

extern Oid	etcd_server_by_name(const char *name);
extern Oid	etcd_default_server(const char *function);
extern void etcd_check_usage(Oid serverid, bool monitor);
extern void etcd_server_init(void);

#endif							/* ETCD_FDW_SERVER_H */
