// Frames on the Unix socket between a PostgreSQL backend and the proxy.
//
//   offset  size  field
//        0     4  length   of the payload that follows the header, in bytes
//        4     1  version  of this protocol, PROTOCOL_VERSION
//        5     1  type     one of FrameType
//        6     1  code     UNARY: one of Method; STAGE: one of StageCode; otherwise 0
//        7     1  flags    UNARY: see ReadFlag; otherwise 0
//        8     4  channel  a number that the backend chose in OPEN
//       12     4  id       of the request; its answer carries the same
//
// All numbers are big-endian. Backend to proxy: OPEN (payload: OpenPayload as JSON in UTF-8; no answer, whatever
// fails fails the channel's requests), UNARY (payload: the protobuf request, answered by REPLY or ERROR), CANCEL
// (the id of a request; the proxy sends nothing for it any more, but an answer that was on its way may still come
// and is dropped by the receiver), CLOSE (no more requests come on the channel; those under way are still
// answered), STAGE (a transaction's writes, see stage.ts). Proxy to backend: REPLY (payload: etcd's protobuf answer, untouched), ERROR (see errors.ts).
//
// An id is not 0, and not that of another request of the connection that has no answer yet. ERROR with id 0
// belongs to no request: the backend broke this protocol, and the proxy closes the connection behind it.
//
// Core writes a frame with channel and id zero; the backend, which owns the socket, fills them in.
// src/backend/ipc/frame.h states the same layout for C.

import { EtcdFdwError } from "../base/errors.ts";
import { MAX_FRAME_BYTES } from "./limits.ts";

export const PROTOCOL_VERSION = 1;
export const HEADER_BYTES = 16;

export const FrameType = {
  OPEN: 1,
  UNARY: 2,
  CANCEL: 3,
  CLOSE: 4,
  STAGE: 5,
  REPLY: 16,
  ERROR: 17,
} as const;

/** etcd's unary calls by number. The proxy maps them to gRPC paths. */
export const Method = {
  RANGE: 1,
  PUT: 2,
  DELETE_RANGE: 3,
  TXN: 4,
  COMPACT: 5,
  /** A Txn that only reads: it may be asked again when its answer is lost. */
  READ_TXN: 6,
  LEASE_GRANT: 7,
  LEASE_REVOKE: 8,
  LEASE_TTL: 9,
  LEASE_KEEPALIVE: 10,
  LEASES: 11,
  MEMBER_ADD: 12,
  MEMBER_REMOVE: 13,
  MEMBER_UPDATE: 14,
  MEMBER_LIST: 15,
  MEMBER_PROMOTE: 16,
  ALARM: 17,
  STATUS: 18,
  DEFRAGMENT: 19,
  HASH_KV: 20,
  MOVE_LEADER: 21,
  AUTH_ENABLE: 22,
  AUTH_DISABLE: 23,
  AUTH_STATUS: 24,
  USER_ADD: 25,
  USER_GET: 26,
  USER_LIST: 27,
  USER_DELETE: 28,
  USER_PASSWORD: 29,
  USER_GRANT_ROLE: 30,
  USER_REVOKE_ROLE: 31,
  ROLE_ADD: 32,
  ROLE_GET: 33,
  ROLE_LIST: 34,
  ROLE_DELETE: 35,
  ROLE_GRANT: 36,
  ROLE_REVOKE: 37,
  LOCK: 38,
  UNLOCK: 39,
  CAMPAIGN: 40,
  PROCLAIM: 41,
  LEADER: 42,
  RESIGN: 43,
} as const;

/** What the proxy answers itself, in UNARY frames as well: JSON in and out unless asks.ts says otherwise. */
export const Ask = {
  ENDPOINTS: 128,
  EVENTS: 129,
  OBSERVE: 130,
  SNAPSHOT: 131,
  CERTIFICATES: 132,
  LEASE_KEEP: 133,
  LEASE_RELEASE: 134,
  LOCK: 135,
  UNLOCK: 136,
  CAMPAIGN: 137,
  PROCLAIM: 138,
  RESIGN: 139,
  HELD: 140,
  STAT: 141,
  STAT_RESET: 142,
  PROXY: 143,
} as const;

/** Of UNARY. */
export const ReadFlag = {
  /** The payload begins with the u32 of a command, whose transaction's own writes are laid over the answer. */
  STAGED: 1,
  /** What is read must still hold when the transaction commits. */
  RECORDED: 2,
  /** The payload begins with the u16 length of an endpoint's name and the name: that endpoint and no other is asked. */
  ENDPOINT: 4,
  /** The answer may take as long as it takes: it waits for other clients. */
  WAITS: 8,
} as const;

export interface Frame {
  type: number;
  code: number;
  /** 0 when absent. */
  flags?: number;
  channel: number;
  id: number;
  payload: Uint8Array;
}

