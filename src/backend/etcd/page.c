/*
 * page.c
 *	  Walks an etcd RangeResponse in place, the RangeResponses of a Txn that
 *	  only read, one after the other, or the keys that a DeleteRange has found.
 *
 * The reply of a scan reaches the backend as etcd sent it.  It is read here
 * once from end to end before the first row is taken, so that a reply that is
 * cut off or damaged is an error before it has become a row; after that the
 * walk needs no checks that could fail, but makes them all the same.
 *
 * Field numbers are those of etcd's rpc.proto and kv.proto.  Fields that are
 * not known are skipped, as protobuf asks.
 */
#include "postgres.h"

#include "etcd/page.h"
#include "etcd/wire.h"

#define RANGE_HEADER	1
#define RANGE_KVS		2
#define RANGE_MORE		3
#define RANGE_COUNT		4
/* Of the proxy's own: src/etcd/messages.ts. */
#define RANGE_CACHED	1001
#define DELETED_KVS		3
/* Of WatchedPage: src/etcd/watch.ts. */
#define WATCHED_REVISION 1
#define WATCHED_LEFT	2
#define WATCHED_UPTO	3
#define WATCHED_BEHIND	4
#define WATCHED_CLUSTER	5
#define WATCHED_EVENTS	11
#define EVENT_TYPE		1
#define EVENT_KV		2
#define EVENT_PREV		3
#define EVENT_DELETE	1
#define TXN_HEADER		1
#define TXN_RESPONSES	3
#define OP_RANGE		1
#define HEADER_CLUSTER	1
#define HEADER_REVISION 3
#define KV_KEY			1
#define KV_CREATE		2
#define KV_MOD			3
#define KV_VERSION		4
#define KV_VALUE		5
#define KV_LEASE		6

static void
read_key_value(const char *at, const char *end, EtcdKeyValue *kv)
{
	EtcdField	field;

	memset(kv, 0, sizeof(*kv));
	kv->key = kv->value = at;
	while (etcd_next_field(&at, end, &field))
	{
		switch (field.field)
		{
			case KV_KEY:
				etcd_expect(&field, WIRE_BYTES);
				kv->key = field.data;
				kv->key_len = (uint32) field.number;
				break;
			case KV_VALUE:
				etcd_expect(&field, WIRE_BYTES);
				kv->value = field.data;
				kv->value_len = (uint32) field.number;
				break;
			case KV_CREATE:
			case KV_MOD:
			case KV_VERSION:
				etcd_expect(&field, WIRE_VARINT);
				kv->numbers[field.field - KV_CREATE] = (int64) field.number;
				break;
			case KV_LEASE:
				etcd_expect(&field, WIRE_VARINT);
				kv->numbers[3] = (int64) field.number;
				break;
			default:
				break;
		}
	}
}

/*
 * An mvccpb.Event.
 */
static void
read_event(const char *at, const char *end, EtcdKeyValue *kv)
{
	EtcdField	field;
	EtcdKeyValue prev = {0};
	bool		deleted = false;
	bool		has_prev = false;

	memset(kv, 0, sizeof(*kv));
	kv->key = kv->value = at;
	while (etcd_next_field(&at, end, &field))
	{
		switch (field.field)
		{
			case EVENT_TYPE:
				etcd_expect(&field, WIRE_VARINT);
				deleted = field.number == EVENT_DELETE;
				break;
			case EVENT_KV:
				etcd_expect(&field, WIRE_BYTES);
				read_key_value(field.data, field.data + field.number, kv);
				break;
			case EVENT_PREV:
				etcd_expect(&field, WIRE_BYTES);
				read_key_value(field.data, field.data + field.number, &prev);
				has_prev = true;
				break;
			default:
				break;
		}
	}
	kv->deleted = deleted;
	if (has_prev)
	{
		kv->prev_value = prev.value;
		kv->prev_len = prev.value_len;
	}
}

static void
read_item(EtcdPageKind kind, const EtcdField *field, EtcdKeyValue *kv)
{
	etcd_expect(field, WIRE_BYTES);
	if (kind == ETCD_PAGE_WATCHED)
		read_event(field->data, field->data + field->number, kv);
	else
		read_key_value(field->data, field->data + field->number, kv);
}

static void
read_header(EtcdPage *page, const EtcdField *header)
{
	const char *at = header->data;
	EtcdField	field;

	etcd_expect(header, WIRE_BYTES);
	while (etcd_next_field(&at, header->data + header->number, &field))
	{
		if (field.field == HEADER_CLUSTER)
		{
			etcd_expect(&field, WIRE_VARINT);
			page->cluster = field.number;
		}
		else if (field.field == HEADER_REVISION)
		{
			etcd_expect(&field, WIRE_VARINT);
			page->revision = Max(page->revision, (int64) field.number);
		}
	}
}

static void
count_key(EtcdPage *page, const EtcdField *field)
{
	EtcdKeyValue kv;

	read_item(page->kind, field, &kv);
	if (kv.key_len == 0)
		etcd_corrupt("A key is empty.");
	page->kvs++;
	page->last_key = kv.key;
	page->last_key_len = kv.key_len;
}

