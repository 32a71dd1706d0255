/*
 * dispatch.h
 *	  Calls of core, and its answers.
 */
#ifndef ETCD_FDW_DISPATCH_H
#define ETCD_FDW_DISPATCH_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* Core's answer: the control object, and the bytes that go with it. */
typedef struct EtcdAnswer
{
	Jsonb	   *control;
	char	   *payload;
	int			payload_len;
} EtcdAnswer;

extern Oid	etcd_dispatch_function(Oid serverid);
extern Oid	etcd_dispatch_beside(Oid function);
extern void etcd_dispatch(Oid function, const char *op, StringInfo input, EtcdAnswer *answer);
extern void etcd_dispatch_bytes(Oid function, const char *op, StringInfo input, const char *bytes, int len,
								EtcdAnswer *answer);
extern char *etcd_json_text(Jsonb *object, const char *field);
extern double etcd_json_number(Jsonb *object, const char *field);
extern int	etcd_json_flag(Jsonb *object, const char *field);
extern bool etcd_json_is(Jsonb *object, const char *field, const char *text);
extern List *etcd_json_ints(Jsonb *object, const char *field);
extern List *etcd_json_strings(Jsonb *object, const char *field);
extern void etcd_append_hex(StringInfo buf, const char *data, int len);
extern char *etcd_from_hex(const char *hex, int *len);

#endif							/* ETCD_FDW_DISPATCH_H */
