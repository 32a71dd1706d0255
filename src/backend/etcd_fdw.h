/*
 * etcd_fdw.h
 *	  What the files of the backend part share.
 *
 * The backend owns everything that needs PostgreSQL: callbacks, waiting,
 * memory, errors, forming tuples.  What to ask of etcd is decided by core, the
 * TypeScript program behind etcd_dispatch(); how etcd is reached is the
 * proxy's business, behind channel.c and connection.c.
 */
#ifndef ETCD_FDW_H
#define ETCD_FDW_H

#include "postgres.h"

#include "foreign/foreign.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "nodes/pathnodes.h"
#include "datatype/timestamp.h"
#include "utils/jsonb.h"

/* Of the whole product; src/base/version.ts says the same. */
#define ETCD_FDW_VERSION	"0.2.0"

/* Where the cluster's proxy listens, relative to the data directory. */
#define ETCD_RUN_DIR		"pg_etcd_fdw"
#define ETCD_SOCKET_PATH	ETCD_RUN_DIR "/proxy.sock"
#define ETCD_START_LOCK		ETCD_RUN_DIR "/start.lock"
#define ETCD_WORKER_LOCK	ETCD_RUN_DIR "/worker.lock"

/* ---- option.c ---- */

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
	char	   *username;		/* NULL: no authentication */
	char	   *password;
} EtcdServerOptions;

extern EtcdServerOptions *etcd_server_options(ForeignServer *server, UserMapping *user);
extern List *etcd_merged_options(ForeignServer *server);
extern void etcd_options_json(StringInfo buf, List *options);
extern bool etcd_uses_remote_estimate(Oid table);
extern bool etcd_table_flag(Oid table, const char *setting);
extern bool etcd_writes_at_once(Oid table);

/* ---- bytes.c ---- */

extern uint32 etcd_get_uint32(const char *at);
extern void etcd_put_uint32(char *at, uint32 value);
extern void etcd_append_uint32(StringInfo buf, uint32 value);
extern void etcd_append_int64(StringInfo buf, int64 value);
extern void etcd_append_varint(StringInfo buf, uint64 value);
extern int	etcd_compare_bytes(const char *a, uint32 alen, const char *b, uint32 blen);
extern text *etcd_text_from_utf8(const char *data, uint32 len);
extern char *etcd_printable(const char *data, uint32 len);

/* ---- open.c ---- */

extern char *etcd_open_payload(ForeignServer *server, Oid userid, UserMapping *user, int *patience);

/* ---- dispatch.c ---- */

/* Core's answer: the control object, and the bytes that go with it. */
typedef struct EtcdAnswer
{
	Jsonb	   *control;
	char	   *payload;
	int			payload_len;
} EtcdAnswer;

extern Oid	etcd_dispatch_function(Oid serverid);
extern Oid	etcd_dispatch_beside(Oid function);
extern void etcd_dispatch(Oid function, const char *op, StringInfo input, EtcdAnswer *answer);
extern void etcd_dispatch_bytes(Oid function, const char *op, StringInfo input, const char *bytes, int len,
								EtcdAnswer *answer);
extern char *etcd_json_text(Jsonb *object, const char *field);
extern double etcd_json_number(Jsonb *object, const char *field);
extern int	etcd_json_flag(Jsonb *object, const char *field);
extern bool etcd_json_is(Jsonb *object, const char *field, const char *text);
extern List *etcd_json_ints(Jsonb *object, const char *field);
extern List *etcd_json_strings(Jsonb *object, const char *field);
extern void etcd_append_hex(StringInfo buf, const char *data, int len);
extern char *etcd_from_hex(const char *hex, int *len);

/* ---- connection.c, channel.c ---- */

/*
 * A request on its way.  It lives in the memory context that its reply will
 * be put in; when that context is reset or deleted, the request is cancelled.
 */
typedef struct EtcdRequest
{
	dlist_node	node;
	MemoryContextCallback release;
	MemoryContext context;
	uint32		id;				/* 0 once it is off the list */
	uint8		method;			/* of frame.h */
	bool		done;
	bool		lost;			/* the connection broke before the answer came */
	uint8		reply_type;
	char	   *reply;
	uint32		reply_len;
	int			patience;
	TimestampTz give_up;		/* when even the proxy's own deadline is long over */
} EtcdRequest;

