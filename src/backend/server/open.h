/*
 * open.h
 *	  What the proxy is told about a server.
 */
#ifndef ETCD_FDW_OPEN_H
#define ETCD_FDW_OPEN_H

#include "postgres.h"

#include "foreign/foreign.h"

extern char *etcd_open_payload(ForeignServer *server, Oid userid, UserMapping *user, int *patience);

#endif							/* ETCD_FDW_OPEN_H */
