/*
 * converse.h
 *	  A conversation with core in which it asks etcd.
 */
#ifndef ETCD_FDW_CONVERSE_H
#define ETCD_FDW_CONVERSE_H

#include "postgres.h"

#include "core/dispatch.h"
#include "etcd/page.h"

typedef struct EtcdTalk
{
	const char *name;			/* of what is run, for errors */
	Oid			dispatch;
	Oid			userid;
	Oid			(*server) (void *arg);	/* whom to ask; looked for when it is needed */
	/* Rows that do not pass through core; NULL where none can come. */
	void		(*take_key) (void *arg, const EtcdKeyValue *kv, bool values);
	void		(*take_bytes) (void *arg, const char *data, uint32 len);
	void		(*take_revision) (void *arg, int64 revision);
	/* Sees each request before it is made; NULL: nobody looks. */
	void		(*keep) (void *arg, const EtcdAnswer *step, int rows, bool writes);
	void	   *arg;
	bool		wrote;			/* something that etcd keeps was asked for */
} EtcdTalk;

extern void etcd_ask_again(EtcdTalk *talk, const EtcdAnswer *step, int rows, bool writes);
extern bool etcd_converse(EtcdTalk *talk, const char *op, StringInfo input, EtcdAnswer *answer);

#endif							/* ETCD_FDW_CONVERSE_H */