extern EtcdRequest *etcd_send(Oid userid, Oid serverid, uint8 method, const char *payload, int len,
							  int64 command, MemoryContext context);
extern EtcdRequest *etcd_send_frame(Oid userid, Oid serverid, const EtcdAnswer *answer, int64 command,
									MemoryContext context);
extern EtcdRequest *etcd_send_proxy(const EtcdAnswer *answer, MemoryContext context);
extern EtcdRequest *etcd_stage(Oid userid, Oid serverid, uint8 code, const char *payload, int len,
							   MemoryContext context);
extern void etcd_stage_end(Oid userid, Oid serverid, uint8 code, uint32 level);
extern void etcd_stage_forget(Oid userid, Oid serverid);
extern void etcd_drain(void);
extern void etcd_wait(EtcdRequest *request);
extern void etcd_raise(const ErrorData *fields);
extern bool etcd_reply_is_error(EtcdRequest *request, ErrorData *fields);
extern void etcd_connection_init(void);

/* ---- stage.c ---- */

/* What a STAGE frame was answered. */
typedef struct EtcdStageReply
{
	int64		revision;
	uint32		count;
	List	   *refused;		/* integer: indexes of entries */
} EtcdStageReply;

extern void etcd_stage_note(Oid userid, Oid serverid, bool writes);
extern void etcd_stage_header(StringInfo buf, uint8 flags, CommandId command);
extern void etcd_stage_reply(EtcdRequest *request, EtcdStageReply *reply);
extern void etcd_stage_init(void);

/* ---- page.c ---- */

typedef struct EtcdKeyValue
{
	const char *key;
	const char *value;
	uint32		key_len;
	uint32		value_len;
	int64		numbers[4];		/* create_revision, mod_revision, version, lease */
} EtcdKeyValue;

/* A RangeResponse, walked in place. */
typedef struct EtcdPage
{
	const char *start;
	const char *end;
	const char *next;			/* where the next key-value pair is looked for */
	const char *next_end;		/* where its RangeResponse ends */
	const char *rest;			/* in a TxnResponse: what follows that */
	bool		is_txn;
	uint32		kvs;
	bool		more;
	int64		count;
	int64		revision;
	const char *last_key;
	uint32		last_key_len;
} EtcdPage;

extern void etcd_page_open(EtcdPage *page, const char *data, uint32 len, bool is_txn);
extern bool etcd_page_next(EtcdPage *page, EtcdKeyValue *kv);
extern void etcd_page_rewind(EtcdPage *page);

/* ---- qual.c ---- */

extern void etcd_describe_quals(StringInfo buf, PlannerInfo *root, RelOptInfo *rel, Oid relid, List *clauses, Relids outer, List **params);
extern bool etcd_sorts_as_etcd(Oid collation);
extern void etcd_append_param(StringInfo buf, Datum value, Oid type);

/* ---- revision.c ---- */

struct EState;
extern int64 etcd_session_revision(void);
extern int64 etcd_statement_revision(struct EState *estate, Oid serverid);
extern void etcd_set_statement_revision(struct EState *estate, Oid serverid, int64 revision);
extern void etcd_revision_init(void);

/* ---- worker.c ---- */

extern void etcd_worker_init(void);
extern void etcd_ensure_worker(void);
extern void etcd_make_run_dir(void);

/* ---- the callbacks ---- */

struct FdwRoutine;
extern void etcd_plan_callbacks(struct FdwRoutine *routine);
extern void etcd_scan_callbacks(struct FdwRoutine *routine);
extern void etcd_analyze_callbacks(struct FdwRoutine *routine);
extern void etcd_import_callbacks(struct FdwRoutine *routine);
extern void etcd_modify_callbacks(struct FdwRoutine *routine);
extern void etcd_direct_callbacks(struct FdwRoutine *routine);

#endif							/* ETCD_FDW_H */
