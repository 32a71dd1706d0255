/*
 * input.c
 *	  Values of the query as core takes them.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "core/dispatch.h"
#include "core/input.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

/*
 * An array that is longer or larger is told by its least and its greatest
 * value alone.  Core asks for the range between them all the same, long before
 * that (MAX_RANGES in src/core/plan/conditions.ts); an engine's memory and its
 * deafness to cancels are why it does not get to see them.
 */
#define LISTED_VALUES	8192
#define LISTED_BYTES	(1024 * 1024)

/*
 * A value's bytes as etcd would hold them.  True when these are a copy.
 */
static bool
value_bytes(Datum value, Oid type, char **data, int *len)
{
	struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);
	char	   *utf8;

	*data = VARDATA_ANY(bytes);
	*len = VARSIZE_ANY_EXHDR(bytes);
	if (type != TEXTOID)
		return false;
	utf8 = pg_server_to_any(*data, *len, PG_UTF8);
	if (utf8 == *data)
		return false;
	*data = utf8;
	*len = strlen(utf8);
	return true;
}

static void
append_quoted(StringInfo buf, const char *data, int len)
{
	appendStringInfoChar(buf, '"');
	etcd_append_hex(buf, data, len);
	appendStringInfoChar(buf, '"');
}

/*
 * The least and the greatest of the values; of none, an empty array.
 */
static void
append_span(StringInfo buf, Datum *elements, bool *nulls, int count, Oid type)
{
	char	   *least = NULL;
	char	   *greatest = NULL;
	int			least_len = 0;
	int			greatest_len = 0;

	for (int i = 0; i < count; i++)
	{
		char	   *data;
		int			len;
		bool		copied;
		bool		first = least == NULL;

		CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			continue;
		copied = value_bytes(elements[i], type, &data, &len);
		if (first || etcd_compare_bytes(data, len, least, least_len) < 0)
		{
			least = data;
			least_len = len;
			copied = false;
		}
		if (first || etcd_compare_bytes(data, len, greatest, greatest_len) > 0)
		{
			greatest = data;
			greatest_len = len;
			copied = false;
		}
		if (copied)
			pfree(data);
	}
	if (least == NULL)
	{
		appendStringInfoString(buf, "[]");
		return;
	}
	appendStringInfoString(buf, "{\"least\":");
	append_quoted(buf, least, least_len);
	appendStringInfoString(buf, ",\"greatest\":");
	append_quoted(buf, greatest, greatest_len);
	appendStringInfoChar(buf, '}');
}

static void
append_array(StringInfo buf, Datum value, Oid element_type)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, element_type, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	if (count > LISTED_VALUES || VARSIZE(array) > LISTED_BYTES)
	{
		append_span(buf, elements, nulls, count, element_type);
		return;
	}
	appendStringInfoChar(buf, '[');
	for (int i = 0; i < count; i++)
	{
		if (i > 0)
			appendStringInfoChar(buf, ',');
		if (nulls[i])
			appendStringInfoString(buf, "null");
		else
			etcd_append_param(buf, elements[i], element_type);
	}
	appendStringInfoChar(buf, ']');
}

/*
 * Appends a value as core takes it: the bytes that etcd would hold, in
 * hexadecimal and quotes.  Text is UTF-8 in etcd; a number is its decimal
 * digits; an array is an array of them, or what is left of a large one.
 */
void
etcd_append_param(StringInfo buf, Datum value, Oid type)
{
	char	   *data;
	int			len;

	if (type == TEXTARRAYOID || type == BYTEAARRAYOID)
	{
		append_array(buf, value, type == TEXTARRAYOID ? TEXTOID : BYTEAOID);
		return;
	}
	if (type == INT8OID || type == INT4OID || type == INT2OID)
	{
		int64		number = type == INT8OID ? DatumGetInt64(value)
			: type == INT4OID ? DatumGetInt32(value) : DatumGetInt16(value);

		data = psprintf(INT64_FORMAT, number);
		len = strlen(data);
	}
	else
		(void) value_bytes(value, type, &data, &len);
	append_quoted(buf, data, len);
}
