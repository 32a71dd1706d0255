/*
 * follower.c
 *	  The tables of subscriptions and mirrors, and what all of them ask etcd.
 *
 * The tables belong to the extension: whatever role works on them here does so
 * as their owner, by statements in which every name is qualified.  A position
 * is moved on only from where it was, in the transaction that hands the events
 * on, and not while somebody changes the row.
 */
#include "postgres.h"

#include "core/dispatch.h"
#include "etcd/page.h"
#include "ipc/channel.h"
#include "server/server.h"
#include "watch/follower.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* In the order in which read_follower() takes them. */
#define COLUMNS \
	"f.name, f.kind, f.owner::pg_catalog.oid, f.server, f.key, f.range_end, f.prev, f.state, f.revision, " \
	"f.channel, f.batch, f.source::pg_catalog.oid, f.target::pg_catalog.oid, f.filter, f.key_columns, f.skips, " \
	"(EXTRACT(epoch FROM f.verify) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8, f.cluster, f.shape, " \
	"f.home OPERATOR(pg_catalog.=) %s.etcd_fdw_home()"

/*
 * The schema of etcd_fdw; InvalidOid where the database does not have it.
 */
static Oid
extension_namespace(void)
{
	Relation	catalog = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			result = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("etcd_fdw"));
	scan = systable_beginscan(catalog, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		result = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return result;
}

/*
 * The same as SQL has it.  Raises 42704 where there is none.
 */
char *
etcd_extension_schema(void)
{
	Oid			namespace = extension_namespace();

	if (!OidIsValid(namespace))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"etcd_fdw\" does not exist")));
	return pstrdup(quote_identifier(get_namespace_name(namespace)));
}

/*
 * The table of followers; InvalidOid where the database has none.
 */
Oid
etcd_follower_table(void)
{
	Oid			namespace = extension_namespace();

	return OidIsValid(namespace) ? get_relname_relid("etcd_fdw_follower", namespace) : InvalidOid;
}

typedef struct Role
{
	Oid			user;
	int			context;
} Role;

static Role
become_owner(void)
{
	Relation	relation;
	Role		before;
	Oid			owner;

	GetUserIdAndSecContext(&before.user, &before.context);
	relation = table_open(etcd_follower_table(), AccessShareLock);
	owner = relation->rd_rel->relowner;
	table_close(relation, AccessShareLock);
	SetUserIdAndSecContext(owner, before.context | SECURITY_LOCAL_USERID_CHANGE);
	return before;
}

/*
 * Runs a statement on the tables, as their owner, in which %s stands for the
 * extension's schema.  An error takes the role back with the transaction.
 * SPI is connected; how many rows it was.
 */
static uint64
run(const char *statement, int nargs, Oid *types, Datum *values, const char *nulls, int expected)
{
	const char *schema = etcd_extension_schema();
	Role		before = become_owner();
	StringInfoData sql;
	int			result;

	initStringInfo(&sql);
	for (const char *at = statement; *at; at++)
	{
		if (at[0] == '%' && at[1] == 's')
		{
			appendStringInfoString(&sql, schema);
			at++;
		}
		else
			appendStringInfoChar(&sql, *at);
	}
	result = SPI_execute_with_args(sql.data, nargs, types, values, nulls, false, 0);
	SetUserIdAndSecContext(before.user, before.context);
	if (result != expected)
		elog(ERROR, "statement on the followers failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * The same for other files.
 */
uint64
etcd_follower_run(const char *statement, int nargs, Oid *types, Datum *values, const char *nulls, int expected)
{
	return run(statement, nargs, types, values, nulls, expected);
}

static char *
text_at(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static bytea *
bytes_at(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? NULL : DatumGetByteaPCopy(value);
}

static Datum
datum_at(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? (Datum) 0 : value;
}

static List *
names_at(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);
	List	   *result = NIL;
	Datum	   *names;
	int			count;

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &count);
	for (int i = 0; i < count; i++)
		result = lappend(result, TextDatumGetCString(names[i]));
	return result;
}

static int
numbers_at(HeapTuple tuple, TupleDesc desc, int column, int64 **numbers)
{
	Datum	   *elements;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(datum_at(tuple, desc, column)), INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &elements, NULL, &count);
	*numbers = palloc(sizeof(int64) * Max(1, count));
	for (int i = 0; i < count; i++)
		(*numbers)[i] = DatumGetInt64(elements[i]);
	return count;
}

