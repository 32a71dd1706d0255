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
//       16     4  deadline UNARY, STAGE: milliseconds that are left for the request when the frame is written, 0 for
//                          no limit; otherwise 0
//
// All numbers are big-endian. Backend to proxy: OPEN (payload: OpenPayload as JSON in UTF-8; no answer, whatever
// fails fails the channel's requests), UNARY (payload: the protobuf request, answered by REPLY or ERROR), CANCEL
// (the id of a request; the proxy sends nothing for it any more, but an answer that was on its way may still come
// and is dropped by the receiver), CLOSE (no more requests come on the channel; those under way are still
// answered), STAGE (a transaction's writes, see stage.ts), PING (answered by PONG with the same id, past all queues).
// Proxy to backend: REPLY (payload: etcd's protobuf answer, untouched), ERROR (see errors.ts), PONG, PROGRESS (the
// request under way has got further: its time begins anew with all that it was sent with).
//
// An id is not 0, and not that of another request of the connection that has no answer yet. ERROR with id 0
// belongs to no request: the backend broke this protocol, and the proxy closes the connection behind it. What the
// proxy cannot take of a request (too large, no memory, malformed) is an ERROR for its id and for nothing else.
//
// Core writes a frame with channel and id zero; the backend, which owns the socket, fills them in. The deadline in core's
// frame is what the request may take beyond the server's request_timeout, because it waits for other clients: mostly 0,
// NO_LIMIT for ever. The build makes a C header of the constants (build/constants.ts).

import { EtcdFdwError } from "../base/errors.ts";
import { MAX_FRAME_BYTES } from "./limits.ts";

export const PROTOCOL_VERSION = 2;
export const HEADER_BYTES = 20;
/** Where the header's fields begin. */
export const HeaderAt = {
  ...{ LENGTH: 0, VERSION: 4, TYPE: 5, CODE: 6, FLAGS: 7, CHANNEL: 8, ID: 12, DEADLINE: 16 },
} as const;
/** In core's frames: the backend waits as long as it takes, and writes a deadline of 0. */
export const NO_LIMIT = 0xffffffff;

export const FrameType = {
  OPEN: 1,
  UNARY: 2,
  CANCEL: 3,
  CLOSE: 4,
  STAGE: 5,
  PING: 6,
  REPLY: 16,
  ERROR: 17,
  PONG: 18,
  PROGRESS: 19,
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
  /** A Txn that takes a place in a queue: who has it already keeps it, so it may be made again. */
  CLAIM: 38,
  LEADER: 39,
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
  WATCH: 144,
  CHANGES: 145,
  CACHES: 160,
} as const;

/** Of UNARY. */
export const ReadFlag = {
  /** The payload begins with the u32 of a command, whose transaction's own writes are laid over the answer. */
  STAGED: 1,
  /** What is read must still hold when the transaction commits. */
  RECORDED: 2,
  /** The payload begins with the u16 length of an endpoint's name and the name: that endpoint and no other is asked. */
  ENDPOINT: 4,
} as const;

export interface FrameHeader {
  type: number;
  code: number;
  /** 0 when absent. */
  flags?: number;
  channel: number;
  id: number;
  /** Milliseconds; 0, which is no limit, when absent. */
  deadline?: number;
}

export interface Frame extends FrameHeader {
  payload: Uint8Array;
}

