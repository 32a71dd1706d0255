/*
 * setter.h
 *	  Who has given a setting its value, and for whom that counts.
 */
#ifndef ETCD_FDW_SETTER_H
#define ETCD_FDW_SETTER_H

#include "postgres.h"

#include "utils/guc.h"

extern bool etcd_acts_for_another(void);
extern bool etcd_is_trusted(Oid role);
extern Oid	etcd_setter(GucSource source);
extern bool etcd_setter_counts(Oid setter);
extern bool etcd_setter_counts_for(Oid setter, Oid userid, bool row_security);
extern void etcd_setter_recall(const char *name, Oid *setter);
extern void etcd_setters_loaded(void);

#endif							/* ETCD_FDW_SETTER_H */