static EtcdFollower *
read_follower(HeapTuple tuple, TupleDesc desc)
{
	EtcdFollower *follower = palloc0(sizeof(EtcdFollower));

	follower->name = text_at(tuple, desc, 1);
	follower->kind = strcmp(text_at(tuple, desc, 2), "mirror") == 0 ? ETCD_MIRROR : ETCD_SUBSCRIPTION;
	follower->owner = DatumGetObjectId(datum_at(tuple, desc, 3));
	follower->server = text_at(tuple, desc, 4);
	follower->key = bytes_at(tuple, desc, 5);
	follower->range_end = bytes_at(tuple, desc, 6);
	follower->prev = DatumGetBool(datum_at(tuple, desc, 7));
	follower->restored = !DatumGetBool(datum_at(tuple, desc, 20));
	follower->running = strcmp(text_at(tuple, desc, 8), "running") == 0 && !follower->restored;
	follower->revision = DatumGetInt64(datum_at(tuple, desc, 9));
	follower->channel = text_at(tuple, desc, 10);
	follower->batch = DatumGetBool(datum_at(tuple, desc, 11));
	follower->source = DatumGetObjectId(datum_at(tuple, desc, 12));
	follower->target = DatumGetObjectId(datum_at(tuple, desc, 13));
	follower->filter = text_at(tuple, desc, 14);
	follower->key_columns = names_at(tuple, desc, 15);
	follower->nskips = numbers_at(tuple, desc, 16, &follower->skips);
	follower->verify_ms = DatumGetInt64(datum_at(tuple, desc, 17));
	follower->cluster = (uint64) DatumGetInt64(datum_at(tuple, desc, 18));
	follower->shape = DatumGetInt64(datum_at(tuple, desc, 19));
	return follower;
}

/*
 * The follower of this name, or all, in the current memory context.
 */
List *
etcd_followers_load(const char *name)
{
	MemoryContext target = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {name ? CStringGetTextDatum(name) : (Datum) 0};
	List	   *result = NIL;

	SPI_connect();
	run("SELECT " COLUMNS " FROM %s.etcd_fdw_follower f WHERE $1 IS NULL OR f.name OPERATOR(pg_catalog.=) $1", 1, types,
		values, name ? " " : "n", SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(target);

		result = lappend(result, read_follower(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return result;
}

static Datum
names_array(List *names)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(1, list_length(names)));
	ListCell   *lc;

	foreach(lc, names)
		elements[foreach_current_index(lc)] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elements, list_length(names), TEXTOID, -1, false, TYPALIGN_INT));
}

#define TEXT_OR_NULL(value) ((value) ? CStringGetTextDatum(value) : (Datum) 0)

/*
 * Nothing is known of a follower that is no more.
 */
static void
forget_status(const char *name)
{
	static const char *const tables[] = {"etcd_fdw_follower_status", "etcd_fdw_left_out"};
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};

	for (int i = 0; i < (int) lengthof(tables); i++)
		run(psprintf("DELETE FROM %%s.%s s WHERE s.name OPERATOR(pg_catalog.=) $1"
					 " AND NOT EXISTS (SELECT FROM %%s.etcd_fdw_follower f WHERE f.name OPERATOR(pg_catalog.=) $1)",
					 tables[i]), 1, types, values, NULL, SPI_OK_DELETE);
}

/*
 * Adds a follower.  Raises 42710 when there is one of that name.
 */
