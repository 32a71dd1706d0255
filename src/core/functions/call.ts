// How an SQL function is written down: what it asks, and what it makes of the answer. Between two turns only its state
// lives, as text.

import { decodeUtf8, encodeUtf8, fromHex, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import type { KeyValueMessage } from "../../etcd/api.ts";
import { encodeFrame, FrameType, NO_LIMIT, ReadFlag } from "../../ipc/frame.ts";
import { type KeyRange, prefixRange, toEtcd } from "../../etcd/keyrange.ts";
import type { FailedInput, FunctionInput } from "../protocol.ts";

/** A value of a row: the literal of its type, or bytes for text and bytea. */
export type Cell = Uint8Array | string | number | boolean | null;
export type Row = Cell[];

/** A request, and what to do with its answer. */
export interface Ask {
  method: number;
  payload: Uint8Array;
  /** The endpoint to ask; without, any. */
  endpoint?: string;
  /** How long the answer may wait for other clients, in milliseconds; null for ever. */
  waits?: number | null;
  /**
   * The answer's keys are rows; "keys" leaves their values out; "bytes" makes one row of the answer, its place and itself;
   * "revision" its revision; "deleted" shows what a deletion's answer says was there; "events" those of a WatchedPage.
   */
  rows?: "rows" | "keys" | "bytes" | "revision" | "deleted" | "events";
  /** See FunctionCallAnswer. */
  template?: string[];
  /** An error comes to `failed`. */
  errors?: true;
  /** It is for the proxy, not for a server. */
  proxy?: true;
  /** It changes nothing, though its function may. */
  readonly?: true;
}

/** What a function says at each turn: its rows, or what it asks and the state it wants back. */
export type Turn<S> = { rows: Row[]; warning?: string } | { ask: Ask; state?: S };

/** What is known of a page whose rows the backend has taken. */
export interface PageInfo {
  revision: string;
  more: boolean;
  kvs: number;
  bytes: number;
  lastKey: Uint8Array;
  /** Of a WatchedPage. */
  left: string;
  upto: string;
}

/** An SQL function whose state between turns is an S, which must survive JSON. */
export interface SqlFunction<S = null> {
  /** It changes something in etcd, other than by giving back what the session holds. */
  writes?: true;
  begin(args: Args): Turn<S>;
  /** Gets the answer to what was asked. */
  reply?(reply: Uint8Array, state: S, args: Args): Turn<S>;
  /** After a page whose keys became rows. Absent: there is nothing behind it. */
  page?(page: PageInfo, state: S, args: Args): Turn<S>;
  /** After an error, where `ask.errors` wants it. */
  failed?(error: FailedInput, state: S, args: Args): Turn<S>;
}

/** A function of any state; the registry does not look into it. */
// deno-lint-ignore no-explicit-any -- each function gets back what it gave
export type AnyFunction = SqlFunction<any>;

/** The arguments, read by name and kind. */
export class Args {
  readonly function: string;
  readonly #args: FunctionInput["args"];

  constructor({ function: name, args }: FunctionInput) {
    this.function = name;
    this.#args = args;
  }

  has(name: string): boolean {
    return this.#args[name] !== undefined;
  }

  /** Of text and bytea. Throws EtcdFdwError 22004 when it is NULL. */
  bytes(name: string): Uint8Array {
    return this.optionalBytes(name) ?? this.#missing(name);
  }

  optionalBytes(name: string): Uint8Array | null {
    const hex = this.#args[name] as string | undefined;
    return hex === undefined ? null : fromHex(hex);
  }

  /** Of text in an array. */
  list(name: string): Uint8Array[] {
    return ((this.#args[name] as string[] | undefined) ?? this.#missing(name)).map(fromHex);
  }

  flag(name: string): boolean {
    return this.#args[name] === true;
  }

  /** A whole number as decimal digits, or an interval in milliseconds. Throws EtcdFdwError 22004 when it is NULL. */
  number(name: string): string {
    return this.optionalNumber(name) ?? this.#missing(name);
  }

  optionalNumber(name: string): string | undefined {
    return this.#args[name] as string | undefined;
  }

  json(name: string): unknown {
    return JSON.parse((this.#args[name] as string | undefined) ?? this.#missing(name));
  }

  /** Seconds of an interval, at least one, as leases count. Throws EtcdFdwError 22023 for none or less. */
  seconds(name: string): number {
    const seconds = Math.ceil(Number(this.number(name)) / 1000);
    if (seconds >= 1) return seconds;
    throw new EtcdFdwError("22023", `argument "${name}" of ${this.function}() must be a second or more`);
  }

  /** Milliseconds of an interval; null for NULL, which stands for ever. Throws EtcdFdwError 22023 for less than none. */
  patience(name: string): number | null {
    const given = this.optionalNumber(name);
    if (given === undefined) return null;
    if (!given.startsWith("-")) return Number(given);
    throw new EtcdFdwError("22023", `argument "${name}" of ${this.function}() must not be negative`);
  }

  /** Throws EtcdFdwError 22023 about an argument. */
  wrong(name: string, what: string, hint = ""): never {
    throw new EtcdFdwError("22023", `argument "${name}" of ${this.function}() ${what}`, { hint });
  }

  #missing(name: string): never {
    throw new EtcdFdwError("22004", `argument "${name}" of ${this.function}() must not be null`);
  }
}

/** The keys that key, prefix and range_end name. */
export function rangeOf(args: Args): { key: Uint8Array; rangeEnd: Uint8Array | null } {
  const key = args.bytes("key");
  const end = args.optionalBytes("range_end");
  if (args.flag("prefix")) {
    if (end !== null) args.wrong("range_end", "cannot be given together with prefix");
    return toEtcd(prefixRange(key));
  }
  if (end === null) return { key, rangeEnd: null };
  // As etcdctl: "\0" is the end of the key space; so is nothing, which etcd takes for a single key.
  const range: KeyRange = {
    start: key,
    end: end.length === 0 || end.length === 1 && end[0] === 0 ? null : end,
  };
  return {
    key: range.start.length === 0 ? Uint8Array.of(0) : range.start,
    rangeEnd: range.end ?? Uint8Array.of(0),
  };
}

/** The columns of a row that shows a key. */
export function keyRow(kv: KeyValueMessage): Row {
  return [kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease];
}

export const text = (value: string): Uint8Array => encodeUtf8(value);

/** What the request may take beyond the server's request_timeout, as a frame of core's tells it. */
function deadlineOf({ waits = 0 }: Ask): number {
  return waits === null ? NO_LIMIT : Math.min(waits, NO_LIMIT - 1);
}

/** The frame for what is asked. */
export function frameOf(ask: Ask): Uint8Array {
  const { method, endpoint } = ask;
  let { payload } = ask;
  if (endpoint !== undefined) {
    const name = encodeUtf8(endpoint);
    const named = new Uint8Array(2 + name.length + payload.length);
    named.set([name.length >> 8, name.length & 0xff]);
    named.set(name, 2);
    named.set(payload, 2 + name.length);
    payload = named;
  }
  return encodeFrame({
    type: FrameType.UNARY,
    code: method,
    flags: endpoint === undefined ? 0 : ReadFlag.ENDPOINT,
    channel: 0,
    id: 0,
    deadline: deadlineOf(ask),
    payload,
  });
}

/** The cell as C gets it. */
export function cellText(cell: Cell): string | null {
  if (cell === null) return null;
  return cell instanceof Uint8Array ? toHex(cell) : String(cell);
}

/** A function that makes one request and shows what comes of it. */
export function simple(
  ask: (args: Args) => Ask,
  rows: (reply: Uint8Array, args: Args) => Row[],
  more: { writes?: true } = {},
): SqlFunction {
  return {
    ...more,
    begin: (args) => ({ ask: ask(args) }),
    reply: (reply, _, args) => ({ rows: rows(reply, args) }),
  };
}

/** The payload of requests that say nothing. */
export const NOTHING = new Uint8Array(0);

/** An answer of the proxy's own; each function knows its shape. */
// deno-lint-ignore no-explicit-any -- as JSON.parse
export const jsonReply = (reply: Uint8Array): any => JSON.parse(decodeUtf8(reply));

/** The payload of a request to the proxy. */
export const jsonPayload = (request: Record<string, unknown>): Uint8Array =>
  encodeUtf8(JSON.stringify(request));
