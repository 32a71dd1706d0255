/*
 * cell.c
 *	  From etcd's bytes to values of the columns' types.
 *
 * Text and bytea are copied.  Every other type gets its text through its own
 * input function, so that what is valid and what an error says is as in a
 * literal; the error's context names the column, the table and the key.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "core/dispatch.h"
#include "etcd/page.h"
#include "scan/cell.h"
#include "scan/lease.h"
#include "scan/modes.h"
#include "scan/private.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define MAX_INT64_DIGITS 32

static EtcdForm
form_of(EtcdColumn *column)
{
	if (column->typmod >= 0)
		return ETCD_FORM_INPUT;
	switch (column->type)
	{
		case TEXTOID:
		case VARCHAROID:
			return ETCD_FORM_TEXT;
		case BYTEAOID:
			return ETCD_FORM_BYTES;
		case INT8OID:
			return ETCD_FORM_INT8;
		default:
			return ETCD_FORM_INPUT;
	}
}

static void
init_column(EtcdColumn *column, Form_pg_attribute att)
{
	Oid			input;

	/* An error's context must look nothing up. */
	column->name = pstrdup(NameStr(att->attname));
	column->typmod = att->atttypmod;
	column->type = getBaseTypeAndTypmod(att->atttypid, &column->typmod);
	column->domain = column->type == att->atttypid ? InvalidOid : att->atttypid;
	column->form = form_of(column);
	column->is_json = column->type == JSONOID || column->type == JSONBOID;
	if (column->source == ETCD_JSON)
		fmgr_info(column->is_json ? F_JSONB_EXTRACT_PATH : F_JSONB_EXTRACT_PATH_TEXT, &column->extract);
	getTypeInputInfo(column->type, &input, &column->ioparam);
	fmgr_info(input, &column->input);
}

/*
 * What a ForeignScan's private list says about columns and keys.  Allocated in
 * the current context, which must live as long as it is used.
 */
EtcdCells *
etcd_cells_create(Oid table, List *fdw_private, TupleDesc desc)
{
	EtcdCells  *cells = palloc0(sizeof(EtcdCells));
	List	   *columns = list_nth(fdw_private, ETCD_SCAN_COLUMNS);
	List	   *paths = list_nth(fdw_private, ETCD_SCAN_PATHS);
	List	   *numbers = list_nth(fdw_private, ETCD_SCAN_NUMBERS);
	List	   *aggregates = list_nth(fdw_private, ETCD_SCAN_AGGREGATES);

	cells->table = get_rel_name(table);
	cells->context = CurrentMemoryContext;
	cells->strip = list_nth_int(numbers, ETCD_SCAN_STRIP);
	cells->strict = list_nth_int(numbers, ETCD_SCAN_STRICT) != 0;
	cells->ncolumns = aggregates != NIL ? list_length(aggregates) : list_length(columns) / 3;
	cells->columns = palloc0(sizeof(EtcdColumn) * Max(cells->ncolumns, 1));
	for (int i = 0; i < cells->ncolumns; i++)
	{
		EtcdColumn *column = &cells->columns[i];

		column->attnum = i + 1;
		if (aggregates == NIL)
		{
			column->attnum = list_nth_int(columns, 3 * i);
			column->source = list_nth_int(columns, 3 * i + 1);
			column->segment = list_nth_int(columns, 3 * i + 2);
		}
		if (column->source == ETCD_JSON)
			column->path = OidInputFunctionCall(F_ARRAY_IN, strVal(list_nth(paths, column->segment)),
												TEXTOID, -1);
		init_column(column, TupleDescAttr(desc, column->attnum - 1));
		if (column->form == ETCD_FORM_INPUT)
			cells->modes |= etcd_modes_of(column->type);
		cells->domains = cells->domains || OidIsValid(column->domain);
	}
	etcd_pattern_read(&cells->pattern, list_nth(fdw_private, ETCD_SCAN_LITERALS),
					  list_nth_int(numbers, ETCD_SCAN_REST) != 0);
	cells->segments = palloc(sizeof(EtcdBytes) * Max(cells->pattern.nliterals, 1));
	return cells;
}

static char *
printable_key(const EtcdKeyValue *kv)
{
	return etcd_printable(kv->key, kv->key_len);
}

/* ---- the key's parts ---- */

static const char *
find_bytes(const char *at, const char *end, EtcdBytes wanted)
{
	for (; at + wanted.len <= end; at++)
	{
		if (memcmp(at, wanted.data, wanted.len) == 0)
			return at;
	}
	return NULL;
}

/*
 * Reads what core says of a pattern: hexadecimal, as String nodes.
 */
