/*
 * open.h
 *	  What the proxy is told about a server.
 */
#ifndef ETCD_FDW_OPEN_H
#define ETCD_FDW_OPEN_H

#include "postgres.h"

#include "foreign/foreign.h"

extern char *etcd_open_payload(ForeignServer *server, UserMapping *user, const char *role, uint32 *deadline);

#endif							/* ETCD_FDW_OPEN_H */
