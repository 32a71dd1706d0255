/*
 * late_failure.c
 *	  A module whose callbacks fail at the end of each subtransaction while
 *	  late_failure.armed is on, and of the transaction while
 *	  late_failure.commit is, as postgres_fdw's do when its server has gone.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static bool armed = false;
static bool commit = false;

static void
fail(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	(void) id;
	(void) parent;
	(void) arg;
	if (event == SUBXACT_EVENT_PRE_COMMIT_SUB && armed)
		ereport(ERROR, (errmsg("late failure")));
}

static void
fail_commit(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_PRE_COMMIT && commit)
		ereport(ERROR, (errmsg("late failure")));
}

void
_PG_init(void)
{
	DefineCustomBoolVariable("late_failure.commit", "Fail.", NULL, &commit, false, PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(fail_commit, NULL);
	DefineCustomBoolVariable("late_failure.armed", "Fail.", NULL, &armed, false, PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterSubXactCallback(fail, NULL);
}
