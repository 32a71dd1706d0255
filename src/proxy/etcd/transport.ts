// A connection to one endpoint of etcd, as the rest of the proxy sees it: bytes in, bytes out, and how a call ended as a
// value. channel.ts makes it of gRPC; a simulator makes it of nothing.

import type { TlsPayload } from "../../ipc/frame.ts";
import type { Deadline } from "../deadline.ts";
import type { CertificateInfo } from "../handle.ts";
import type { Room } from "../memory.ts";

/** A gRPC status other than OK. */
export interface Failure {
  code: number;
  /** etcd's text or the gRPC library's, which only its wording tells apart. */
  text: string;
}

/** How something ended. */
export type Outcome<T = Uint8Array> = { reply: T; failure?: undefined } | {
  reply?: undefined;
  failure: Failure;
};

/** A stream of replies. */
export interface Incoming {
  /** A null reply is the end. */
  next(): Promise<Outcome<Uint8Array | null>>;
  cancel(): void;
}

/** Who calls: the token that etcd gave, null without a user or where etcd asks for none. */
export interface Login {
  readonly token: string | null;
}

export interface CallOptions {
  login: Login;
  deadline: Deadline;
  signal?: AbortSignal;
  /** A member without a leader answers too; without, it refuses at once, so that another one can be asked. */
  leaderless?: true;
}

/** As in gRPC. */
export const State = { IDLE: 0, CONNECTING: 1, READY: 2, TRANSIENT_FAILURE: 3, SHUTDOWN: 4 } as const;
export type State = typeof State[keyof typeof State];

export interface Channel {
  readonly endpoint: string;
  /** Starts to connect if nothing did, and tells the state. */
  connect(): State;
  /**
   * Calls back once when the state is no longer `from`; not at all when that never happens. A channel that is
   * closed counts as changed.
   */
  onChange(from: State, changed: (state: State) => void): void;
  /** Why the last attempt to connect failed, for each address of the host. */
  connectError(): Promise<string>;
  /**
   * One unary call. Never rejects; an aborted signal ends it with CANCELLED. One that is given up, or late, may come to its
   * end at etcd all the same.
   */
  call(path: string, payload: Uint8Array, options: CallOptions): Promise<Outcome>;
  /**
   * Opens a stream in both directions, sends these messages and waits for a reply for which `heard` says true. Rejects with
   * nothing but what `heard` rejects with; an aborted signal ends it with CANCELLED, and so does a stream that ends before.
   */
  converse(path: string, payloads: Uint8Array[], options: CallOptions, heard: Hear): Promise<Outcome>;
  /** Opens a stream of replies, each of which is read when it is asked for. */
  receive(path: string, payload: Uint8Array, options: CallOptions): Incoming;
  /** Asks for a user's token; null when etcd has authentication switched off. Never rejects. */
  login(username: string, password: string, deadline: Deadline): Promise<Outcome<string | null>>;
  /** Frees the connection as soon as the calls on it have ended. */
  close(): void;
}

/** `say` sends a further message on the stream. While it takes its time, no further reply is taken; its failure is the call's. */
export type Hear = (reply: Uint8Array, say: (message: Uint8Array) => void) => boolean | Promise<boolean>;

export interface Transport {
  /** Does not connect before Channel.connect. Throws EtcdFdwError 22023 for options that cannot be used. */
  dial(endpoint: string, tls?: TlsPayload): Channel;
  /** The certificates in an endpoint's handshake, its own first; none when it cannot be reached in time. */
  certificates(endpoint: string, tls: TlsPayload, timeoutMs: number): Promise<CertificateInfo[]>;
  /** Large replies ask for this room from now on. */
  meter?(room: Room): void;
}
