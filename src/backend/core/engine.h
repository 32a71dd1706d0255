/*
 * engine.h
 *	  The JavaScript engine behind the dispatch function.
 */
#ifndef ETCD_FDW_ENGINE_H
#define ETCD_FDW_ENGINE_H

#include "fmgr.h"

extern Oid	etcd_dispatch_in_schema(Oid namespace);
extern bool etcd_is_embedded(const FmgrInfo *dispatch);

/* Made by the build: core as JavaScript, and compiled for the embedded engine. */
extern const unsigned char etcd_fdw_core_source[];
extern const size_t etcd_fdw_core_source_len;
extern const unsigned char etcd_fdw_core_bytecode[];
extern const size_t etcd_fdw_core_bytecode_len;

#endif							/* ETCD_FDW_ENGINE_H */