void
etcd_follower_insert(const EtcdFollower *follower)
{
	Interval	verify = {.time = follower->verify_ms * INT64CONST(1000)};
	struct
	{
		Oid			type;
		Datum		value;
		bool		isnull;
	}			args[] = {
		{TEXTOID, CStringGetTextDatum(follower->name), false},
		{TEXTOID, CStringGetTextDatum(follower->kind == ETCD_MIRROR ? "mirror" : "subscription"), false},
		{OIDOID, ObjectIdGetDatum(follower->owner), false},
		{TEXTOID, CStringGetTextDatum(follower->server), false},
		{BYTEAOID, PointerGetDatum(follower->key), false},
		{BYTEAOID, PointerGetDatum(follower->range_end), follower->range_end == NULL},
		{BOOLOID, BoolGetDatum(follower->prev), false},
		{INT8OID, Int64GetDatum(follower->revision), false},
		{TEXTOID, TEXT_OR_NULL(follower->channel), follower->channel == NULL},
		{BOOLOID, BoolGetDatum(follower->batch), false},
		{OIDOID, ObjectIdGetDatum(follower->source), !OidIsValid(follower->source)},
		{OIDOID, ObjectIdGetDatum(follower->target), !OidIsValid(follower->target)},
		{TEXTOID, TEXT_OR_NULL(follower->filter), follower->filter == NULL},
		{TEXTARRAYOID, names_array(follower->key_columns), follower->key_columns == NIL},
		{INTERVALOID, IntervalPGetDatum(&verify), follower->verify_ms == 0},
		{INT8OID, Int64GetDatum(follower->shape), false},
	};
	Oid			types[lengthof(args)];
	Datum		values[lengthof(args)];
	char		nulls[lengthof(args)];
	uint64		added;

	for (int i = 0; i < (int) lengthof(args); i++)
	{
		types[i] = args[i].type;
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}
	SPI_connect();
	/* What a worker noted too late of one that had this name. */
	forget_status(follower->name);
	added = run("INSERT INTO %s.etcd_fdw_follower (name, kind, owner, server, key, range_end, prev, revision, channel, batch,"
				" source, target, filter, key_columns, verify, shape)"
				" VALUES ($1, $2, $3::pg_catalog.regrole, $4, $5, $6, $7, $8, $9, $10,"
				" $11::pg_catalog.regclass, $12::pg_catalog.regclass, $13, $14, $15, $16)"
				" ON CONFLICT (name) DO NOTHING",
				lengthof(args), types, values, nulls, SPI_OK_INSERT);
	if (added == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription or mirror \"%s\" already exists", follower->name),
				 errhint("Names are common to both in a database; etcd_unsubscribe() and etcd_unmirror() free one.")));
	SPI_finish();
}

/*
 * Notes what a mirror is made of now; `anew`, it begins with a snapshot.  False
 * when it does not run, or is being changed by somebody.
 */
bool
etcd_follower_remake(const EtcdFollower *mirror, bool anew)
{
	Oid			types[] = {TEXTOID, TEXTOID, BYTEAOID, BYTEAOID, TEXTARRAYOID, INT8OID, BOOLOID};
	Datum		values[] = {
		CStringGetTextDatum(mirror->name), CStringGetTextDatum(mirror->server), PointerGetDatum(mirror->key),
		PointerGetDatum(mirror->range_end), names_array(mirror->key_columns), Int64GetDatum(mirror->shape),
		BoolGetDatum(anew)
	};
	char		nulls[] = {' ', ' ', ' ', mirror->range_end == NULL ? 'n' : ' ', ' ', ' ', ' '};
	bool		done;

	SPI_connect();
	done = run("UPDATE %s.etcd_fdw_follower f SET server = $2, key = $3, range_end = $4, key_columns = $5, shape = $6,"
			   " revision = CASE WHEN $7 THEN 0::pg_catalog.int8 ELSE f.revision END WHERE f.ctid OPERATOR(pg_catalog.=) ("
			   "SELECT g.ctid FROM %s.etcd_fdw_follower g WHERE g.name OPERATOR(pg_catalog.=) $1"
			   " AND g.state OPERATOR(pg_catalog.=) 'running'::pg_catalog.text FOR NO KEY UPDATE SKIP LOCKED)",
			   lengthof(types), types, values, nulls, SPI_OK_UPDATE) == 1;
	SPI_finish();
	return done;
}

/*
 * What a user may do with a follower that is his: pause, resume, end.  By now
 * the name may be another's, whose follower is not touched.
 */
