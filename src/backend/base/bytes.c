/*
 * bytes.c
 *	  Bytes in frames, messages and errors.
 */
#include "postgres.h"

#include "base/bytes.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"

/* Of a key, in an error. */
#define PRINTED_BYTES 256

uint32
etcd_get_uint32(const char *at)
{
	uint32		value;

	memcpy(&value, at, sizeof(value));
	return pg_ntoh32(value);
}

void
etcd_put_uint32(char *at, uint32 value)
{
	value = pg_hton32(value);
	memcpy(at, &value, sizeof(value));
}

void
etcd_append_uint32(StringInfo buf, uint32 value)
{
	value = pg_hton32(value);
	appendBinaryStringInfo(buf, (char *) &value, sizeof(value));
}

void
etcd_append_int64(StringInfo buf, int64 value)
{
	uint64		number = pg_hton64((uint64) value);

	appendBinaryStringInfo(buf, (char *) &number, sizeof(number));
}

/*
 * A number as protobuf writes it.
 */
void
etcd_append_varint(StringInfo buf, uint64 value)
{
	for (; value >= 0x80; value >>= 7)
		appendStringInfoChar(buf, (char) (value | 0x80));
	appendStringInfoChar(buf, (char) value);
}

/*
 * Negative, zero or positive in etcd's order of keys.
 */
int
etcd_compare_bytes(const char *a, uint32 alen, const char *b, uint32 blen)
{
	int			order = memcmp(a, b, Min(alen, blen));

	return order != 0 ? order : (alen > blen) - (alen < blen);
}

/*
 * A key as an error shows it: printable ASCII as it is, other bytes as \xNN.
 */
char *
etcd_printable(const char *data, uint32 len)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (uint32 i = 0; i < len && i < PRINTED_BYTES; i++)
	{
		unsigned char byte = (unsigned char) data[i];

		if (byte >= 0x20 && byte < 0x7f && byte != '\\')
			appendStringInfoChar(&buf, byte);
		else
			appendStringInfo(&buf, "\\x%02x", byte);
	}
	if (len > PRINTED_BYTES)
		appendStringInfoString(&buf, "...");
	return buf.data;
}

/*
 * Text in the database's encoding of bytes that are UTF-8; NULL when they are
 * not, or when the encoding has no such text.
 */
text *
etcd_text_from_utf8(const char *data, uint32 len)
{
	int			encoding = GetDatabaseEncoding();
	Oid			conversion;
	Size		room;
	char	   *converted;

	if (encoding == PG_SQL_ASCII ? memchr(data, '\0', len) != NULL
		: !pg_verify_mbstr(PG_UTF8, data, len, true))
		return NULL;
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return cstring_to_text_with_len(data, len);

	conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(conversion))
		elog(ERROR, "no conversion from UTF8 to encoding \"%s\"", GetDatabaseEncodingName());
	room = (Size) len * MAX_CONVERSION_GROWTH + 1;
	converted = palloc_extended(room, MCXT_ALLOC_HUGE);
	if (pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding,
									  (unsigned char *) pnstrdup(data, len), len,
									  (unsigned char *) converted, (int) Min(room, PG_INT32_MAX),
									  true) < (int) len)
		return NULL;
	return cstring_to_text(converted);
}
