/*
 * worker.h
 *	  The background worker that runs the proxy, and where the two meet.
 */
#ifndef ETCD_FDW_WORKER_H
#define ETCD_FDW_WORKER_H

#include "postgres.h"

/*
 * Where the cluster's proxy listens, relative to the data directory.  Base
 * backups leave out what is in pg_stat_tmp: nothing of it is data, and they
 * would stumble over the socket.
 */
#define ETCD_RUN_DIR		"pg_stat_tmp/etcd_fdw"
#define ETCD_SOCKET_PATH	ETCD_RUN_DIR "/proxy.sock"
#define ETCD_START_LOCK		ETCD_RUN_DIR "/start.lock"
#define ETCD_WORKER_LOCK	ETCD_RUN_DIR "/worker.lock"

extern void etcd_worker_init(void);
extern void etcd_ensure_worker(void);
extern void etcd_make_run_dir(void);

#endif							/* ETCD_FDW_WORKER_H */
