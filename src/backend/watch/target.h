/*
 * target.h
 *	  How a mirror's foreign table maps to its target: checks, and statements.
 */
#ifndef ETCD_FDW_TARGET_H
#define ETCD_FDW_TARGET_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "watch/follower.h"

/* The statements of a mirror, with every name qualified. */
typedef struct EtcdTarget
{
	char	   *name;			/* of the target, qualified and quoted */
	char	   *delete_gone;	/* rows whose keys the source shows */
	char	   *delete_filtered;	/* rows that the filter leaves out; NULL without one */
	char	   *delete_others;	/* rows that the source does not show */
	char	   *upsert;			/* what the source shows */
	char	   *repair;			/* the same without rows that are there: their triggers would run for nothing */
	/* For when one of these is refused. */
	char	   *all;			/* the source's rows with all columns */
	char	   *others;			/* rows that the source does not show: tableoid, ctid, and the key as a text */
	char	   *delete_row;		/* by tableoid and ctid */
	char	   *is_row;			/* whether that row's key is one that the source shows */
} EtcdTarget;

extern char *etcd_qualify_filter(Oid source, const char *filter);
extern void etcd_check_kind(const EtcdFollower *mirror);
extern List *etcd_check_target(const EtcdFollower *mirror, List *key_attnums);
extern void etcd_describe_mapping(StringInfo buf, const EtcdFollower *mirror);
extern void etcd_check_statements(const EtcdFollower *mirror);
extern EtcdTarget *etcd_target_statements(const EtcdFollower *mirror);

#endif							/* ETCD_FDW_TARGET_H */
