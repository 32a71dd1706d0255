// WatchResponse as the proxy reads it, and a watch's creation as it writes it. An event stays the bytes that etcd sent; only
// its revision is read.

import { toHex } from "../base/bytes.ts";
import { eachField, eachFieldInPieces } from "./ranges.ts";
import { encodeTxn } from "./txn.ts";
import { fieldSize, Out, varintSize, wideSize } from "./wire.ts";

/** mvccpb.Event, as far as its order needs it. */
export interface WatchedEvent {
  /** The store's revision that made it. */
  revision: bigint;
  /** The message itself. */
  raw: Uint8Array;
}

export interface WatchResponse {
  /** Of the watch on its stream, as decimal digits. */
  id: string;
  /** Of the header: the store's revision when the member wrote the response. */
  revision: bigint;
  created: boolean;
  canceled: boolean;
  /** Not 0 when the revision asked for was compacted: the oldest that can be read. */
  compactRevision: bigint;
  reason: string;
  /** More of the same response follows. */
  fragment: boolean;
  events: WatchedEvent[];
}

const HEADER = 1;
const HEADER_REVISION = 3;
const KV = 2;
const KV_KEY = 1;
const KV_MOD_REVISION = 3;

function revisionIn(message: Uint8Array, wanted: number): bigint {
  let revision = 0n;
  eachField(message, (field, reader) => {
    if (field !== wanted) return false;
    revision = BigInt(reader.int64());
    return true;
  });
  return revision;
}

function eventOf(raw: Uint8Array): WatchedEvent {
  let revision = 0n;
  eachField(raw, (field, reader) => {
    if (field !== KV) return false;
    revision = revisionIn(reader.bytes(), KV_MOD_REVISION);
    return true;
  });
  return { revision, raw };
}

/** Events that are read without a pause. */
const STRIDE = 256;
/** Their bytes that are written without a pause. */
const STRIDE_BYTES = 1024 * 1024;

/** Reads a WatchResponse, in pieces, since it may have very many events. Throws EtcdFdwError 08P01 for damaged bytes. */
export function* readWatchResponse(message: Uint8Array): Generator<undefined, WatchResponse, unknown> {
  const response: WatchResponse = {
    ...{ id: "0", revision: 0n, created: false, canceled: false, compactRevision: 0n },
    ...{ reason: "", fragment: false, events: [] },
  };
  yield* eachFieldInPieces(message, STRIDE, (field, reader) => {
    switch (field) {
      case HEADER:
        response.revision = revisionIn(reader.bytes(), HEADER_REVISION);
        break;
      case 2:
        response.id = String(reader.int64());
        break;
      case 3:
        response.created = reader.bool();
        break;
      case 4:
        response.canceled = reader.bool();
        break;
      case 5:
        response.compactRevision = BigInt(reader.int64());
        break;
      case 6:
        response.reason = reader.string();
        break;
      case 7:
        response.fragment = reader.bool();
        break;
      case 11:
        response.events.push(eventOf(reader.bytes()));
        break;
      default:
        return false;
    }
    return true;
  });
  return response;
}

/** The key of an event, in hexadecimal. */
function keyOf({ raw }: WatchedEvent): string {
  let key = "";
  eachField(raw, (field, reader) => {
    if (field !== KV) return false;
    eachField(reader.bytes(), (inner, kv) => {
      if (inner !== KV_KEY) return false;
      key = toHex(kv.bytes());
      return true;
    });
    return true;
  });
  return key;
}

/**
 * The newest event of each key, in their order, found in pieces. The events are in the order of their revisions. Throws
 * EtcdFdwError 08P01.
 */
export function* newestEvents(events: WatchedEvent[]): Generator<undefined, WatchedEvent[], unknown> {
  const newest = new Map<string, WatchedEvent>();
  for (const [i, event] of events.entries()) {
    const key = keyOf(event);
    newest.delete(key);
    newest.set(key, event);
    if (i % STRIDE === STRIDE - 1) yield;
  }
  return [...newest.values()];
}

/** The events as fields of a WatchResponse, one behind the other, in pieces. */
export function* encodeEvents(
  events: readonly WatchedEvent[],
): Generator<undefined, Uint8Array, unknown> {
  const out = new Out(events.reduce((size, { raw }) => size + fieldSize(raw.length), 0));
  yield* writeEvents(out, events);
  return out.bytes;
}

function* writeEvents(out: Out, events: readonly WatchedEvent[]): Generator<undefined, void, unknown> {
  let bytes = 0;
  for (const [i, { raw }] of events.entries()) {
    out.field(PAGE_EVENT, raw);
    bytes += raw.length;
    if (i % STRIDE !== STRIDE - 1 && bytes < STRIDE_BYTES) continue;
    bytes = 0;
    yield;
  }
}

/** What an event did: the KeyValue's bytes, of which a deletion's holds key and mod_revision alone. */
export function changeOf({ raw }: WatchedEvent): { deleted: boolean; kv: Uint8Array } {
  const change: { deleted: boolean; kv: Uint8Array } = { deleted: false, kv: new Uint8Array(0) };
  eachField(raw, (field, reader) => {
    if (field === 1) change.deleted = reader.int32() === 1;
    else if (field === KV) change.kv = reader.bytes();
    else return false;
    return true;
  });
  return change;
}

