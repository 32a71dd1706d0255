/*
 * etcd_fdw.c
 *	  The module: load-time set-up and the table of callbacks.
 */
#include "postgres.h"

#include "base/compat.h"
#include "constants.h"
#include "function/import.h"
#include "ipc/channel.h"
#include "ipc/worker.h"
#include "modify/direct.h"
#include "modify/lock.h"
#include "modify/modify.h"
#include "modify/prepare.h"
#include "plan/analyze.h"
#include "plan/plan.h"
#include "scan/node.h"
#include "server/server.h"
#include "server/setter.h"
#include "txn/revision.h"
#include "txn/transaction.h"
#include "watch/launch.h"

#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(etcd_fdw_handler);
PG_FUNCTION_INFO_V1(etcd_fdw_library_version);

void		_PG_init(void);

void
_PG_init(void)
{
	etcd_worker_init();
	etcd_channels_init();
	etcd_revision_init();
	etcd_transactions_init();
	etcd_server_init();
	etcd_follow_init();
	MarkGUCPrefixReserved("etcd_fdw");
	etcd_setters_loaded();
}

Datum
etcd_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	etcd_plan_callbacks(routine);
	etcd_scan_callbacks(routine);
	etcd_analyze_callbacks(routine);
	etcd_import_callbacks(routine);
	etcd_prepare_callbacks(routine);
	etcd_modify_callbacks(routine);
	etcd_lock_callbacks(routine);
	etcd_direct_callbacks(routine);
	PG_RETURN_POINTER(routine);
}

Datum
etcd_fdw_library_version(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	PG_RETURN_TEXT_P(cstring_to_text(ETCD_FDW_VERSION));
}
