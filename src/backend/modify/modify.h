/*
 * modify.h
 *	  Rows that a statement changes, and how they become keys and values.
 */
#ifndef ETCD_FDW_MODIFY_H
#define ETCD_FDW_MODIFY_H

#include "scan/rows.h"
#include "scan/scan.h"

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
	List	   *segments;		/* attnums */
	List	   *literals;		/* of EtcdBytes * */
	bool		rest;
	List	   *fields;			/* attnum and path's index, alternating */
	List	   *paths;			/* of char *, literals of text[] */
	EtcdBytes	strip;
	EtcdBytes	start;
	EtcdBytes	end;
	Bitmapset  *assigned;		/* attnums that an UPDATE sets */
} EtcdWriter;

typedef struct EtcdModify
{
	EtcdWriter *writer;
	EState	   *estate;
	Oid			userid;
	Oid			serverid;
	bool		upsert;
	bool		immediate;
	bool		check;			/* a key that exists is told at once */
	bool		skip;			/* ON CONFLICT DO NOTHING */
	AttrNumber	tid_attno;
	EtcdCells  *cells;			/* of whole rows, for DELETE ... RETURNING */
	MemoryContext work;			/* of one row or batch */
	StringInfoData payload;
	List	   *in_flight;		/* of EtcdRequest * */
	int64		ttl;			/* seconds of the lease that was granted last */
	int64		ttl_lease;
} EtcdModify;

/* ---- show.c ---- */
extern int64 etcd_row_lease(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *old);
extern void etcd_check_maintained(EtcdWriter *writer, TupleTableSlot *slot);
extern void etcd_show_row(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *old, int64 lease, int64 revision);
extern void etcd_show_deleted(EtcdModify *modify, TupleTableSlot *slot, const EtcdRow *row);
extern bool etcd_shows_rows(ResultRelInfo *rinfo);

/* ---- encode.c ---- */
extern EtcdWriter *etcd_writer_create(Relation relation, const char *plan, Bitmapset *assigned);
extern void etcd_write_key(EtcdWriter *writer, TupleTableSlot *slot, const EtcdRow *old, StringInfo buf);
extern void etcd_write_value(EtcdWriter *writer, TupleTableSlot *slot, const EtcdRow *old, StringInfo buf);
extern bool etcd_writer_sets(EtcdWriter *writer, int attnum, const EtcdRow *old);
extern int64 etcd_ttl_seconds(EtcdWriter *writer, TupleTableSlot *slot);

#endif							/* ETCD_FDW_MODIFY_H */