/** Payload of OPEN. Times in milliseconds. */
export interface OpenPayload {
  /** host:port each, in the order of preference. */
  endpoints: string[];
  connectTimeout: number;
  requestTimeout: number;
  /** Passes over all endpoints beyond the first, for reads and for what was never sent. */
  maxRetries: number;
  /** Pause before the first of these, which grows by as much with each. */
  retryBackoff: number;
  /** Operations that etcd takes in one Txn. */
  maxTxnOps: number;
  /** Whether a transaction that needs more is refused. */
  requireAtomic: boolean;
  /** Bytes that etcd takes in one request; absent: etcd's default. */
  maxRequestBytes?: number;
  /** Whether etcd knows nested Txns; absent: it does. */
  nested?: boolean;
  /** What a transaction may hold in the proxy. */
  maxStagedBytes: number;
  username?: string;
  password?: string;
  /** The database, the foreign server and the role, for statistics. */
  database: string;
  server: string;
  role: string;
  /** Absent: no TLS. */
  tls?: TlsPayload;
}

/** How to speak TLS; files as PEM text. */
export interface TlsPayload {
  /** Absent: the certificates that the machine trusts. */
  ca?: string;
  cert?: string;
  /** Absent: it stands in the certificate's file. */
  key?: string;
  /** The name that etcd's certificate must have; absent: the endpoint's host. */
  servername?: string;
  verify: boolean;
}

/** The frame as bytes. Throws EtcdFdwError 54000 when the payload is larger than a frame may be. */
export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  const { payload } = frame;
  if (payload.length > MAX_FRAME_BYTES) {
    throw new EtcdFdwError(
      "54000",
      `frame of ${payload.length} bytes is larger than ${MAX_FRAME_BYTES} bytes`,
    );
  }
  const out = new Uint8Array(HEADER_BYTES + payload.length);
  writeHeader(out, frame, payload.length);
  out.set(payload, HEADER_BYTES);
  return out;
}

/** Writes the 16 bytes of the header to the start of `out`. */
export function writeHeader(out: Uint8Array, frame: Omit<Frame, "payload">, length: number): void {
  const view = new DataView(out.buffer, out.byteOffset, HEADER_BYTES);
  view.setUint32(0, length);
  view.setUint8(4, PROTOCOL_VERSION);
  view.setUint8(5, frame.type);
  view.setUint8(6, frame.code);
  view.setUint8(7, frame.flags ?? 0);
  view.setUint32(8, frame.channel);
  view.setUint32(12, frame.id);
}

/**
 * Cuts a byte stream into frames, whatever the sizes of the chunks it arrives in. A payload is a view of the
 * chunk where it arrived whole, a copy where it did not.
 */
export class FrameDecoder {
  #chunks: Uint8Array[] = [];
  #buffered = 0;

  /** Takes the next chunk and yields the frames that are complete. Throws EtcdFdwError 08P01 on a bad header. */
  *push(chunk: Uint8Array): Generator<Frame> {
    if (chunk.length > 0) this.#chunks.push(chunk);
    this.#buffered += chunk.length;
    while (this.#buffered >= HEADER_BYTES) {
      const head = this.#peek(HEADER_BYTES);
      const view = new DataView(head.buffer, head.byteOffset, HEADER_BYTES);
      const length = view.getUint32(0);
      if (view.getUint8(4) !== PROTOCOL_VERSION) {
        throw new EtcdFdwError(
          "08P01",
          `frame of protocol version ${view.getUint8(4)}, expected ${PROTOCOL_VERSION}`,
        );
      }
      if (length > MAX_FRAME_BYTES) {
        throw new EtcdFdwError("08P01", `frame announces ${length} bytes, more than ${MAX_FRAME_BYTES}`);
      }
      if (this.#buffered < HEADER_BYTES + length) return;
      const whole = this.#take(HEADER_BYTES + length);
      const fields = new DataView(whole.buffer, whole.byteOffset, HEADER_BYTES);
      yield {
        type: fields.getUint8(5),
        code: fields.getUint8(6),
        flags: fields.getUint8(7),
        channel: fields.getUint32(8),
        id: fields.getUint32(12),
        payload: whole.subarray(HEADER_BYTES),
      };
    }
  }

  /** Bytes that wait for the rest of their frame. */
  get buffered(): number {
    return this.#buffered;
  }

  #peek(length: number): Uint8Array {
    if (this.#chunks[0].length >= length) return this.#chunks[0];
    this.#join();
    return this.#chunks[0];
  }

  #take(length: number): Uint8Array {
    if (this.#chunks[0].length < length) this.#join();
    const first = this.#chunks[0];
    this.#buffered -= length;
    if (first.length === length) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(length);
    return first.subarray(0, length);
  }

  #join(): void {
    const out = new Uint8Array(this.#buffered);
    let at = 0;
    for (const chunk of this.#chunks) {
      out.set(chunk, at);
      at += chunk.length;
    }
    this.#chunks = [out];
  }
}