void
etcd_pattern_read(EtcdPattern *pattern, List *literals, bool rest)
{
	ListCell   *lc;

	pattern->nliterals = list_length(literals);
	pattern->rest = rest;
	pattern->literals = palloc(sizeof(EtcdBytes) * Max(pattern->nliterals, 1));
	foreach(lc, literals)
	{
		EtcdBytes  *literal = &pattern->literals[foreach_current_index(lc)];
		int			len;

		literal->data = etcd_from_hex(strVal(lfirst(lc)), &len);
		literal->len = len;
	}
}

/*
 * The parts of a key, one fewer than there are literals; false when it does
 * not match.
 */
bool
etcd_pattern_split(const EtcdPattern *pattern, const char *key, uint32 len, EtcdBytes *parts)
{
	const EtcdBytes *literals = pattern->literals;
	const char *at = key;
	const char *end = key + len;
	int			last = pattern->nliterals - 1;

	if (len < literals[0].len || memcmp(at, literals[0].data, literals[0].len) != 0)
		return false;
	at += literals[0].len;
	for (int i = 0; i < last; i++)
	{
		EtcdBytes	next = literals[i + 1];
		const char *stop;

		/* The last placeholder takes all but the pattern's end, others as little as they can. */
		if (i + 1 == last)
			stop = (uint32) (end - at) >= next.len &&
				memcmp(end - next.len, next.data, next.len) == 0 ? end - next.len : NULL;
		else
			stop = at < end ? find_bytes(at + 1, end, next) : NULL;
		if (stop == NULL || stop == at)
			return false;
		parts[i].data = at;
		parts[i].len = stop - at;
		if (!(pattern->rest && i + 1 == last) && memchr(at, '/', parts[i].len) != NULL)
			return false;
		at = stop + next.len;
	}
	return true;
}

/*
 * Whether the key is a row: it matches the table's pattern, if there is one.
 */
bool
etcd_cells_match(EtcdCells *cells, const EtcdKeyValue *kv)
{
	if (cells->pattern.nliterals == 0 ||
		etcd_pattern_split(&cells->pattern, kv->key, kv->key_len, cells->segments))
		return true;
	if (cells->strict)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("etcd key \"%s\" does not match key_pattern of foreign table \"%s\"",
						printable_key(kv), cells->table),
				 errhint("Set the table's option key_mismatch to \"skip\" to leave such keys out.")));
	return false;
}

/* ---- values ---- */

static void
invalid_text(EtcdCells *cells, EtcdColumn *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
			 errmsg("column \"%s\" of foreign table \"%s\" cannot show the etcd key \"%s\"",
					column->name, cells->table, cells->kv ? printable_key(cells->kv) : "?"),
			 errdetail("Its bytes are not valid text in encoding \"%s\".", GetDatabaseEncodingName()),
			 errhint("Declare column \"%s\" as bytea.", column->name)));
}

/*
 * Text of bytes that are UTF-8 by etcd's custom; bytes that are not, or that
 * the database's encoding lacks, are an error that names the key, never a
 * silent change.
 */
static text *
make_text(EtcdCells *cells, EtcdColumn *column, const char *data, uint32 len)
{
	text	   *value = etcd_text_from_utf8(data, len);

	if (value == NULL)
		invalid_text(cells, column);
	return value;
}

/*
 * The value of a column, from bytes as etcd holds them.
 */
Datum
etcd_cell_make(EtcdCells *cells, EtcdColumn *column, const char *data, uint32 len)
{
	bytea	   *bytes;

	switch (column->form)
	{
		case ETCD_FORM_TEXT:
			return PointerGetDatum(make_text(cells, column, data, len));
		case ETCD_FORM_BYTES:
			bytes = palloc(VARHDRSZ + len);
			SET_VARSIZE(bytes, VARHDRSZ + len);
			memcpy(VARDATA(bytes), data, len);
			return PointerGetDatum(bytes);
		default:
			return InputFunctionCall(&column->input,
									 text_to_cstring(make_text(cells, column, data, len)),
									 column->ioparam, column->typmod);
	}
}

static Datum
make_number(EtcdCells *cells, EtcdColumn *column, int64 number)
{
	char		digits[MAX_INT64_DIGITS];

	if (column->form == ETCD_FORM_INT8)
		return Int64GetDatum(number);
	snprintf(digits, sizeof(digits), INT64_FORMAT, number);
	return etcd_cell_make(cells, column, digits, strlen(digits));
}

/*
 * A field of the value, which is read as JSON at the first of these in a row.
 * NULL where the value has no such field, or a null there.
 */
