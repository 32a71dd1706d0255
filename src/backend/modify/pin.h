/*
 * pin.h
 *	  The revision that a statement reads, from before its own writes.
 */
#ifndef ETCD_FDW_PIN_H
#define ETCD_FDW_PIN_H

#include "postgres.h"

#include "modify/modify.h"

extern void etcd_pin_revision(EtcdModify *modify);

#endif							/* ETCD_FDW_PIN_H */
