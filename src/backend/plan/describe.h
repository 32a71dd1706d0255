/*
 * describe.h
 *	  Describes a foreign table to core.
 */
#ifndef ETCD_FDW_DESCRIBE_H
#define ETCD_FDW_DESCRIBE_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "utils/rel.h"

extern void etcd_describe_table(StringInfo buf, Relation relation, Bitmapset *used);

#endif							/* ETCD_FDW_DESCRIBE_H */