/** A frame as it arrives. The payload of one that was refused is empty. */
export interface ReceivedFrame extends Frame {
  refusal?: EtcdFdwError;
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
  /** The longest request that etcd takes, in bytes; absent: its default. */
  maxRequestBytes?: number;
  /** False: etcd, or what stands in for it, knows no Txns within Txns. */
  nested?: boolean;
  /** What every key that is asked for begins with, in hexadecimal; absent: nothing. */
  prefix?: string;
  /** False: nothing may be written. */
  updatable?: boolean;
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

/** Writes the 20 bytes of the header to the start of `out`. */
export function writeHeader(out: Uint8Array, header: FrameHeader, length: number): void {
  const view = new DataView(out.buffer, out.byteOffset, HEADER_BYTES);
  view.setUint32(0, length);
  view.setUint8(4, PROTOCOL_VERSION);
  view.setUint8(5, header.type);
  view.setUint8(6, header.code);
  view.setUint8(7, header.flags ?? 0);
  view.setUint32(8, header.channel);
  view.setUint32(12, header.id);
  view.setUint32(16, header.deadline ?? 0);
}

/** The header at the start of the bytes. Throws EtcdFdwError 08P01 when it is of another version. */
function readHeader(bytes: Uint8Array): { header: Required<FrameHeader>; length: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  const version = view.getUint8(4);
  if (version !== PROTOCOL_VERSION) {
    throw new EtcdFdwError("08P01", `frame of protocol version ${version}, expected ${PROTOCOL_VERSION}`);
  }
  const header = {
    type: view.getUint8(5),
    code: view.getUint8(6),
    flags: view.getUint8(7),
    channel: view.getUint32(8),
    id: view.getUint32(12),
    deadline: view.getUint32(16),
  };
  return { header, length: view.getUint32(0) };
}

function frameTooLarge(length: number): EtcdFdwError {
  return new EtcdFdwError("54000", `request of ${length} bytes is larger than ${MAX_FRAME_BYTES} bytes`);
}

/** What of a frame's payload has arrived. */
interface Payload {
  header: Required<FrameHeader>;
  length: number;
  got: number;
  /** Null: it is read past, since the frame was refused. */
  bytes: Uint8Array | null;
}

/**
 * Cuts a byte stream into frames, whatever the sizes of the chunks it arrives in. A payload is a view of the
 * chunk where it arrived whole; where it did not, its memory is taken once, when its header has been read.
 */
export class FrameDecoder {
  readonly #admit: (header: FrameHeader, length: number) => void;
  readonly #head = new Uint8Array(HEADER_BYTES);
  #headGot = 0;
  #payload: Payload | null = null;

  /** `admit` throws EtcdFdwError for a payload that is not wanted: the frame is told at once, and its payload skipped. */
  constructor(admit: (header: FrameHeader, length: number) => void = () => {}) {
    this.#admit = admit;
  }

  /** Takes the next chunk and yields the frames that are complete. Throws EtcdFdwError 08P01 on a bad header. */
  *push(chunk: Uint8Array): Generator<ReceivedFrame> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#payload === null) {
        const took = Math.min(HEADER_BYTES - this.#headGot, chunk.length - at);
        this.#head.set(chunk.subarray(at, at + took), this.#headGot);
        this.#headGot += took;
        at += took;
        if (this.#headGot < HEADER_BYTES) return;
        this.#headGot = 0;
        const { header, length } = readHeader(this.#head);
        const refusal = this.#refusal(header, length);
        if (refusal === null && chunk.length - at >= length) {
          at += length;
          yield { ...header, payload: chunk.subarray(at - length, at) };
          continue;
        }
        if (refusal !== null) yield { ...header, payload: new Uint8Array(0), refusal };
        if (length === 0) continue;
        this.#payload = { header, length, got: 0, bytes: refusal ? null : new Uint8Array(length) };
      }
      const { header, length, got, bytes } = this.#payload;
      const took = Math.min(length - got, chunk.length - at);
      bytes?.set(chunk.subarray(at, at + took), got);
      this.#payload.got += took;
      at += took;
      if (this.#payload.got < length) return;
      this.#payload = null;
      if (bytes !== null) yield { ...header, payload: bytes };
    }
  }

  #refusal(header: FrameHeader, length: number): EtcdFdwError | null {
    if (length > MAX_FRAME_BYTES) return frameTooLarge(length);
    try {
      this.#admit(header, length);
      return null;
    } catch (thrown) {
      return EtcdFdwError.from(thrown);
    }
  }

  /** Bytes that have come of a frame that is not complete. */
  get buffered(): number {
    return this.#payload === null ? this.#headGot : HEADER_BYTES + this.#payload.got;
  }
}
