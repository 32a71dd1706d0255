// RangeRequest and RangeResponse as the proxy reads and writes them when a transaction's own writes lie over them. A key
// with its value stays the bytes that etcd sent; only what decides where it stands is read.

import { BinaryReader } from "@bufbuild/protobuf/wire";
import { decodeUtf8 } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import {
  CACHE_FIELD,
  CACHED_MARK,
  type Order,
  ORDER_DESCEND,
  type RangeRequest,
  SORT_TARGETS,
} from "./messages.ts";
import { fieldSize, Out, wideSize } from "./wire.ts";

/** mvccpb.KeyValue, as far as overlaying needs it. */
export interface KeyRow {
  key: Uint8Array;
  createRevision: bigint;
  modRevision: bigint;
  version: bigint;
  lease: bigint;
  value: Uint8Array;
  /** The message itself. */
  raw: Uint8Array;
}

export interface RangeResponse {
  /** The response's header, as it came. */
  header: Uint8Array;
  /** Of the header: the store's when it answered. Behind a request that names a revision, that is not what was read. */
  revision: bigint;
  rows: KeyRow[];
  more: boolean;
  count: bigint;
}

const EMPTY = new Uint8Array(0);

/** Visits each field of a message; what `take` does not read is skipped. Throws EtcdFdwError 08P01 for damaged bytes. */
export function eachField(message: Uint8Array, take: (field: number, reader: BinaryReader) => boolean): void {
  const reader = new BinaryReader(message, decodeUtf8);
  try {
    while (reader.pos < reader.len) {
      const [field, wire] = reader.tag();
      if (!take(field, reader)) reader.skip(wire, field);
    }
  } catch (cause) {
    throw new EtcdFdwError("08P01", "invalid message of etcd's protocol", { cause });
  }
}

/** The same in pieces, for messages with very many fields. */
export function* eachFieldInPieces(
  message: Uint8Array,
  stride: number,
  take: (field: number, reader: BinaryReader) => boolean,
): Generator<undefined, void, unknown> {
  const reader = new BinaryReader(message, decodeUtf8);
  try {
    for (let read = 1; reader.pos < reader.len; read++) {
      const [field, wire] = reader.tag();
      if (!take(field, reader)) reader.skip(wire, field);
      if (read % stride === 0) yield;
    }
  } catch (cause) {
    throw new EtcdFdwError("08P01", "invalid message of etcd's protocol", { cause });
  }
}

/** Inverse of encodeRangeRequest(). */
export function decodeRangeRequest(message: Uint8Array): RangeRequest {
  const request: RangeRequest = { key: EMPTY, rangeEnd: null };
  let direction = 0;
  let target = 0;
  eachField(message, (field, reader) => {
    switch (field) {
      case 1:
        request.key = reader.bytes();
        break;
      case 2:
        request.rangeEnd = reader.bytes();
        break;
      case 3:
        request.limit = Number(reader.int64());
        break;
      case 4:
        request.revision = String(reader.int64());
        break;
      case 5:
        direction = reader.int32();
        break;
      case 6:
        target = reader.int32();
        break;
      case 7:
        request.serializable = reader.bool();
        break;
      case 8:
        request.keysOnly = reader.bool();
        break;
      case 9:
        request.countOnly = reader.bool();
        break;
      case 10:
        request.minModRevision = String(reader.int64());
        break;
      case 11:
        request.maxModRevision = String(reader.int64());
        break;
      case 12:
        request.minCreateRevision = String(reader.int64());
        break;
      case 13:
        request.maxCreateRevision = String(reader.int64());
        break;
      case CACHE_FIELD:
        request.cache = reader.bytes();
        break;
      default:
        return false;
    }
    return true;
  });
  if (direction !== 0) {
    const order: Order = { target: SORT_TARGETS[target], descending: direction === ORDER_DESCEND };
    request.order = order;
  }
  return request;
}

export function decodeKeyRow(raw: Uint8Array): KeyRow {
  const row: KeyRow = {
    ...{ key: EMPTY, value: EMPTY, raw },
    ...{ createRevision: 0n, modRevision: 0n, version: 0n, lease: 0n },
  };
  eachField(raw, (field, reader) => {
    switch (field) {
      case 1:
        row.key = reader.bytes();
        break;
      case 2:
        row.createRevision = BigInt(reader.int64());
        break;
      case 3:
        row.modRevision = BigInt(reader.int64());
        break;
      case 4:
        row.version = BigInt(reader.int64());
        break;
      case 5:
        row.value = reader.bytes();
        break;
      case 6:
        row.lease = BigInt(reader.int64());
        break;
      default:
        return false;
    }
    return true;
  });
  return row;
}

/** A row that etcd does not hold: its message is made. A revision of 0 stands for none. */
export function makeKeyRow(row: Omit<KeyRow, "raw">): KeyRow {
  const numbers: [number, bigint][] = [[2, row.createRevision], [3, row.modRevision], [4, row.version]];
  const wide = (value: bigint) => value === 0n ? 0 : 1 + wideSize(value);
  const size = fieldSize(row.key.length) + numbers.reduce((sum, [, value]) => sum + wide(value), 0) +
    (row.value.length > 0 ? fieldSize(row.value.length) : 0) + wide(row.lease);
  const out = new Out(size);
  out.field(1 << 3 | 2, row.key);
  for (const [field, value] of numbers) if (value !== 0n) out.wide(field << 3, value);
  if (row.value.length > 0) out.field(5 << 3 | 2, row.value);
  if (row.lease !== 0n) out.wide(6 << 3, row.lease);
  return { ...row, raw: out.bytes };
}

/** Which store answered, and where it stands. */
export interface Standing {
  /** Of the cluster. */
  cluster: bigint;
  revision: bigint;
  /** Of Raft; it never falls. */
  term: bigint;
}