static Datum
make_json_field(EtcdCells *cells, EtcdColumn *column, Datum *document, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		result;

	if (*document == (Datum) 0)
		*document = DirectFunctionCall1(jsonb_in,
										CStringGetDatum(text_to_cstring(make_text(cells, column, cells->kv->value,
																				  cells->kv->value_len))));
	InitFunctionCallInfoData(*fcinfo, &column->extract, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = *document;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = column->path;
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	if (*isnull || column->type == JSONBOID)
		return result;
	if (column->is_json)
		result = DirectFunctionCall1(jsonb_out, result);
	else if (column->form == ETCD_FORM_TEXT)
		return result;
	else
		result = CStringGetDatum(TextDatumGetCString(result));
	return InputFunctionCall(&column->input, DatumGetCString(result), column->ioparam, column->typmod);
}

/*
 * The time that is left of a lease; NULL where there is none, or none left.
 */
static Datum
make_ttl(EtcdCells *cells, EtcdColumn *column, int64 lease, bool *isnull)
{
	int64		seconds = lease == 0 ? -1 : etcd_lease_seconds(cells, lease);

	*isnull = seconds < 0;
	if (*isnull)
		return (Datum) 0;
	if (column->type == INTERVALOID)
	{
		Interval   *interval = palloc0(sizeof(Interval));

		interval->time = seconds * USECS_PER_SEC;
		return IntervalPGetDatum(interval);
	}
	return make_number(cells, column, seconds);
}

static void
cell_context(void *arg)
{
	EtcdCells  *cells = arg;

	if (cells->current != NULL && cells->kv != NULL)
		errcontext("column \"%s\" of foreign table \"%s\", etcd key \"%s\"",
				   cells->current->name, cells->table, printable_key(cells->kv));
}

static Datum
make_value(EtcdCells *cells, EtcdColumn *column, Datum *document, bool *isnull)
{
	const EtcdKeyValue *kv = cells->kv;

	*isnull = false;
	switch (column->source)
	{
		case ETCD_KEY:
			if (kv->key_len < cells->strip)
				elog(ERROR, "etcd sent a key outside of the range that was asked for");
			return etcd_cell_make(cells, column, kv->key + cells->strip, kv->key_len - cells->strip);
		case ETCD_VALUE:
			return etcd_cell_make(cells, column, kv->value, kv->value_len);
		case ETCD_JSON:
			return make_json_field(cells, column, document, isnull);
		case ETCD_SEGMENT:
			return etcd_cell_make(cells, column, cells->segments[column->segment].data,
								  cells->segments[column->segment].len);
		case ETCD_TTL:
			return make_ttl(cells, column, kv->numbers[ETCD_LEASE - ETCD_CREATE_REVISION], isnull);
		case ETCD_CREATE_REVISION:
		case ETCD_MOD_REVISION:
			/* What the transaction itself wrote has no revision yet. */
			*isnull = kv->numbers[column->source - ETCD_CREATE_REVISION] == 0;
			if (*isnull)
				return (Datum) 0;
			/* FALLTHROUGH */
		default:
			return make_number(cells, column, kv->numbers[column->source - ETCD_CREATE_REVISION]);
	}
}

static void
check_domains(EtcdCells *cells, Datum *values, bool *isnull)
{
	for (int i = 0; i < cells->ncolumns; i++)
	{
		EtcdColumn *column = &cells->columns[i];
		int			index = column->attnum - 1;

		cells->current = column;
		if (OidIsValid(column->domain))
			domain_check(values[index], isnull[index], column->domain, &column->domain_cache, cells->context);
	}
}

/*
 * Fills a row from a key that etcd_cells_match() has taken.  Columns that no
 * source is known for stay NULL.
 */
void
etcd_cells_fill(EtcdCells *cells, const EtcdKeyValue *kv, Datum *values, bool *isnull)
{
	ErrorContextCallback context = {error_context_stack, cell_context, cells};
	Datum		document = (Datum) 0;
	int			level = etcd_modes_enter(cells->modes);

	cells->kv = kv;
	error_context_stack = &context;
	for (int i = 0; i < cells->ncolumns; i++)
	{
		EtcdColumn *column = &cells->columns[i];
		int			index = column->attnum - 1;

		cells->current = column;
		values[index] = make_value(cells, column, &document, &isnull[index]);
	}
	etcd_modes_leave(level);
	/* A domain's check is the user's code and runs under the session's own settings. */
	if (cells->domains)
		check_domains(cells, values, isnull);
	cells->current = NULL;
	cells->kv = NULL;
	error_context_stack = context.previous;
}
