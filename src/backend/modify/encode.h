/*
 * encode.h
 *	  From a row to the bytes of its key and its value.
 */
#ifndef ETCD_FDW_ENCODE_H
#define ETCD_FDW_ENCODE_H

#include "postgres.h"

#include "scan/cell.h"
#include "executor/tuptable.h"
#include "utils/rel.h"

/* How rows become keys and values, as core has planned it. */
typedef struct EtcdWriter
{
	Relation	relation;
	int			key;			/* attnums, 0 for none */
	int			value;
	int			lease;
	int			ttl;
	int			create_revision;
	int			mod_revision;
	int			version;
	List	   *segments;		/* attnums of the pattern's placeholders */
	EtcdPattern pattern;
	List	   *fields;			/* attnum and path's index, alternating */
	List	   *paths;			/* of char *, literals of text[] */
	EtcdBytes	strip;
	EtcdBytes	start;
	EtcdBytes	end;
	Bitmapset  *named;			/* attnums that the UPDATE sets, or the INSERT gives */
	int			modes;			/* of the columns that become text */
} EtcdWriter;

extern EtcdWriter *etcd_writer_create(Relation relation, const char *plan, Bitmapset *named);
extern void etcd_write_key(EtcdWriter *writer, TupleTableSlot *slot, const EtcdKeyValue *old, StringInfo buf);
extern void etcd_write_value(EtcdWriter *writer, TupleTableSlot *slot, const EtcdKeyValue *old, const char *key, int key_len,
							 StringInfo buf);
extern bool etcd_writer_sets(EtcdWriter *writer, int attnum, const EtcdKeyValue *old);
extern int64 etcd_ttl_seconds(EtcdWriter *writer, TupleTableSlot *slot);

#endif							/* ETCD_FDW_ENCODE_H */
