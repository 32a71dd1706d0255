/*
 * option_parse.h
 *	  What the values of options look like.
 */
#ifndef ETCD_FDW_OPTION_PARSE_H
#define ETCD_FDW_OPTION_PARSE_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef enum OptionKind
{
	KIND_TEXT,
	KIND_NONEMPTY,
	KIND_BOOL,
	KIND_ENDPOINTS,
	KIND_SECONDS,
	KIND_MILLISECONDS,
	KIND_COUNT,
	KIND_FILE,
	KIND_REVISION,
	KIND_CONSISTENCY,
	KIND_ROWID,
	KIND_MISMATCH,
	KIND_ATOMIC,
	KIND_WRITE_MODE,
	KIND_POSITIVE,
	KIND_PERIOD,
	KIND_BYTES,
	KIND_PATTERN,
	KIND_PATH
} OptionKind;

/* What the endpoints of one list say about TLS. */
typedef enum EndpointScheme
{
	SCHEME_NONE,				/* host:port alone */
	SCHEME_HTTP,
	SCHEME_HTTPS
} EndpointScheme;

extern void option_check_value(const char *name, OptionKind kind, const char *value);
extern List *option_parse_endpoints(const char *name, const char *value, EndpointScheme *scheme);
extern int	option_parse_number(const char *name, OptionKind kind, const char *value);
extern bool option_parse_consistency(const char *value, const char **canonical);

#endif							/* ETCD_FDW_OPTION_PARSE_H */
