/*
 * option.h
 *	  Options of the wrapper, servers, user mappings, tables and columns.
 */
#ifndef ETCD_FDW_OPTION_H
#define ETCD_FDW_OPTION_H

#include "postgres.h"

#include "foreign/foreign.h"
#include "lib/stringinfo.h"

/* Connection options of a server with its user mapping, times in ms. */
typedef struct EtcdServerOptions
{
	List	   *endpoints;		/* of char *, "host:port" */
	bool		tls;
	bool		tls_verify;
	char	   *tls_servername; /* NULL: the endpoint's own name */
	DefElem    *cafile;			/* these three: NULL for none */
	DefElem    *certfile;
	DefElem    *keyfile;
	int			connect_timeout;
	int			request_timeout;
	int			max_retries;
	int			retry_backoff;
	int			max_txn_ops;
	int			max_staged_mb;
	bool		require_atomic;
	int			max_request_bytes;
	bool		nested_txns;
	const char *prefix;			/* what every key begins with */
	bool		updatable;
	char	   *username;		/* NULL: no authentication */
	char	   *password;
} EtcdServerOptions;

extern EtcdServerOptions *etcd_server_options(ForeignServer *server, UserMapping *user);
extern List *etcd_merged_options(ForeignServer *server);
extern void etcd_options_json(StringInfo buf, List *options);
extern bool etcd_uses_remote_estimate(Oid table);
extern bool etcd_table_flag(Oid table, const char *setting);
extern bool etcd_writes_at_once(Oid table);
extern bool etcd_reads_past(Oid table);

#endif							/* ETCD_FDW_OPTION_H */