/** What is watched. */
export interface Watched {
  key: Uint8Array;
  /** As etcd has it: null for the key alone. */
  rangeEnd: Uint8Array | null;
  /** Whether events tell what was there before. */
  prev: boolean;
}

/**
 * A WatchRequest that creates a watch from a revision on. In fragments no response is larger than a request may be, but etcd
 * takes a time that grows with the square of their events to cut them: 20,000 small ones take it half a minute.
 */
export function encodeWatch(
  { key, rangeEnd, prev }: Watched,
  start: bigint,
  inFragments = false,
): Uint8Array {
  const size = fieldSize(key.length) + (rangeEnd === null ? 0 : fieldSize(rangeEnd.length)) +
    1 + wideSize(start) + (prev ? 2 : 0) + (inFragments ? 2 : 0);
  const out = new Out(fieldSize(size));
  out.open(1 << 3 | 2, size);
  out.field(1 << 3 | 2, key);
  if (rangeEnd !== null) out.field(2 << 3 | 2, rangeEnd);
  out.wide(3 << 3, start);
  if (prev) {
    out.varint(6 << 3);
    out.varint(1);
  }
  if (inFragments) {
    out.varint(8 << 3);
    out.varint(1);
  }
  return out.bytes;
}

/** A WatchRequest that ends a watch. */
export function encodeWatchEnd(id: string): Uint8Array {
  const size = 1 + wideSize(BigInt(id));
  const out = new Out(fieldSize(size));
  out.open(2 << 3 | 2, size);
  out.wide(1 << 3, BigInt(id));
  return out.bytes;
}

/** What a watcher is told: all events of its range behind the revision it named and up to this one. */
export interface WatchedPage {
  revision: bigint;
  events: readonly WatchedEvent[];
  /** Milliseconds of its waiting that are left; 0 when it is over, or when as many came as were wanted. */
  left: number;
  /** What did not fit, up to this revision, is there for the next page; 0 for nothing. */
  upto: bigint;
  /** Events of later revisions that are known already. */
  behind: number;
  /** The id of the cluster whose revisions these are; 0 when that is not known. */
  cluster: bigint;
}

const PAGE_REVISION = 1 << 3;
const PAGE_LEFT = 2 << 3;
const PAGE_UPTO = 3 << 3;
const PAGE_BEHIND = 4 << 3;
const PAGE_CLUSTER = 5 << 3;
const PAGE_EVENT = 11 << 3 | 2;

/** A message of our own, with the events where WatchResponse has them: revision 1, left 2, upto 3, behind 4, cluster 5, events 11. In pieces. */
export function* encodeWatchedPage(
  { revision, events, left, upto, behind, cluster }: WatchedPage,
): Generator<undefined, Uint8Array, unknown> {
  let size = 1 + wideSize(revision) + 1 + varintSize(left) + 1 + wideSize(upto) + 1 + varintSize(behind) + 1 +
    wideSize(cluster);
  for (const { raw } of events) size += fieldSize(raw.length);
  const out = new Out(size);
  out.wide(PAGE_REVISION, revision);
  out.varint(PAGE_LEFT);
  out.varint(left);
  out.wide(PAGE_UPTO, upto);
  out.varint(PAGE_BEHIND);
  out.varint(behind);
  out.wide(PAGE_CLUSTER, cluster);
  yield* writeEvents(out, events);
  return out.bytes;
}

/** Inverse of encodeWatchedPage(). */
export function* decodeWatchedPage(message: Uint8Array): Generator<undefined, WatchedPage, unknown> {
  const page = { revision: 0n, left: 0, upto: 0n, behind: 0, cluster: 0n, events: [] as WatchedEvent[] };
  yield* eachFieldInPieces(message, STRIDE, (field, reader) => {
    if (field === 1) page.revision = BigInt(reader.int64());
    else if (field === 2) page.left = Number(reader.int64());
    else if (field === 3) page.upto = BigInt(reader.int64());
    else if (field === 4) page.behind = Number(reader.int64());
    else if (field === 5) page.cluster = BigInt(reader.uint64());
    else if (field === 11) page.events.push(eventOf(reader.bytes()));
    else return false;
    return true;
  });
  return page;
}

/**
 * A READ_TXN that counts the keys of the range when none of them is newer than a revision. When it succeeds with as many
 * keys as there were at that revision, these are the same ones: keys can only have vanished otherwise.
 */
export function encodeUnchanged(
  { key, rangeEnd }: Pick<Watched, "key" | "rangeEnd">,
  revision: bigint,
): Uint8Array {
  const range = { key, rangeEnd: rangeEnd ?? undefined };
  return encodeTxn({
    compare: [{ ...range, target: "mod", result: "less", value: revision + 1n }],
    success: [{ range: { key, rangeEnd, countOnly: true } }],
    failure: [],
  });
}

/**
 * A READ_TXN that finds out whether the range may be read, and the store's revision, without reading it: its comparison
 * never holds, and etcd checks the rights for both branches.
 */
export function encodeProbe({ key, rangeEnd }: Pick<Watched, "key" | "rangeEnd">): Uint8Array {
  return encodeTxn({
    compare: [{ key, target: "version", result: "less", value: 0n }],
    success: [{ range: { key, rangeEnd, countOnly: true } }],
    failure: [],
  });
}
