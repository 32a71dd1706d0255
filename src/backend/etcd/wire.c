/*
 * wire.c
 *	  Reads protobuf in place.
 *
 * What etcd sends is read here and nowhere else in the backend; whatever bytes
 * come, nothing is read behind their end.  Fields that are not known are the
 * caller's to skip, as protobuf asks.
 */
#include "postgres.h"

#include "etcd/wire.h"

void
etcd_corrupt(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("invalid reply from etcd"),
			 errdetail("%s", what)));
}

static uint64
read_varint(const char **at, const char *end)
{
	uint64		result = 0;

	for (int shift = 0; shift < 64; shift += 7)
	{
		unsigned char byte;

		if (*at >= end)
			etcd_corrupt("A number is cut off.");
		byte = (unsigned char) *(*at)++;
		result |= (uint64) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
			return result;
	}
	etcd_corrupt("A number is longer than 64 bits.");
	return 0;					/* not reached */
}

/*
 * Reads the next field of the message that ends at `end`; false at its end.
 */
bool
etcd_next_field(const char **at, const char *end, EtcdField *field)
{
	uint64		tag;

	if (*at >= end)
		return false;
	tag = read_varint(at, end);
	if (tag >> 3 == 0 || tag >> 3 > PG_UINT32_MAX)
		etcd_corrupt("A field has an impossible number.");
	field->field = (uint32) (tag >> 3);
	field->wire = (uint32) (tag & 7);
	switch (field->wire)
	{
		case WIRE_VARINT:
			field->number = read_varint(at, end);
			field->data = NULL;
			return true;
		case WIRE_BYTES:
			field->number = read_varint(at, end);
			break;
		case WIRE_FIXED64:
			field->number = 8;
			break;
		case WIRE_FIXED32:
			field->number = 4;
			break;
		default:
			etcd_corrupt("A field has an unknown wire type.");
	}
	if (field->number > (uint64) (end - *at))
		etcd_corrupt("A field is longer than what is left of its message.");
	field->data = *at;
	*at += field->number;
	return true;
}

void
etcd_expect(const EtcdField *field, uint32 wire)
{
	if (field->wire != wire)
		etcd_corrupt("A field has another wire type than etcd's protocol says.");
}
