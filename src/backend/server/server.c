/*
 * server.c
 *	  Which foreign server a function is about, and whether the caller may use it.
 */
#include "postgres.h"

#include "base/compat.h"
#include "server/server.h"
#include "server/setter.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

static char *default_server = NULL;
static Oid *default_server_setter = NULL;	/* NULL: nobody */

static bool
check_default_server(char **newval, void **extra, GucSource source)
{
	Oid		   *setter = compat_guc_alloc(sizeof(Oid));

	if (setter == NULL)
		return false;
	*setter = etcd_setter(source);
	*extra = setter;
	return true;
}

static void
assign_default_server(const char *newval, void *extra)
{
	(void) newval;
	default_server_setter = extra;
}

void
etcd_server_init(void)
{
	DefineCustomStringVariable("etcd_fdw.default_server",
							   "The foreign server that etcd's functions use when none is named.",
							   "Empty: the only server of etcd_fdw that there is.",
							   &default_server, "", PGC_USERSET, 0,
							   check_default_server, assign_default_server, NULL);
	etcd_setter_recall("etcd_fdw.default_server", default_server_setter);
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
 * The servers that the present user may use, as a list of OIDs: those of roles
 * that he can rely on.  Others count when there are none of these, but not for
 * what is done on behalf of another role: anybody who may create a server
 * could else take the place of the one that is meant.  Without USAGE on any,
 * those come back on which there is none, for the error to name one.
 */
static List *
usable_servers(void)
{
	Relation	catalog = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *trusted = NIL;
	List	   *others = NIL;
	List	   *forbidden = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server server = (Form_pg_foreign_server) GETSTRUCT(tuple);

		if (!is_etcd_server(server->srvfdw))
			continue;
		if (compat_server_aclcheck(server->oid, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
			forbidden = lappend_oid(forbidden, server->oid);
		else if (etcd_is_trusted(server->srvowner))
			trusted = lappend_oid(trusted, server->oid);
		else
			others = lappend_oid(others, server->oid);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	if (trusted != NIL || etcd_acts_for_another())
		return trusted;
	return others != NIL ? others : forbidden;
}

/*
 * The server for a call that names none.  For a SECURITY DEFINER function, the
 * setting counts only as its owner or an administrator has set it.
 */
Oid
etcd_default_server(const char *function)
{
	List	   *servers;

	if (default_server != NULL && *default_server &&
		etcd_setter_counts(default_server_setter ? *default_server_setter : InvalidOid))
		return etcd_server_by_name(default_server);
	servers = usable_servers();
	if (servers == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no server of etcd_fdw for %s()", function),
				 etcd_acts_for_another()
				 ? errhint("Name the server (server => 'its_name'): SECURITY DEFINER functions use servers of superusers and of their owner only.")
				 : errhint("CREATE SERVER ... FOREIGN DATA WRAPPER etcd_fdw first, or have USAGE on one granted.")));
	if (list_length(servers) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("%s() could mean any of %d servers of etcd_fdw", function, list_length(servers)),
				 errhint("Name the server (server => 'its_name'), or set etcd_fdw.default_server.")));
	return linitial_oid(servers);
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
