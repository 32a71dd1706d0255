/*
 * shape.h
 *	  What a mirror was made of, and whether that is so still.
 */
#ifndef ETCD_FDW_SHAPE_H
#define ETCD_FDW_SHAPE_H

#include "postgres.h"

#include "watch/follower.h"

/* Of `source` and `target`: server, key, range_end, and shape; attnums of the columns that tell keys apart. */
extern List *etcd_read_shape(EtcdFollower *mirror);

/* In a mirror's worker. */
extern void etcd_shape_watch(void);
extern void etcd_shape_expect(const EtcdFollower *mirror);
extern bool etcd_shape_is_stale(void);
extern void etcd_shape_doubt(void);

/* For etcd_attempt(); `arg` is an EtcdMirrorWork. */
extern void etcd_mirror_check_shape(void *arg);

#endif							/* ETCD_FDW_SHAPE_H */
