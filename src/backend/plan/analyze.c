/*
 * analyze.c
 *	  What is known about a table before it is read: ANALYZE's sample, and
 *	  etcd's own count of the keys in a range.
 */
#include "postgres.h"

#include "base/compat.h"
#include "core/dispatch.h"
#include "etcd/page.h"
#include "plan/analyze.h"
#include "plan/describe.h"
#include "plan/plan.h"
#include "scan/cell.h"
#include "scan/scan.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/sampling.h"

/* What a key with its value is taken to fill, for the number of pages. */
#define ROW_BYTES		200

/* Reads that one Txn can hold. */
#define MAX_READS		128

/*
 * How many keys etcd counts in the plan's ranges, as this user; conditions on
 * params are left out.  -1 when that would be too many reads.
 */
double
etcd_remote_count(EtcdPlan *plan, Oid userid)
{
	EtcdPath	path = {.plan = plan, .order = "", .aggregates = list_make1("count")};
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	StringInfoData params;
	EtcdScan   *scan;
	Datum		count;
	bool		isnull;

	if (plan->ranges > MAX_READS)
		return -1;
	TupleDescInitEntry(desc, 1, "count", INT8OID, -1, 0);
	initStringInfo(&params);
	scan = etcd_scan_create(etcd_scan_private(&path, NIL, -1, -1), userid, desc, NULL);
	etcd_scan_start(scan, &params, -1, 0);
	etcd_scan_aggregates(scan, &count, &isnull);
	etcd_scan_end(scan);
	return (double) DatumGetInt64(count);
}

/*
 * A plan for all rows with all columns.
 */
static EtcdPlan *
plan_whole_table(Relation relation)
{
	EtcdPlan   *plan = palloc0(sizeof(EtcdPlan));
	Oid			table = RelationGetRelid(relation);
	StringInfoData input;
	EtcdAnswer	answer;

	initStringInfo(&input);
	etcd_describe_table(&input, relation, bms_make_singleton(0 - FirstLowInvalidHeapAttributeNumber));
	appendStringInfoString(&input, ",\"quals\":[]}");
	etcd_dispatch(etcd_dispatch_function(GetForeignTable(table)->serverid), "plan", &input, &answer);
	etcd_read_plan(plan, table, answer.control);
	return plan;
}

/*
 * The private list of a scan that fills every column.
 */
List *
etcd_whole_row(Oid table)
{
	Relation	relation = table_open(table, NoLock);
	EtcdPath	path = {.plan = plan_whole_table(relation), .order = ""};

	table_close(relation, NoLock);
	return etcd_scan_private(&path, NIL, -1, -1);
}

/*
 * A row for the sample, in the current memory context.
 */
static HeapTuple
sample_row(EtcdScan *scan, EtcdKeyValue *kv, TupleDesc desc, MemoryContext work)
{
	MemoryContext old = MemoryContextSwitchTo(work);
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *isnull = palloc(desc->natts * sizeof(bool));
	HeapTuple	tuple;

	memset(isnull, true, desc->natts * sizeof(bool));
	etcd_cells_fill(scan->cells, kv, values, isnull);
	MemoryContextSwitchTo(old);
	tuple = heap_form_tuple(desc, values, isnull);
	MemoryContextReset(work);
	return tuple;
}

/*
 * A random sample of the table's rows, each with the same chance, by Vitter's
 * reservoir: all keys are read, no more than `targrows` are kept.
 */
static int
acquire_sample_rows(Relation relation, int elevel, HeapTuple *rows, int targrows,
					double *totalrows, double *totaldeadrows)
{
	TupleDesc	desc = RelationGetDescr(relation);
	EtcdPath	path = {.plan = plan_whole_table(relation), .order = ""};
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw sample", ALLOCSET_DEFAULT_SIZES);
	EtcdScan   *scan = etcd_scan_create(etcd_scan_private(&path, NIL, -1, -1), relation->rd_rel->relowner,
										desc, NULL);
	ReservoirStateData reservoir;
	StringInfoData params;
	EtcdKeyValue kv;
	double		seen = 0;
	double		skip = -1;
	int			count = 0;

	(void) elevel;
	reservoir_init_selection_state(&reservoir, targrows);
	initStringInfo(&params);
	etcd_scan_start(scan, &params, -1, 0);
	while (etcd_scan_next(scan, &kv))
	{
		CHECK_FOR_INTERRUPTS();
		if (count < targrows)
			rows[count++] = sample_row(scan, &kv, desc, work);
		else
		{
			if (skip < 0)
				skip = reservoir_get_next_S(&reservoir, seen, targrows);
			if (skip <= 0)
			{
				int			victim = (int) (targrows * compat_sampler_fract(&reservoir));

				heap_freetuple(rows[victim]);
				rows[victim] = sample_row(scan, &kv, desc, work);
			}
			skip -= 1;
		}
		seen += 1;
	}
	etcd_scan_end(scan);
	MemoryContextDelete(work);
	*totalrows = seen;
	*totaldeadrows = 0;
	return count;
}

static bool
etcdAnalyzeForeignTable(Relation relation, AcquireSampleRowsFunc *func, BlockNumber *totalpages)
{
	double		keys = etcd_remote_count(plan_whole_table(relation), relation->rd_rel->relowner);

	*func = acquire_sample_rows;
	*totalpages = (BlockNumber) Min(keys * ROW_BYTES / BLCKSZ + 1, MaxBlockNumber);
	return true;
}

void
etcd_analyze_callbacks(FdwRoutine *routine)
{
	routine->AnalyzeForeignTable = etcdAnalyzeForeignTable;
}