void
etcd_follower_change(const char *statement, const EtcdFollower *follower, int64 number)
{
	Oid			types[] = {TEXTOID, OIDOID, INT8OID};
	Datum		values[] = {
		CStringGetTextDatum(follower->name), ObjectIdGetDatum(follower->owner), Int64GetDatum(number)
	};
	bool		deletes = strncmp(statement, "DELETE", strlen("DELETE")) == 0;

	SPI_connect();
	run(psprintf("%s AND f.owner OPERATOR(pg_catalog.=) $2 AND $3 IS NOT NULL", statement), 3, types, values, NULL,
		deletes ? SPI_OK_DELETE : SPI_OK_UPDATE);
	if (deletes)
		forget_status(follower->name);
	SPI_finish();
}

/*
 * Moves the follower's position on, in the present transaction; false when it
 * is not where it was, does not run, or is being changed by somebody.
 */
bool
etcd_follower_advance(const EtcdFollower *follower, const EtcdFollowed *followed)
{
	Oid			types[] = {TEXTOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID};
	Datum		values[] = {
		CStringGetTextDatum(follower->name), Int64GetDatum(follower->revision), Int64GetDatum(followed->revision),
		Int64GetDatum(followed->events), Int64GetDatum(followed->behind), Int64GetDatum((int64) followed->cluster)
	};
	bool		moved;

	SPI_connect();
	moved = run("UPDATE %s.etcd_fdw_follower f SET revision = $3, cluster = $6 WHERE f.ctid OPERATOR(pg_catalog.=) ("
				"SELECT g.ctid FROM %s.etcd_fdw_follower g WHERE g.name OPERATOR(pg_catalog.=) $1"
				" AND g.revision OPERATOR(pg_catalog.=) $2 AND g.state OPERATOR(pg_catalog.=) 'running'::pg_catalog.text"
				" FOR NO KEY UPDATE SKIP LOCKED)", 6, types, values, NULL, SPI_OK_UPDATE) == 1;
	if (moved)
		run("INSERT INTO %s.etcd_fdw_follower_status AS s (name, events, behind, in_step_at)"
			" VALUES ($1, $4, $5, CASE WHEN $5 OPERATOR(pg_catalog.=) 0::pg_catalog.int8 THEN pg_catalog.clock_timestamp() END)"
			" ON CONFLICT (name) DO UPDATE SET events = s.events OPERATOR(pg_catalog.+) excluded.events,"
			" behind = excluded.behind, in_step_at = coalesce(excluded.in_step_at, s.in_step_at),"
			" error = NULL, error_at = NULL, error_revision = NULL, error_key = NULL",
			5, types, values, NULL, SPI_OK_INSERT);
	SPI_finish();
	return moved;
}

/*
 * Notes what went wrong, for the view.
 */
void
etcd_follower_note_error(const char *name, const ErrorData *error, int64 revision, const char *key, int key_len)
{
	Oid			types[] = {TEXTOID, TEXTOID, INT8OID, BYTEAOID};
	StringInfoData message;
	Datum		values[4];
	char		nulls[] = {' ', ' ', revision == 0 ? 'n' : ' ', key == NULL ? 'n' : ' '};

	initStringInfo(&message);
	appendStringInfo(&message, "%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	if (error->detail != NULL)
		appendStringInfo(&message, "\n%s", error->detail);
	if (error->hint != NULL)
		appendStringInfo(&message, "\n%s", error->hint);
	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(message.data);
	values[2] = Int64GetDatum(revision);
	values[3] = key == NULL ? (Datum) 0 : PointerGetDatum(cstring_to_text_with_len(key, key_len));
	SPI_connect();
	run("INSERT INTO %s.etcd_fdw_follower_status AS s (name, error, error_at, error_revision, error_key)"
		" SELECT f.name, $2, pg_catalog.clock_timestamp(), $3, $4 FROM %s.etcd_fdw_follower f"
		" WHERE f.name OPERATOR(pg_catalog.=) $1"
		" ON CONFLICT (name) DO UPDATE SET error = excluded.error, error_at = excluded.error_at,"
		" error_revision = excluded.error_revision, error_key = excluded.error_key",
		4, types, values, nulls, SPI_OK_INSERT);
	SPI_finish();
}

/*
 * The mirror stands still until somebody resumes it.
 */
void
etcd_follower_fail(const char *name)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};

	SPI_connect();
	run("UPDATE %s.etcd_fdw_follower f SET state = 'failed' WHERE f.name OPERATOR(pg_catalog.=) $1"
		" AND f.state OPERATOR(pg_catalog.=) 'running'::pg_catalog.text", 1, types, values, NULL, SPI_OK_UPDATE);
	SPI_finish();
}

