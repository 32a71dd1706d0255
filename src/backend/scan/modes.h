/*
 * modes.h
 *	  The settings under which values become text, and text becomes values.
 */
#ifndef ETCD_FDW_MODES_H
#define ETCD_FDW_MODES_H

#include "postgres.h"

/* What a type's input and output functions look at, beside their arguments. */
#define ETCD_MODE_DATE		1	/* DateStyle, IntervalStyle, timezone_abbreviations */
#define ETCD_MODE_ZONE		2	/* TimeZone */
#define ETCD_MODE_FLOAT		4	/* extra_float_digits */
#define ETCD_MODE_MONEY		8	/* lc_monetary */
#define ETCD_MODE_BYTES		16	/* bytea_output */
#define ETCD_MODE_NAMES		32	/* search_path */
#define ETCD_MODE_QUOTES	64	/* quote_all_identifiers */
#define ETCD_MODE_NULLS		128	/* array_nulls */
#define ETCD_MODE_XML		256	/* xmloption */

extern int	etcd_modes_of(Oid type);
extern int	etcd_modes_enter(int modes);
extern void etcd_modes_leave(int level);

#endif							/* ETCD_FDW_MODES_H */
