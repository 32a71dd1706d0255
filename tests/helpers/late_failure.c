/*
 * late_failure.c
 *	  A module whose callback fails at the end of each subtransaction while
 *	  late_failure.armed is on, as postgres_fdw's does when its server has gone.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static bool armed = false;

static void
fail(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	(void) id;
	(void) parent;
	(void) arg;
	if (event == SUBXACT_EVENT_PRE_COMMIT_SUB && armed)
		ereport(ERROR, (errmsg("late failure")));
}

void
_PG_init(void)
{
	DefineCustomBoolVariable("late_failure.armed", "Fail.", NULL, &armed, false, PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterSubXactCallback(fail, NULL);
}
