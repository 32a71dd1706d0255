// A cluster as the sessions use it: what proxy/etcd offers, without gRPC in it.

import { EtcdFdwError } from "../base/errors.ts";
import type { Place, Standing } from "../etcd/queue.ts";
import type { Watched } from "../etcd/watch.ts";
import type { Deadline } from "./deadline.ts";
import type { TransactionOptions } from "./txn/transaction.ts";

/** etcd has not answered in time. */
export class LateError extends EtcdFdwError {}

/** What became of a write whose answer cannot be read is not known. */
export function undecided(error: EtcdFdwError): EtcdFdwError {
  if (error.sqlstate !== "08P01") return error;
  return new EtcdFdwError("08007", error.message, {
    detail: "Whether the write took effect is not known.",
    hint: "Read the rows concerned before you write them again.",
    cause: error,
  });
}

export interface CallOptions {
  signal?: AbortSignal;
  /** Until when; absent: the server's request_timeout from now. */
  deadline?: Deadline;
  /** Ask this endpoint and no other. */
  endpoint?: string;
}

/** An answer that comes in parts, each when it is asked for. */
export interface PartedAnswer {
  /** The next part, at least one message; null behind the last one. Rejects with EtcdFdwError. */
  next(): Promise<Uint8Array | null>;
  close(): void;
}

/** A certificate that an endpoint or an option shows. Times in milliseconds since the epoch. */
export interface CertificateInfo {
  /** "peer", "peer-chain", "cafile" or "certfile". */
  source: string;
  /** Empty for the options' files. */
  endpoint: string;
  subject: string;
  issuer: string;
  notBefore: number;
  notAfter: number;
}

/** Whose calls they are, for statistics. */
export interface Label {
  database: string;
  server: string;
  role: string;
}

export interface WatchRequest extends Watched {
  /** Events of later revisions are wanted; null: of those that come from now on. */
  after: bigint | null;
  /** How long to wait for `enough` events, in milliseconds; Infinity for ever. */
  wait: number;
  enough: number;
  /** What an answer may hold at most, a revision's events apart. */
  count: number;
  /** What an answer may hold; the rest is there for the next one. */
  bytes: number;
  /** Events of later revisions are not wanted; null for all. */
  upto: bigint | null;
  /** `after` was told by etcd before: a store that has not come so far is another one, or was restored. */
  known: boolean;
  /** Is told how much an answer will bring before it is made: null when it may be, or what resolves when it may. */
  turn?: (bytes: number) => Promise<void> | null;
}

export interface ClusterHandle {
  /** How its transactions are written. */
  readonly staging: TransactionOptions;
  readonly endpoints: readonly string[];
  readonly label: Label;
  /** The same object for handles that reach the same cluster as the same user. */
  readonly cluster: object;
  /** etcd's name of the user; empty for none. */
  readonly user: string;
  /** The server's request_timeout. */
  readonly requestTimeout: number;
  /** Throws EtcdFdwError for what the server's options forbid; call() does so by itself. */
  check(method: number, payload: Uint8Array): void;
  /** etcd's answer. Rejects with EtcdFdwError, promptly when the signal is aborted. */
  call(method: number, payload: Uint8Array, options?: CallOptions): Promise<Uint8Array>;
  /**
   * All events of a range from a revision on up to now: a WatchCreateRequest in, a WatchReply out. Start revision 0 is
   * the oldest that is kept; the reply's compact_revision says which that was.
   */
  events(request: Uint8Array, options?: CallOptions): Promise<Uint8Array>;
  /**
   * The newest event of each key from a revision on up to now, in the order of the revisions: a WatchCreateRequest in, a
   * WatchedPage out. Rejects with 22023 when events have been compacted away.
   */
  changes(request: Uint8Array, options?: CallOptions): Promise<Uint8Array>;
  /** Events behind a revision, as they come: a WatchedPage. Rejects as Hub.read() does. */
  watch(request: WatchRequest, options?: CallOptions): Promise<Uint8Array>;
  /** The first leader of an election that differs from the one at the revision, as a LeaderReply; null when there is none in time. */
  observe(election: Uint8Array, revision: bigint, options?: CallOptions): Promise<Uint8Array | null>;
  /** Waits until a place in a queue stands so, or is gone; that it takes long says nothing about etcd. */
  stand(place: Place, wanted: "FIRST" | "GONE", options?: CallOptions): Promise<Standing>;
  /** A snapshot of the endpoint in use: its bytes. */
  snapshot(options?: CallOptions): Promise<PartedAnswer>;
  /** What etcd and the options show; nothing without TLS. */
  certificates(): Promise<CertificateInfo[]>;
  /** Counts a transaction that was committed. */
  noteTransaction(): void;
  /** Another handle on the same. */
  share(): ClusterHandle;
  close(): void;
}
