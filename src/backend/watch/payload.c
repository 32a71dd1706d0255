/*
 * payload.c
 *	  Events as the texts of notifications: one JSON object each.
 *
 * Keys and values that are not text in the database's encoding are in base64,
 * under another name.  What would not fit a notification is left out, values
 * first, and the object says so: the reader knows the key and the revision, and
 * can read the rest.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "watch/payload.h"

#include "common/base64.h"
#include "utils/builtins.h"
#include "utils/json.h"

/* How much of an event is told. */
typedef enum Extent
{
	EXTENT_ALL,
	EXTENT_KEY,					/* no values */
	EXTENT_REVISION				/* the key itself is too long */
} Extent;

/*
 * A field with bytes: as text where they are text.
 */
static void
append_bytes(StringInfo buf, const char *name, const char *data, uint32 len)
{
	text	   *converted = etcd_text_from_utf8(data, len);

	if (converted != NULL)
	{
		appendStringInfo(buf, ",\"%s\":", name);
		escape_json(buf, text_to_cstring(converted));
	}
	else
	{
		int			size = pg_b64_enc_len(len);
		char	   *encoded = palloc(size + 1);

		/* The type of the bytes changed in 18. */
		size = pg_b64_encode((const void *) data, len, encoded, size);
		encoded[Max(size, 0)] = '\0';
		appendStringInfo(buf, ",\"%s_base64\":\"%s\"", name, encoded);
	}
}

static void
append_object(StringInfo buf, const char *subscription, const EtcdKeyValue *kv, int64 nth, Extent extent)
{
	appendStringInfoString(buf, "{\"subscription\":");
	escape_json(buf, subscription);
	appendStringInfo(buf, ",\"kind\":\"%s\"", kv->deleted ? "delete" : "put");
	if (extent != EXTENT_REVISION)
		append_bytes(buf, "key", kv->key, kv->key_len);
	appendStringInfo(buf, ",\"mod_revision\":" INT64_FORMAT, kv->numbers[1]);
	/* PostgreSQL would take two that are the same for one. */
	if (extent == EXTENT_REVISION)
		appendStringInfo(buf, ",\"nth\":" INT64_FORMAT, nth);
	if (extent != EXTENT_ALL)
		appendStringInfoString(buf, ",\"omitted\":true");
	else
	{
		if (!kv->deleted)
		{
			append_bytes(buf, "value", kv->value, kv->value_len);
			appendStringInfo(buf, ",\"create_revision\":" INT64_FORMAT ",\"version\":" INT64_FORMAT,
							 kv->numbers[0], kv->numbers[2]);
			/* A number of 63 bits is not exact everywhere. */
			if (kv->numbers[3] != 0)
				appendStringInfo(buf, ",\"lease\":\"" INT64_FORMAT "\"", kv->numbers[3]);
		}
		if (kv->prev_value != NULL)
			append_bytes(buf, "prev_value", kv->prev_value, kv->prev_len);
	}
	appendStringInfoChar(buf, '}');
}

/*
 * Appends the event's object, of ETCD_PAYLOAD_BYTES less two at most.  It is
 * the nth that its transaction tells.
 */
void
etcd_payload_event(StringInfo buf, const char *subscription, const EtcdKeyValue *kv, int64 nth)
{
	int			start = buf->len;

	for (int extent = EXTENT_ALL; extent <= EXTENT_REVISION; extent++)
	{
		buf->len = start;
		buf->data[start] = '\0';
		/* No encoding makes less of bytes: large values need not be written to see it. */
		if (extent == EXTENT_ALL && kv->value_len / 2 + kv->prev_len / 2 > ETCD_PAYLOAD_BYTES)
			continue;
		append_object(buf, subscription, kv, nth, extent);
		if (buf->len - start <= ETCD_PAYLOAD_BYTES - 2)
			return;
	}
}

/*
 * What has happened is not known; the range is to be read anew.
 */
void
etcd_payload_resync(StringInfo buf, const char *subscription, int64 revision)
{
	appendStringInfoString(buf, "{\"subscription\":");
	escape_json(buf, subscription);
	appendStringInfo(buf, ",\"kind\":\"resync\",\"mod_revision\":" INT64_FORMAT "}", revision);
}
