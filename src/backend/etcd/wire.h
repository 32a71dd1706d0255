/*
 * wire.h
 *	  Reads protobuf in place.
 */
#ifndef ETCD_FDW_WIRE_H
#define ETCD_FDW_WIRE_H

#include "postgres.h"

#define WIRE_VARINT		0
#define WIRE_FIXED64	1
#define WIRE_BYTES		2
#define WIRE_FIXED32	5

/* One field of a message: a number, or the bytes [data, data + number). */
typedef struct EtcdField
{
	uint32		field;
	uint32		wire;
	uint64		number;
	const char *data;
} EtcdField;

extern void etcd_corrupt(const char *what);
extern bool etcd_next_field(const char **at, const char *end, EtcdField *field);
extern void etcd_expect(const EtcdField *field, uint32 wire);

#endif							/* ETCD_FDW_WIRE_H */
