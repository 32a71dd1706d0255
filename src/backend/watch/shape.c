/*
 * shape.c
 *	  What a mirror was made of: the keys and columns of its foreign table, and
 *	  the target's columns of the same names.
 *
 * A number that stands for all of that is kept in the mirror's row.  When
 * PostgreSQL tells of a change of either table, or of a server, the worker looks
 * whether it is the same; if not, the mirror is made anew of what there is now,
 * beginning with a snapshot.
 */
#include "postgres.h"

#include "core/dispatch.h"
#include "plan/describe.h"
#include "watch/apply.h"
#include "watch/shape.h"
#include "watch/subscribe.h"
#include "watch/target.h"

#include "access/table.h"
#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* The tables of the mirror whose worker this is. */
static Oid	watched_source = InvalidOid;
static Oid	watched_target = InvalidOid;
static bool is_stale = true;

/*
 * A column that shows a time left would be wrong all the time.
 */
static void
check_ttl(const EtcdFollower *mirror, List *attnums)
{
	ListCell   *lc;

	foreach(lc, attnums)
	{
		char	   *name = get_attname(mirror->source, lfirst_int(lc), false);

		if (get_attnum(mirror->target, name) != InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" cannot be mirrored", name),
					 errdetail("It changes by itself, and etcd tells nothing."),
					 errhint("Mirror column \"lease\", or give the target's column another name.")));
	}
}

/*
 * The shape is that of the table's options and columns, not of its name or of
 * how its server is reached, which come before the options in what core is told.
 */
List *
etcd_read_shape(EtcdFollower *mirror)
{
	Relation	relation = table_open(mirror->source, AccessShareLock);
	StringInfoData input;
	StringInfoData shape;
	EtcdAnswer	answer;
	Oid			serverid;
	List	   *keys;

	if (relation->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a foreign table", RelationGetRelationName(relation))));
	serverid = GetForeignTable(mirror->source)->serverid;
	mirror->server = etcd_server_arg(GetForeignServer(serverid)->servername, "etcd_mirror");
	initStringInfo(&input);
	etcd_describe_table(&input, relation, NULL);
	initStringInfo(&shape);
	appendStringInfoString(&shape, strstr(input.data, ",\"options\":"));
	appendStringInfoString(&input, ",\"quals\":[]}");
	etcd_dispatch(etcd_dispatch_function(serverid), "followTable", &input, &answer);
	table_close(relation, AccessShareLock);
	keys = etcd_read_followed(mirror, &answer);
	check_ttl(mirror, etcd_json_ints(answer.control, "ttl"));
	appendBinaryStringInfo(&shape, VARDATA_ANY(mirror->key), VARSIZE_ANY_EXHDR(mirror->key));
	appendStringInfoChar(&shape, '\0');
	if (mirror->range_end != NULL)
		appendBinaryStringInfo(&shape, VARDATA_ANY(mirror->range_end), VARSIZE_ANY_EXHDR(mirror->range_end));
	etcd_describe_mapping(&shape, mirror);
	mirror->shape = (int64) hash_bytes_extended((const unsigned char *) shape.data, shape.len, 0);
	return keys;
}

/* ---- in the worker ---- */

static void
relation_changed(Datum arg, Oid relid)
{
	(void) arg;
	if (!OidIsValid(relid) || relid == watched_source || relid == watched_target)
		is_stale = true;
}

static void
server_changed(Datum arg, int cache, uint32 hash)
{
	(void) arg;
	(void) cache;
	(void) hash;
	is_stale = true;
}

void
etcd_shape_watch(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNTABLEREL, server_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, server_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, server_changed, (Datum) 0);
}

/*
 * From here on neither table changes before the transaction ends, unless
 * etcd_shape_is_stale() says that one has.
 */
void
etcd_shape_expect(const EtcdFollower *mirror)
{
	LockRelationOid(mirror->source, AccessShareLock);
	LockRelationOid(mirror->target, AccessShareLock);
}

bool
etcd_shape_is_stale(void)
{
	return is_stale;
}

/*
 * It could not be found out.
 */
void
etcd_shape_doubt(void)
{
	is_stale = true;
}

static void
name_filter(void *arg)
{
	const EtcdFollower *mirror = arg;

	if (mirror->filter != NULL && geterrcode() == ERRCODE_UNDEFINED_COLUMN)
		errhint("The filter of mirror \"%s\" names columns as they were when it was made: make it anew.", mirror->name);
}

/*
 * Makes the mirror anew if it is not made of what there is now.
 */
void
etcd_mirror_check_shape(void *arg)
{
	EtcdMirrorWork *work = arg;
	EtcdFollower now = *work->row;
	ErrorContextCallback context = {error_context_stack, name_filter, &now};
	List	   *keys;
	bool		same;

	work->stage = ETCD_STAGE_REACHING;
	watched_source = now.source;
	watched_target = now.target;
	etcd_shape_expect(&now);
	is_stale = false;
	/* If one is no more, whoever needs it says so. */
	if (get_rel_name(now.source) == NULL || get_rel_name(now.target) == NULL)
		return;
	work->stage = ETCD_STAGE_PUTTING;
	etcd_check_kind(&now);
	keys = etcd_read_shape(&now);
	same = now.shape == work->row->shape;
	if (same && strcmp(now.server, work->row->server) == 0)
		return;
	if (!same)
	{
		now.key_columns = etcd_check_target(&now, keys);
		error_context_stack = &context;
		etcd_check_statements(&now);
		error_context_stack = context.previous;
	}
	work->stage = ETCD_STAGE_BUSY;
	if (!etcd_follower_remake(&now, !same))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("mirror \"%s\" is being changed", now.name)));
	work->stage = ETCD_STAGE_DONE;
	work->row_changed = true;
	if (!same)
		ereport(LOG, (errmsg("mirror \"%s\" of etcd begins anew: its tables are not what they were", now.name)));
}
