/*
 * frame.h
 *	  Frames between backend and proxy; src/ipc/frame.ts describes them.
 */
#ifndef ETCD_FDW_FRAME_H
#define ETCD_FDW_FRAME_H

#define FRAME_VERSION		2
#define FRAME_HEADER		20
#define FRAME_MAX_PAYLOAD	(256 * 1024 * 1024)

#define FRAME_OPEN			1
#define FRAME_UNARY			2
#define FRAME_CANCEL		3
#define FRAME_CLOSE			4
#define FRAME_STAGE			5
#define FRAME_REPLY			16
#define FRAME_ERROR			17
#define FRAME_PONG			18
#define FRAME_PROGRESS		19

/* Of ipc's Method, those that make a difference here. */
#define METHOD_RANGE		1
#define METHOD_READ_TXN		6

#define METHOD_LEASE_TTL	9

/* Of ipc's ReadFlag. */
#define FRAME_FLAG_STAGED	1
#define FRAME_FLAG_RECORDED	2
#define FRAME_FLAG_ENDPOINT	4

/* Of ipc's StageCode, StageFlag and StageKind. */
#define STAGE_WRITE			1
#define STAGE_DELETE_RANGE	2
#define STAGE_ROLLBACK		3
#define STAGE_RELEASE		4
#define STAGE_COMMIT		5
#define STAGE_END			6
#define STAGE_GRANT			7
#define STAGE_CHECK			1
#define STAGE_IMMEDIATE		2
#define STAGE_RECORDED		4
#define STAGE_INSERT		1
#define STAGE_UPDATE		2
#define STAGE_DELETE		3
#define STAGE_UPSERT		4

/* Offsets of the fields in the header; all numbers are big-endian. */
#define FRAME_AT_LENGTH		0
#define FRAME_AT_VERSION	4
#define FRAME_AT_TYPE		5
#define FRAME_AT_CODE		6
#define FRAME_AT_FLAGS		7
#define FRAME_AT_CHANNEL	8
#define FRAME_AT_ID			12
#define FRAME_AT_DEADLINE	16

#endif							/* ETCD_FDW_FRAME_H */
