/*
 * compat.h
 *	  Differences between PostgreSQL 14 and 18, all of them in this file.
 *
 * Written against the server headers of each version; the compile suite of
 * scripts/test builds against those that Debian's releases carry.
 */
#ifndef ETCD_FDW_COMPAT_H
#define ETCD_FDW_COMPAT_H

#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_language.h"
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "optimizer/appendinfo.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#if PG_VERSION_NUM >= 170000
#include "storage/proc.h"
#endif
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 140000
#error etcd_fdw needs PostgreSQL 14 or later
#endif

/* The reserved GUC prefix got its present name in 15. */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* Rights have a list of their own since 16. */
static inline bool
compat_check_permissions(Query *query)
{
#if PG_VERSION_NUM >= 160000
	return ExecCheckPermissions(query->rtable, query->rteperminfos, false);
#else
	return ExecCheckRTPerms(query->rtable, false);
#endif
}

/* 17 added fdw_restrictinfo, 18 disabled_nodes. */
static inline ForeignPath *
compat_foreignscan_path(PlannerInfo *root, RelOptInfo *rel, double rows,
						Cost startup_cost, Cost total_cost, List *pathkeys,
						Relids required_outer, List *fdw_private)
{
#if PG_VERSION_NUM >= 180000
	return create_foreignscan_path(root, rel, NULL, rows, 0, startup_cost,
								   total_cost, pathkeys, required_outer, NULL,
								   NIL, fdw_private);
#elif PG_VERSION_NUM >= 170000
	return create_foreignscan_path(root, rel, NULL, rows, startup_cost,
								   total_cost, pathkeys, required_outer, NULL,
								   NIL, fdw_private);
#else
	return create_foreignscan_path(root, rel, NULL, rows, startup_cost,
								   total_cost, pathkeys, required_outer, NULL,
								   fdw_private);
#endif
}

static inline ForeignPath *
compat_foreign_upper_path(PlannerInfo *root, RelOptInfo *rel, PathTarget *target, double rows,
						  Cost startup_cost, Cost total_cost, List *pathkeys, List *fdw_private)
{
#if PG_VERSION_NUM >= 180000
	return create_foreign_upper_path(root, rel, target, rows, 0, startup_cost, total_cost,
									 pathkeys, NULL, NIL, fdw_private);
#elif PG_VERSION_NUM >= 170000
	return create_foreign_upper_path(root, rel, target, rows, startup_cost, total_cost,
									 pathkeys, NULL, NIL, fdw_private);
#else
	return create_foreign_upper_path(root, rel, target, rows, startup_cost, total_cost,
									 pathkeys, NULL, fdw_private);
#endif
}

/* The sampler's random state became a struct in 15. */
#if PG_VERSION_NUM >= 150000
#define compat_sampler_fract(reservoir) sampler_random_fract(&(reservoir)->randstate)
#else
#define compat_sampler_fract(reservoir) sampler_random_fract((reservoir)->randstate)
#endif

/* 17 ends the session of a transaction that takes too long. */
static inline void
compat_end_transaction_timeout(void)
{
#if PG_VERSION_NUM >= 170000
	if (TransactionTimeout > 0)
		disable_timeout(TRANSACTION_TIMEOUT, false);
#endif
}

/* 18 has generated columns that are not stored. */
static inline bool
compat_is_virtual(Form_pg_attribute att)
{
#if PG_VERSION_NUM >= 180000
	return att->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL;
#else
	(void) att;
	return false;
#endif
}

/* What a GUC's check hook keeps; 16 brought its own memory for it. */
static inline void *
compat_guc_alloc(size_t size)
{
#if PG_VERSION_NUM >= 160000
	return guc_malloc(LOG, size);
#else
	return malloc(size);
#endif
}

/* 18 has min and max of bytea. */
#if PG_VERSION_NUM >= 180000
#define COMPAT_F_MIN_BYTEA	F_MIN_BYTEA
#define COMPAT_F_MAX_BYTEA	F_MAX_BYTEA
#else
#define COMPAT_F_MIN_BYTEA	InvalidOid
#define COMPAT_F_MAX_BYTEA	InvalidOid
#endif

/* Expressions over a partitioned table become expressions over a partition; 16 takes the relations themselves. */
static inline Node *
compat_adjust_attrs(PlannerInfo *root, Node *node, RelOptInfo *child)
{
#if PG_VERSION_NUM >= 160000
	return adjust_appendrel_attrs_multilevel(root, node, child, child->top_parent);
#else
	return adjust_appendrel_attrs_multilevel(root, node, child->relids, child->top_parent_relids);
#endif
}

/* 17 ties a wait event set to a resource owner instead of a memory context. */
static inline WaitEventSet *
compat_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* 17 lets an extension name its wait events. */
static inline uint32
compat_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/* The role whose user mapping a scan uses; 16 moved it into the plan node. */
static inline Oid
compat_scan_user(ForeignScan *plan, EState *estate)
{
	Oid			userid;

#if PG_VERSION_NUM >= 160000
	(void) estate;
	userid = plan->checkAsUser;
#else
	int			rtindex = plan->scan.scanrelid;

	if (rtindex == 0)
		rtindex = bms_next_member(plan->fs_relids, -1);
	userid = exec_rt_fetch(rtindex, estate)->checkAsUser;
#endif
	return OidIsValid(userid) ? userid : GetUserId();
}

/* 18 names the direction of a path key by a comparison type of its own. */
static inline bool
compat_pathkey_ascends(const PathKey *pathkey)
{
#if PG_VERSION_NUM >= 180000
	return pathkey->pk_cmptype == COMPARE_LT;
#else
	return pathkey->pk_strategy == BTLessStrategyNumber;
#endif
}

