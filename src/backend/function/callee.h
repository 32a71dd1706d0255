/*
 * callee.h
 *	  The SQL functions as they were declared: how a call becomes core's input.
 */
#ifndef ETCD_FDW_CALLEE_H
#define ETCD_FDW_CALLEE_H

#include "postgres.h"

#include "core/dispatch.h"
#include "constants.h"

#include "access/tupdesc.h"
#include "fmgr.h"

/* One column of the result. */
typedef struct ResultColumn
{
	const char *name;
	Oid			type;
	int32		typmod;
	Oid			ioparam;
	Oid			input;			/* looked up for each call: a FmgrInfo must not outlive its transaction */
} ResultColumn;

/* Arguments whose bytes stand in front of the request. */
#define TEMPLATE_ARGS	2

/*
 * A request that core has made before, for calls that differ in those
 * arguments alone.
 */
typedef struct Template
{
	char	   *others;			/* the other arguments, as core got them */
	int			nargs;
	int			args[TEMPLATE_ARGS];
	char	   *header;			/* of the frame */
	char	   *rest;			/* what follows the arguments */
	int			rest_len;
	int			rows;
	bool		writes;
} Template;

/* The SQL function, as it was declared; kept for the session. */
typedef struct Callee
{
	Oid			oid;			/* must be first: the key */
	bool		valid;			/* false: not described yet, or altered since */
	uint32		hash;			/* of its entry in pg_proc */
	char	   *name;
	int			nargs;
	char	  **argnames;
	Oid		   *argtypes;
	bool		names_server;	/* by its first argument */
	bool		for_monitors;	/* pg_monitor may call it without USAGE */
	bool		returns_set;
	TupleDesc	desc;
	ResultColumn *columns;
	MemoryContext context;		/* of all this */
	Template   *known;			/* NULL: none */
} Callee;

extern Callee *etcd_callee_find(FunctionCallInfo fcinfo);
extern void etcd_callee_arguments(StringInfo buf, const Callee *callee, FunctionCallInfo fcinfo);
extern void etcd_callee_keep(Callee *callee, FunctionCallInfo fcinfo, const EtcdAnswer *step, int rows, bool writes);
extern bool etcd_callee_repeat(const Callee *callee, FunctionCallInfo fcinfo, EtcdAnswer *step);

#endif							/* ETCD_FDW_CALLEE_H */
