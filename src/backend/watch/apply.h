/*
 * apply.h
 *	  What a mirror's worker does in one transaction.
 */
#ifndef ETCD_FDW_APPLY_H
#define ETCD_FDW_APPLY_H

#include "postgres.h"

#include "etcd/page.h"
#include "watch/follower.h"

/* How far an attempt at the target has come. */
typedef enum EtcdMirrorStage
{
	ETCD_STAGE_REACHING,				/* etcd, and the target, have to be there */
	ETCD_STAGE_PUTTING,				/* rows are put */
	ETCD_STAGE_BUSY,					/* all is put, but somebody changes the mirror's row */
	ETCD_STAGE_DONE					/* the position is moved on, if the transaction commits */
} EtcdMirrorStage;

/* How a batch, or a snapshot, is put; each for what the one before was refused. */
typedef enum EtcdMirrorPace
{
	ETCD_PACE_AT_ONCE,
	ETCD_PACE_APART,			/* events as etcd came through them, snapshots by pages: finds the row that is refused */
	ETCD_PACE_CHECKED			/* the same where the commit was refused: constraints may put nothing off */
} EtcdMirrorPace;

/* What one attempt at the target works with, and finds out. */
typedef struct EtcdMirrorWork
{
	EtcdFollower *row;
	MemoryContext context;		/* that outlives the attempt */
	EtcdPage   *page;			/* of events */
	EtcdKeyValue *events;		/* all of the page, in etcd's order */
	uint32		nevents;
	EtcdKeyValue *kvs;			/* the last event of each key, in the order of keys */
	uint32		count;
	int64		position;		/* that is to be verified */
	int64		reached;		/* the revision that the target shows now */
	int64		differences;	/* rows that were put right */
	EtcdMirrorPace pace;
	struct EtcdLeftOut *left_out;	/* of this attempt */
	bool		row_changed;	/* it is to be read again */
	bool		strays;			/* etcd is another: what was said of its revisions means nothing */
	bool		merges;			/* several keys would be one row, which one by one does not show */
	EtcdMirrorStage stage;
	/* Of the row that was refused. */
	int64		bad_revision;
	const char *bad_key;
	int			bad_len;
	ErrorData  *error;
} EtcdMirrorWork;

extern void etcd_put_difference(EtcdMirrorWork *work);
extern bool etcd_mirror_is_compacted(const ErrorData *error);
extern bool etcd_mirror_refuses(const EtcdMirrorWork *work, const ErrorData *error);
extern void etcd_mirror_read_events(EtcdMirrorWork *work);

/* For etcd_attempt(); `arg` is an EtcdMirrorWork. */
extern void etcd_mirror_apply_events(void *arg);
extern void etcd_mirror_apply_snapshot(void *arg);
extern void etcd_mirror_apply_verification(void *arg);
extern void etcd_mirror_forget_position(void *arg);

#endif							/* ETCD_FDW_APPLY_H */