/* The user whose rights a modification uses; 16 keeps it apart from the range table. */
static inline Oid
compat_modify_user(ResultRelInfo *rinfo, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	return ExecGetResultRelCheckAsUser(rinfo, estate);
#else
	ResultRelInfo *root = rinfo->ri_RangeTableIndex == 0 && rinfo->ri_RootResultRelInfo != NULL
		? rinfo->ri_RootResultRelInfo : rinfo;
	RangeTblEntry *rte = root->ri_RangeTableIndex > 0 ? exec_rt_fetch(root->ri_RangeTableIndex, estate) : NULL;

	return rte != NULL && OidIsValid(rte->checkAsUser) ? rte->checkAsUser : GetUserId();
#endif
}

static inline PathKey *
compat_ascending_pathkey(PlannerInfo *root, EquivalenceClass *ec, Oid opfamily)
{
#if PG_VERSION_NUM >= 180000
	return make_canonical_pathkey(root, ec, opfamily, COMPARE_LT, false);
#else
	return make_canonical_pathkey(root, ec, opfamily, BTLessStrategyNumber, false);
#endif
}

/*
 * The provider and the locale name that a row of pg_collation or pg_database
 * sorts by; the name is NULL where it has none.  14 has libc and ICU only and
 * the name as a Name, 15 as text and a provider for databases, 17 the provider
 * "builtin" with a column of its own.
 */
static inline char *
compat_locale_text(int cacheid, HeapTuple tuple, AttrNumber attnum)
{
	bool		isnull;
	Datum		datum = SysCacheGetAttr(cacheid, tuple, attnum, &isnull);

	if (isnull)
		return NULL;
#if PG_VERSION_NUM >= 150000
	return TextDatumGetCString(datum);
#else
	return pstrdup(NameStr(*DatumGetName(datum)));
#endif
}

static inline char *
compat_collation_locale(HeapTuple tuple, char *provider)
{
	*provider = ((Form_pg_collation) GETSTRUCT(tuple))->collprovider;
#if PG_VERSION_NUM >= 170000
	if (*provider == COLLPROVIDER_BUILTIN)
		return compat_locale_text(COLLOID, tuple, Anum_pg_collation_colllocale);
#endif
	return compat_locale_text(COLLOID, tuple, Anum_pg_collation_collcollate);
}

static inline char *
compat_database_locale(HeapTuple tuple, char *provider)
{
#if PG_VERSION_NUM >= 150000
	*provider = ((Form_pg_database) GETSTRUCT(tuple))->datlocprovider;
#else
	*provider = COLLPROVIDER_LIBC;
#endif
#if PG_VERSION_NUM >= 170000
	if (*provider == COLLPROVIDER_BUILTIN)
		return compat_locale_text(DATABASEOID, tuple, Anum_pg_database_datlocale);
#endif
	return compat_locale_text(DATABASEOID, tuple, Anum_pg_database_datcollate);
}

/* Whether a locale of this provider sorts text byte by byte. */
static inline bool
compat_is_c_locale(char provider, const char *locale)
{
	if (locale == NULL)
		return false;
#if PG_VERSION_NUM >= 170000
	if (provider == COLLPROVIDER_BUILTIN)
		return strcmp(locale, "C") == 0 || strcmp(locale, "C.UTF-8") == 0;
#endif
	return provider == COLLPROVIDER_LIBC && (strcmp(locale, "C") == 0 || strcmp(locale, "POSIX") == 0);
}

/* ---- PostgreSQL 16: one function for all kinds of objects ---- */
static inline AclResult
compat_server_aclcheck(Oid serverid, Oid userid, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, serverid, userid, mode);
#else
	return pg_foreign_server_aclcheck(serverid, userid, mode);
#endif
}

static inline AclResult
compat_database_aclcheck(Oid database, Oid userid, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(DatabaseRelationId, database, userid, mode);
#else
	return pg_database_aclcheck(database, userid, mode);
#endif
}

static inline AclResult
compat_language_aclcheck(Oid language, Oid userid, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(LanguageRelationId, language, userid, mode);
#else
	return pg_language_aclcheck(language, userid, mode);
#endif
}

/* The setting of this name, a placeholder of a module not yet loaded too; NULL for none. */
static inline struct config_generic *
compat_find_setting(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return find_option(name, false, true, 0);
#else
	struct config_generic **settings = get_guc_variables();

	for (int i = 0; i < GetNumConfigOptions(); i++)
	{
		if (pg_strcasecmp(settings[i]->name, name) == 0)
			return settings[i];
	}
	return NULL;
#endif
}

/* Who has set a setting in the session; InvalidOid where that is not known: 15 notes it. */
static inline Oid
compat_setting_role(struct config_generic *setting)
{
#if PG_VERSION_NUM >= 150000
	return setting != NULL && setting->source >= PGC_S_INTERACTIVE ? setting->srole : InvalidOid;
#else
	(void) setting;
	return InvalidOid;
#endif
}

/* What a MERGE evaluates for its actions; 15 has the first MERGE, 17 conditions on the join. */
static inline List *
compat_merge_expressions(ModifyTable *plan)
{
#if PG_VERSION_NUM >= 170000
	return list_make2(plan->mergeActionLists, plan->mergeJoinConditions);
#elif PG_VERSION_NUM >= 150000
	return plan->mergeActionLists;
#else
	(void) plan;
	return NIL;
#endif
}

/* 17 lets a worker be of a role that may not log in. */
#if PG_VERSION_NUM >= 170000
#define COMPAT_BYPASS_LOGIN	BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define COMPAT_BYPASS_LOGIN	0
#endif

#endif							/* ETCD_FDW_COMPAT_H */
