/*
 * subscribe.h
 *	  What the SQL functions of subscriptions and mirrors have in common.
 */
#ifndef ETCD_FDW_SUBSCRIBE_H
#define ETCD_FDW_SUBSCRIBE_H

#include "postgres.h"

#include "core/dispatch.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "utils/lsyscache.h"
#include "watch/follower.h"

extern char *etcd_text_arg(FunctionCallInfo fcinfo, int number);
extern char *etcd_name_arg(FunctionCallInfo fcinfo, const char *function);
extern void etcd_check_key_arg(const char *value, const char *argument, const char *function);
extern char *etcd_server_arg(const char *name, const char *function);
extern List *etcd_read_followed(EtcdFollower *follower, EtcdAnswer *answer);
extern void etcd_try_follower(const EtcdFollower *follower);
extern EtcdFollower *etcd_own_follower(const char *name, EtcdFollowerKind kind, bool any_kind);

#endif							/* ETCD_FDW_SUBSCRIBE_H */