/*
 * Reads a RangeResponse's own fields and checks the whole of it.
 */
static void
open_range(EtcdPage *page, const char *at, const char *end)
{
	EtcdField	field;

	while (etcd_next_field(&at, end, &field))
	{
		switch (field.field)
		{
			case RANGE_HEADER:
				read_header(page, &field);
				break;
			case RANGE_KVS:
				count_key(page, &field);
				break;
			case RANGE_MORE:
				etcd_expect(&field, WIRE_VARINT);
				page->more = field.number != 0;
				break;
			case RANGE_COUNT:
				etcd_expect(&field, WIRE_VARINT);
				page->count = (int64) field.number;
				break;
			case RANGE_CACHED:
				page->cached = true;
				break;
			default:
				break;
		}
	}
}

/*
 * Checks the whole of a DeleteRangeResponse.
 */
static void
open_deleted(EtcdPage *page)
{
	const char *at = page->start;
	EtcdField	field;

	while (etcd_next_field(&at, page->end, &field))
	{
		if (field.field == DELETED_KVS)
			count_key(page, &field);
	}
}

/*
 * Reads a WatchedPage's own fields and checks the whole of it.
 */
static void
open_watched(EtcdPage *page)
{
	const char *at = page->start;
	EtcdField	field;

	while (etcd_next_field(&at, page->end, &field))
	{
		if (field.field == WATCHED_EVENTS)
		{
			count_key(page, &field);
			continue;
		}
		if (field.field > WATCHED_CLUSTER)
			continue;
		etcd_expect(&field, WIRE_VARINT);
		if (field.field == WATCHED_REVISION)
			page->revision = (int64) field.number;
		else if (field.field == WATCHED_LEFT)
			page->left = (int64) field.number;
		else if (field.field == WATCHED_UPTO)
			page->upto = (int64) field.number;
		else if (field.field == WATCHED_BEHIND)
			page->behind = (int64) field.number;
		else
			page->cluster = field.number;
	}
	page->more = page->left > 0 || page->upto > 0;
}

/*
 * Finds the RangeResponse in a ResponseOp; false when it holds another answer.
 */
static bool
find_range(const EtcdField *op, EtcdField *range)
{
	const char *at = op->data;

	etcd_expect(op, WIRE_BYTES);
	while (etcd_next_field(&at, op->data + op->number, range))
	{
		if (range->field == OP_RANGE)
		{
			etcd_expect(range, WIRE_BYTES);
			return true;
		}
	}
	return false;
}

/*
 * Reads the page's own fields and checks the whole of it.  `data` must stay
 * where it is as long as the page is used.  Raises 08P01 for anything that is
 * not of this kind.
 */
void
etcd_page_open(EtcdPage *page, const char *data, uint32 len, EtcdPageKind kind)
{
	const char *at = data;
	EtcdField	field;
	EtcdField	range;

	memset(page, 0, sizeof(*page));
	page->start = data;
	page->end = data + len;
	page->kind = kind;
	etcd_page_rewind(page);
	if (kind == ETCD_PAGE_RANGE)
	{
		open_range(page, data, page->end);
		return;
	}
	if (kind == ETCD_PAGE_DELETED)
	{
		open_deleted(page);
		return;
	}
	if (kind == ETCD_PAGE_WATCHED)
	{
		open_watched(page);
		return;
	}
	while (etcd_next_field(&at, page->end, &field))
	{
		if (field.field == TXN_HEADER)
			read_header(page, &field);
		else if (field.field == TXN_RESPONSES)
		{
			if (!find_range(&field, &range))
				etcd_corrupt("A transaction's answer holds something else than keys.");
			open_range(page, range.data, range.data + range.number);
		}
	}
	page->more = false;
}

/*
 * Goes on to the next RangeResponse of a Txn; false after the last.
 */
static bool
next_range(EtcdPage *page)
{
	EtcdField	field;
	EtcdField	range;

	while (page->kind == ETCD_PAGE_TXN && etcd_next_field(&page->rest, page->end, &field))
	{
		if (field.field == TXN_RESPONSES && find_range(&field, &range))
		{
			page->next = range.data;
			page->next_end = range.data + range.number;
			return true;
		}
	}
	return false;
}

/*
 * The next key-value pair, pointing into the page; false after the last.
 */
bool
etcd_page_next(EtcdPage *page, EtcdKeyValue *kv)
{
	uint32		kvs = page->kind == ETCD_PAGE_DELETED ? DELETED_KVS :
		page->kind == ETCD_PAGE_WATCHED ? WATCHED_EVENTS : RANGE_KVS;
	EtcdField	field;

	do
	{
		while (etcd_next_field(&page->next, page->next_end, &field))
		{
			if (field.field == kvs)
			{
				read_item(page->kind, &field, kv);
				return true;
			}
		}
	} while (next_range(page));
	return false;
}

void
etcd_page_rewind(EtcdPage *page)
{
	page->next = page->next_end = page->rest = page->start;
	if (page->kind != ETCD_PAGE_TXN)
		page->next_end = page->end;
}
