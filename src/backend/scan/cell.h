/*
 * cell.h
 *	  From etcd's bytes to values of the columns' types.
 */
#ifndef ETCD_FDW_CELL_H
#define ETCD_FDW_CELL_H

#include "postgres.h"

#include "etcd/page.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "nodes/pg_list.h"

/* Where a column's value comes from, numbered as in src/core/protocol.ts. */
typedef enum EtcdSource
{
	ETCD_KEY,
	ETCD_VALUE,
	ETCD_CREATE_REVISION,
	ETCD_MOD_REVISION,
	ETCD_VERSION,
	ETCD_LEASE,
	ETCD_JSON,
	ETCD_SEGMENT,
	ETCD_TTL
} EtcdSource;

/* How bytes become a value of the column's type. */
typedef enum EtcdForm
{
	ETCD_FORM_TEXT,
	ETCD_FORM_BYTES,
	ETCD_FORM_INT8,
	ETCD_FORM_INPUT				/* through the type's input function */
} EtcdForm;

typedef struct EtcdColumn
{
	AttrNumber	attnum;			/* in the row that is formed */
	const char *name;
	EtcdSource	source;
	int			segment;
	Datum		path;			/* text[], of ETCD_JSON */
	Oid			type;			/* a domain's base type */
	int32		typmod;
	Oid			domain;
	void	   *domain_cache;
	EtcdForm	form;
	bool		is_json;		/* the type takes JSON as it is */
	FmgrInfo	input;
	Oid			ioparam;
	FmgrInfo	extract;		/* of ETCD_JSON */
} EtcdColumn;

typedef struct EtcdBytes
{
	const char *data;
	uint32		len;
} EtcdBytes;

/* A table's key_pattern: what stands before, between and after its placeholders. */
typedef struct EtcdPattern
{
	int			nliterals;		/* 0 without a pattern */
	EtcdBytes  *literals;
	bool		rest;			/* the last placeholder takes slashes too */
} EtcdPattern;

/* What forming rows needs. */
typedef struct EtcdCells
{
	const char *table;			/* its name */
	MemoryContext context;
	int			ncolumns;
	EtcdColumn *columns;
	int			modes;			/* of all columns: modes.h */
	bool		domains;		/* any column is of one */
	uint32		strip;
	EtcdPattern pattern;
	bool		strict;			/* a key that does not match it is an error */
	EtcdBytes  *segments;		/* of the present key */
	const EtcdKeyValue *kv;		/* the present key, for errors */
	Oid			userid;			/* who asks for leases' times */
	Oid			serverid;
	List	   *leases;			/* of EtcdLease *, that were asked for */
	EtcdColumn *current;
} EtcdCells;

extern void etcd_pattern_read(EtcdPattern *pattern, List *literals, bool rest);
extern bool etcd_pattern_split(const EtcdPattern *pattern, const char *key, uint32 len, EtcdBytes *parts);
extern EtcdCells *etcd_cells_create(Oid table, List *fdw_private, TupleDesc desc);
extern bool etcd_cells_match(EtcdCells *cells, const EtcdKeyValue *kv);
extern void etcd_cells_fill(EtcdCells *cells, const EtcdKeyValue *kv, Datum *values, bool *isnull);
extern Datum etcd_cell_make(EtcdCells *cells, EtcdColumn *column, const char *data, uint32 len);

#endif							/* ETCD_FDW_CELL_H */