/*
 * A mirror was compared with etcd, and so many rows were put right.
 */
void
etcd_follower_note_repair(const char *name, int64 differences)
{
	Oid			types[] = {TEXTOID, INT8OID};
	Datum		values[] = {CStringGetTextDatum(name), Int64GetDatum(differences)};

	SPI_connect();
	run("INSERT INTO %s.etcd_fdw_follower_status AS s (name, repaired, verified_at)"
		" VALUES ($1, $2, pg_catalog.clock_timestamp())"
		" ON CONFLICT (name) DO UPDATE SET repaired = s.repaired OPERATOR(pg_catalog.+) excluded.repaired,"
		" verified_at = excluded.verified_at", 2, types, values, NULL, SPI_OK_INSERT);
	SPI_finish();
}

/*
 * What the worker of the database, or of this mirror, holds while it works.  No
 * command takes such a lock, and no user can.  Only locks of users' kind are
 * released when a process ends that holds them beyond its transactions.
 */
void
etcd_follower_tag(LOCKTAG *tag, Oid table, EtcdFollowerLock kind, const char *name)
{
	uint32		hash = kind == ETCD_LOCK_DATABASE ? 0
		: DatumGetUInt32(hash_any((const unsigned char *) name, strlen(name)));

	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, table, hash, kind);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/*
 * Asks for the news, as the present role; the answer is a page of events in
 * `context`, or an error.
 */
EtcdRequest *
etcd_follower_ask(const EtcdFollower *follower, int wait_ms, MemoryContext context)
{
	Oid			serverid = etcd_server_by_name(follower->server);
	StringInfoData input;
	EtcdAnswer	answer;

	etcd_check_usage(serverid, false);
	initStringInfo(&input);
	appendStringInfoString(&input, "{\"key\":\"");
	etcd_append_hex(&input, VARDATA_ANY(follower->key), VARSIZE_ANY_EXHDR(follower->key));
	if (follower->range_end != NULL)
	{
		appendStringInfoString(&input, "\",\"end\":\"");
		etcd_append_hex(&input, VARDATA_ANY(follower->range_end), VARSIZE_ANY_EXHDR(follower->range_end));
		appendStringInfoChar(&input, '"');
	}
	else
		appendStringInfoString(&input, "\",\"end\":null");
	appendStringInfo(&input, ",\"prev\":%s,\"after\":\"" INT64_FORMAT "\",\"wait\":%d,\"count\":%d}",
					 follower->prev ? "true" : "false", follower->revision, wait_ms, ETCD_FOLLOW_EVENTS);
	etcd_dispatch(etcd_dispatch_function(serverid), "follow", &input, &answer);
	return etcd_ask_server(GetUserId(), serverid, &answer, context);
}

/*
 * The revision that etcd is at, as the present role reads it.
 */
int64
etcd_present_revision(const char *server)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(server)};
	int64		revision;
	bool		isnull;

	SPI_connect();
	if (SPI_execute_with_args(psprintf("SELECT %s.etcd_revision($1)", etcd_extension_schema()), 1, types, values, NULL,
							  true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "etcd_revision() shows nothing");
	revision = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return revision;
}

/*
 * Whether the page is of another cluster than the position: its numbers mean
 * something else.
 */
bool
etcd_follower_strays(const EtcdFollower *follower, const EtcdPage *page)
{
	return follower->cluster != 0 && page->cluster != 0 && follower->cluster != page->cluster;
}
