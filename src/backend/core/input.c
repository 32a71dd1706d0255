/*
 * input.c
 *	  Values of the query as core takes them.
 */
#include "postgres.h"

#include "core/dispatch.h"
#include "core/input.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"

static void
append_array(StringInfo buf, Datum value, Oid element_type)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(value), element_type, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
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
 * digits; an array is an array of them.
 */
void
etcd_append_param(StringInfo buf, Datum value, Oid type)
{
	struct varlena *bytes;
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
		appendStringInfoChar(buf, '"');
		etcd_append_hex(buf, data, strlen(data));
		appendStringInfoChar(buf, '"');
		return;
	}
	bytes = PG_DETOAST_DATUM_PACKED(value);
	data = VARDATA_ANY(bytes);
	len = VARSIZE_ANY_EXHDR(bytes);
	if (type == TEXTOID)
	{
		char	   *utf8 = pg_server_to_any(data, len, PG_UTF8);

		if (utf8 != data)
		{
			data = utf8;
			len = strlen(utf8);
		}
	}
	appendStringInfoChar(buf, '"');
	etcd_append_hex(buf, data, len);
	appendStringInfoChar(buf, '"');
}
