/*
 * input.h
 *	  Values of the query as core takes them.
 */
#ifndef ETCD_FDW_INPUT_H
#define ETCD_FDW_INPUT_H

#include "postgres.h"

#include "lib/stringinfo.h"

extern void etcd_append_param(StringInfo buf, Datum value, Oid type);

#endif							/* ETCD_FDW_INPUT_H */
