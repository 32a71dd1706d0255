/*
 * watched.h
 *	  Whether a statement's functions may look at what it writes.
 */
#ifndef ETCD_FDW_WATCHED_H
#define ETCD_FDW_WATCHED_H

#include "postgres.h"

#include "nodes/execnodes.h"

extern bool etcd_is_watched(EState *estate);

#endif							/* ETCD_FDW_WATCHED_H */
