/*
 * server.c
 *	  Which foreign server a function is about, and whether the caller may use it.
 */
#include "postgres.h"

#include "base/compat.h"
#include "server/server.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

static char *default_server = NULL;

void
etcd_server_init(void)
{
	DefineCustomStringVariable("etcd_fdw.default_server",
							   "The foreign server that etcd's functions use when none is named.",
							   "Empty: the only server of etcd_fdw that there is.",
							   &default_server, "", PGC_USERSET, 0,
							   NULL, NULL, NULL);
}

/*
 * Whether the server's wrapper is this module's.
 */
static bool
is_etcd_server(Oid fdwid)
{
	Oid			handler = GetForeignDataWrapper(fdwid)->fdwhandler;
	char	   *name = OidIsValid(handler) ? get_func_name(handler) : NULL;

	return name != NULL && strcmp(name, "etcd_fdw_handler") == 0;
}

/*
 * Raises 42704 when there is none of that name, 42809 when it is not etcd's.
 */
Oid
etcd_server_by_name(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, false);

	if (!is_etcd_server(server->fdwid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a server of etcd_fdw", name)));
	return server->serverid;
}

/*
 * The server for a call that names none.
 */
Oid
etcd_default_server(const char *function)
{
	Relation	catalog;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			found = InvalidOid;
	int			count = 0;

	if (default_server != NULL && *default_server)
		return etcd_server_by_name(default_server);
	catalog = table_open(ForeignServerRelationId, AccessShareLock);
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server server = (Form_pg_foreign_server) GETSTRUCT(tuple);

		if (!is_etcd_server(server->srvfdw))
			continue;
		found = server->oid;
		count++;
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no server of etcd_fdw for %s()", function),
				 errhint("CREATE SERVER ... FOREIGN DATA WRAPPER etcd_fdw first.")));
	if (count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("%s() could mean any of %d servers of etcd_fdw", function, count),
				 errhint("Name the server as the first argument, or set etcd_fdw.default_server.")));
	return found;
}

/*
 * Raises 42501 for a user who may not use the server; with `monitor`, members
 * of pg_monitor may.
 */
void
etcd_check_usage(Oid serverid, bool monitor)
{
	AclResult	result = compat_server_aclcheck(serverid, GetUserId(), ACL_USAGE);

	if (result == ACLCHECK_OK || (monitor && has_privs_of_role(GetUserId(), ROLE_PG_MONITOR)))
		return;
	aclcheck_error(result, OBJECT_FOREIGN_SERVER, GetForeignServer(serverid)->servername);
}
