/*
 * session.h
 *	  The backend's session with the proxy, as channel.c and request.c use it.
 */
#ifndef ETCD_FDW_SESSION_H
#define ETCD_FDW_SESSION_H

#include "postgres.h"

#include "ipc/request.h"

/*
 * What the session is.  It carries what the proxy holds for the backend: staged
 * writes, locks, leases.  So nothing ends it but the end of the stream, a
 * breach of the protocol, or a PING that is not answered.
 *
 *	DOWN -> CONNECTING		somebody wants to ask the proxy
 *	CONNECTING -> UP		the socket is connected and its wait set made
 *	CONNECTING -> DOWN		an error on the way
 *	UP -> PROBING			a request was late: is anybody there?
 *	PROBING -> UP			the PONG has come
 *	UP, PROBING -> DOWN		the stream has ended or makes no sense, or no PONG came
 */
typedef enum EtcdSessionState
{
	ETCD_SESSION_DOWN,
	ETCD_SESSION_CONNECTING,
	ETCD_SESSION_UP,
	ETCD_SESSION_PROBING
} EtcdSessionState;

extern EtcdSessionState etcd_session_state(void);
extern uint64 etcd_session_generation(void);
extern void etcd_session_notice_end(void);
extern void etcd_session_ensure(void);
extern void etcd_session_close(void);
extern void etcd_session_flush(void);
extern Size etcd_session_unsent(void);
extern void etcd_session_probe(void);
extern void etcd_session_turn(TimestampTz until);
extern void etcd_session_queue(uint8 type, uint8 code, uint8 flags, uint32 channel, uint32 id, uint32 deadline,
							   const char *first, int first_len, const char *second, int second_len);
extern void etcd_session_tell(uint8 type, uint8 code, uint32 channel, uint32 id, const char *payload, int len);
extern void etcd_session_forget(EtcdRequest *request);

#endif							/* ETCD_FDW_SESSION_H */