/** What a ResponseHeader says of the store. */
export function headerStanding(header: Uint8Array): Standing {
  const standing = { cluster: 0n, revision: 0n, term: 0n };
  eachField(header, (field, reader) => {
    if (field === 1) standing.cluster = BigInt(reader.uint64());
    else if (field === 3) standing.revision = BigInt(reader.int64());
    else if (field === 4) standing.term = BigInt(reader.uint64());
    else return false;
    return true;
  });
  return standing;
}

/** The revision in a ResponseHeader. */
export const headerRevision = (header: Uint8Array): bigint => headerStanding(header).revision;

/** The header in front of any of etcd's answers; zeros when there is none. */
export function answerHeader(message: Uint8Array): Standing {
  if (message[0] !== (1 << 3 | 2)) return headerStanding(EMPTY);
  const reader = new BinaryReader(message, decodeUtf8);
  reader.tag();
  return headerStanding(reader.bytes());
}

export function decodeRangeResponse(message: Uint8Array): RangeResponse {
  const response: RangeResponse = { header: EMPTY, revision: 0n, rows: [], more: false, count: 0n };
  eachField(message, (field, reader) => {
    if (field === 1) response.header = reader.bytes();
    else if (field === 2) response.rows.push(decodeKeyRow(reader.bytes()));
    else if (field === 3) response.more = reader.bool();
    else if (field === 4) response.count = BigInt(reader.int64());
    else return false;
    return true;
  });
  response.revision = headerRevision(response.header);
  return response;
}

/** A RangeResponse whose rows are not looked into. */
export interface Page extends Omit<RangeResponse, "rows" | "revision"> {
  /** That was read. */
  revision: bigint;
  /** The KeyValues' bytes. */
  rows: Uint8Array[];
  /** A cache has answered. */
  cached?: boolean;
}

/** Rows that are taken without a pause. */
const PAGE_STRIDE = 1024;

/**
 * Reads a RangeResponse, in pieces: it may have very many rows. Throws EtcdFdwError 08P01.
 *
 * @param named The revision that the request asked for; undefined: the latest, which only then the header tells.
 */
export function* decodePage(
  message: Uint8Array,
  named: string | undefined,
): Generator<undefined, Page, unknown> {
  const page: Page = { header: EMPTY, revision: 0n, rows: [], more: false, count: 0n };
  const reader = new BinaryReader(message, decodeUtf8);
  try {
    while (reader.pos < reader.len) {
      const [field, wire] = reader.tag();
      if (field === 2) {
        page.rows.push(reader.bytes());
        if (page.rows.length % PAGE_STRIDE === 0) yield;
      } else if (field === 1) page.header = reader.bytes();
      else if (field === 3) page.more = reader.bool();
      else if (field === 4) page.count = BigInt(reader.int64());
      else if (field === CACHE_FIELD) page.cached = reader.bool();
      else reader.skip(wire, field);
    }
  } catch (cause) {
    throw new EtcdFdwError("08P01", "invalid message of etcd's protocol", { cause });
  }
  page.revision = named === undefined ? headerRevision(page.header) : BigInt(named);
  return page;
}

/** The key in a KeyValue, which etcd sends first. */
export function keyOf(raw: Uint8Array): Uint8Array {
  if (raw[0] !== (1 << 3 | 2)) return decodeKeyRow(raw).key;
  let length = 0;
  let at = 1;
  for (let shift = 0;; shift += 7) {
    length |= (raw[at] & 0x7f) << shift;
    if ((raw[at++] & 0x80) === 0) break;
  }
  if (at + length > raw.length) throw new EtcdFdwError("08P01", "invalid message of etcd's protocol");
  return raw.subarray(at, at + length);
}

/** The header with this revision. Of a field that comes twice, protobuf takes the last one. */
export function headerAt(header: Uint8Array, revision: bigint): Uint8Array {
  if (headerRevision(header) === revision) return header;
  const out = new Out(header.length + 1 + wideSize(revision));
  out.raw(header);
  out.wide(3 << 3, revision);
  return out.bytes;
}

/** Inverse of decodePage(), in pieces as well. Its header tells the revision that was read. */
export function* encodePage(page: Page): Generator<undefined, Uint8Array, unknown> {
  const { rows, more, count, cached } = page;
  const header = headerAt(page.header, page.revision);
  let size = fieldSize(header.length) + (more ? 2 : 0) + 1 + wideSize(count) +
    (cached ? CACHED_MARK.length : 0);
  for (const raw of rows) size += fieldSize(raw.length);
  const out = new Out(size);
  out.field(1 << 3 | 2, header);
  for (let i = 0; i < rows.length; i++) {
    out.field(2 << 3 | 2, rows[i]);
    if (i % PAGE_STRIDE === PAGE_STRIDE - 1) yield;
  }
  if (more) out.open(3 << 3, 1);
  out.wide(4 << 3, count);
  if (cached) out.raw(CACHED_MARK);
  return out.bytes;
}

export function encodeRangeResponse(response: RangeResponse): Uint8Array {
  const work = encodePage({ ...response, rows: response.rows.map(({ raw }) => raw) });
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

const KEY_TAG = 1 << 3 | 2;
const RANGE_END_TAG = 2 << 3 | 2;

/** Whether the RangeRequest surely asks for a single key: it begins with the key, and no range_end follows. */
export function isSingleKeyRange(payload: Uint8Array): boolean {
  if (payload[0] !== KEY_TAG) return false;
  let length = 0;
  let at = 1;
  for (let shift = 0;; shift += 7) {
    length |= (payload[at] & 0x7f) << shift;
    if ((payload[at++] & 0x80) === 0) break;
  }
  return payload[at + length] !== RANGE_END_TAG;
}
