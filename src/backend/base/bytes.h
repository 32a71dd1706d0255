/*
 * bytes.h
 *	  Bytes in frames, messages and errors.
 */
#ifndef ETCD_FDW_BYTES_H
#define ETCD_FDW_BYTES_H

#include "postgres.h"

#include "lib/stringinfo.h"

extern uint32 etcd_get_uint32(const char *at);
extern void etcd_put_uint32(char *at, uint32 value);
extern void etcd_append_uint32(StringInfo buf, uint32 value);
extern void etcd_append_int64(StringInfo buf, int64 value);
extern void etcd_append_varint(StringInfo buf, uint64 value);
extern int	etcd_compare_bytes(const char *a, uint32 alen, const char *b, uint32 blen);
extern text *etcd_text_from_utf8(const char *data, uint32 len);
extern char *etcd_printable(const char *data, uint32 len);

#endif							/* ETCD_FDW_BYTES_H */
