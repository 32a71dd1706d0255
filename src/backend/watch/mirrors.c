/*
 * mirrors.c
 *	  The SQL function that makes a mirror.
 */
#include "postgres.h"

#include "base/compat.h"
#include "watch/follower.h"
#include "watch/shape.h"
#include "watch/subscribe.h"
#include "watch/target.h"

#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "catalog/partition.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"

PG_FUNCTION_INFO_V1(etcd_fdw_mirror);

/* Timers are reckoned with this, and what is infinite is far beyond. */
#define LONGEST_VERIFY_YEARS 10

/* Arguments of etcd_mirror(). */
enum
{
	MIRROR_NAME,
	MIRROR_TARGET,
	MIRROR_SOURCE,
	MIRROR_PREFIX,
	MIRROR_SERVER,
	MIRROR_FILTER,
	MIRROR_VERIFY
};

/*
 * A foreign table over the prefix, with the target's columns of etcd's names,
 * beside the target.
 */
static Oid
make_source(const EtcdFollower *mirror, const char *prefix, const char *server)
{
	static const char *const fields[] = {"key", "value", "create_revision", "mod_revision", "version", "lease"};
	Oid			namespace = get_rel_namespace(mirror->target);
	char	   *name = psprintf("%.*s_source", pg_mbcliplen(mirror->name, strlen(mirror->name), NAMEDATALEN - 8), mirror->name);
	StringInfoData sql;
	const char *separator = "";

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE FOREIGN TABLE %s (", quote_qualified_identifier(get_namespace_name(namespace), name));
	for (int i = 0; i < (int) lengthof(fields); i++)
	{
		AttrNumber	attnum = get_attnum(mirror->target, fields[i]);
		Oid			type;
		int32		typmod;
		Oid			collation;

		if (attnum == InvalidAttrNumber)
			continue;
		get_atttypetypmodcoll(mirror->target, attnum, &type, &typmod, &collation);
		appendStringInfo(&sql, "%s%s %s", separator, fields[i],
						 format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		separator = ", ";
	}
	appendStringInfo(&sql, ") SERVER %s OPTIONS (prefix %s)", quote_identifier(server), quote_literal_cstr(prefix));
	SPI_connect();
	if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "the foreign table of mirror \"%s\" could not be made", mirror->name);
	SPI_finish();
	return get_relname_relid(name, namespace);
}

/*
 * Whether a worker can be a session of the owner's.
 */
bool
etcd_owner_may_work(Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(owner));
	bool		may;

	if (!HeapTupleIsValid(tuple))
		return false;
	may = (COMPAT_BYPASS_LOGIN != 0 || ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin) &&
		compat_database_aclcheck(MyDatabaseId, owner, ACL_CONNECT) == ACLCHECK_OK;
	ReleaseSysCache(tuple);
	return may;
}

static void
check_owner(Oid owner)
{
	if (!etcd_owner_may_work(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("role \"%s\" may not log in to this database, as the worker of its mirror would",
						GetUserNameFromId(owner, false)),
				 errhint("Make the mirror as a role with LOGIN and CONNECT; from PostgreSQL 17 on, CONNECT will do.")));
}

static int64
milliseconds(const Interval *interval)
{
	return interval->time / 1000 + (interval->day + INT64CONST(30) * interval->month) * (USECS_PER_DAY / 1000);
}

static bool
is_part_of_other(Oid one, Oid other)
{
	return list_member_oid(get_partition_ancestors(one), other) || list_member_oid(get_partition_ancestors(other), one);
}

/*
 * Two mirrors of one target would undo each other's work.
 */
static void
check_only(const EtcdFollower *mirror)
{
	LOCKTAG		own;
	LOCKTAG		theirs;
	ListCell   *lc;

	etcd_follower_tag(&own, InvalidOid, ETCD_LOCK_MIRROR, mirror->name);
	foreach(lc, etcd_followers_load(NULL))
	{
		EtcdFollower *other = lfirst(lc);

		if (other->kind == ETCD_MIRROR && other->target != mirror->target && is_part_of_other(other->target, mirror->target))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("tables \"%s\" and \"%s\", the target of mirror \"%s\", share rows", get_rel_name(mirror->target),
							get_rel_name(other->target), other->name),
					 errdetail("One is a partition of the other: each mirror would delete what the other has put.")));
		if (other->kind == ETCD_MIRROR && other->target == mirror->target)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("table \"%s\" is the target of mirror \"%s\"", get_rel_name(mirror->target), other->name),
					 errhint("Take another table, or a partition of one for each mirror.")));
		etcd_follower_tag(&theirs, InvalidOid, ETCD_LOCK_MIRROR, other->name);
		if (other->kind == ETCD_MIRROR && memcmp(&own, &theirs, sizeof(LOCKTAG)) == 0 && strcmp(other->name, mirror->name) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("mirrors \"%s\" and \"%s\" would share one lock", mirror->name, other->name),
					 errhint("Take another name.")));
	}
}

/*
 * etcd_mirror(name, target, source, prefix, server, filter, verify) returns void
 */
Datum
etcd_fdw_mirror(PG_FUNCTION_ARGS)
{
	EtcdFollower mirror = {0};
	char	   *prefix = etcd_text_arg(fcinfo, MIRROR_PREFIX);
	char	   *server = etcd_text_arg(fcinfo, MIRROR_SERVER);
	char	   *filter = etcd_text_arg(fcinfo, MIRROR_FILTER);
	List	   *keys;

	PreventCommandIfReadOnly("etcd_mirror()");
	mirror.kind = ETCD_MIRROR;
	mirror.name = etcd_name_arg(fcinfo, "etcd_mirror");
	mirror.owner = GetUserId();
	check_owner(mirror.owner);
	if (PG_ARGISNULL(MIRROR_TARGET))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("etcd_mirror() needs a target")));
	mirror.target = PG_GETARG_OID(MIRROR_TARGET);
	if (get_rel_name(mirror.target) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the target of mirror \"%s\" does not exist", mirror.name)));
	if (PG_ARGISNULL(MIRROR_SOURCE) == (prefix == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("etcd_mirror() takes either a foreign table or a prefix")));
	if (!PG_ARGISNULL(MIRROR_VERIFY))
		mirror.verify_ms = milliseconds(PG_GETARG_INTERVAL_P(MIRROR_VERIFY));
	if (mirror.verify_ms < 0 || mirror.verify_ms > LONGEST_VERIFY_YEARS * INT64CONST(366) * (USECS_PER_DAY / 1000))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"verify\" of etcd_mirror() must be between 0 and %d years", LONGEST_VERIFY_YEARS),
				 errhint("NULL is for never.")));
	etcd_check_key_arg(prefix, "prefix", "etcd_mirror");
	mirror.source = prefix == NULL ? PG_GETARG_OID(MIRROR_SOURCE)
		: make_source(&mirror, prefix, etcd_server_arg(server, "etcd_mirror"));
	if (get_rel_name(mirror.source) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the foreign table of mirror \"%s\" does not exist", mirror.name)));
	keys = etcd_read_shape(&mirror);
	mirror.key_columns = etcd_check_target(&mirror, keys);
	if (filter != NULL)
		mirror.filter = etcd_qualify_filter(mirror.source, filter);
	check_only(&mirror);
	etcd_check_statements(&mirror);
	mirror.revision = etcd_present_revision(mirror.server);
	etcd_try_follower(&mirror);
	mirror.revision = 0;
	etcd_follower_insert(&mirror);
	PG_RETURN_VOID();
}
