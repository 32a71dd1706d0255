// etcd's protobuf messages, as far as core writes and reads them (etcd's rpc.proto, API 3.4 and later). The replies of
// scans are not decoded here: the backend walks them in C, the proxy passes them through.

import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import { decodeUtf8, encodeUtf8 } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";

/** Inclusive bounds as decimal strings; what is absent is no bound. */
export interface RevisionFilters {
  minModRevision?: string;
  maxModRevision?: string;
  minCreateRevision?: string;
  maxCreateRevision?: string;
}

/** etcdserverpb.RangeRequest. 64-bit numbers as decimal strings; what is absent is etcd's default. */
export interface RangeRequest extends RevisionFilters {
  key: Uint8Array;
  /** Null: the single key. */
  rangeEnd: Uint8Array | null;
  /** Keys at most; 0 is no limit. */
  limit?: number;
  revision?: string;
  serializable?: boolean;
  keysOnly?: boolean;
  /** The reply holds no keys, only how many there are; etcd counts without regard to the revision filters. */
  countOnly?: boolean;
  order?: Order;
  /** Which cache in the proxy may answer it (cached.ts), as bytes. */
  cache?: Uint8Array;
}

/** RangeRequest.SortTarget by the names of the fields. */
export const SORT_TARGETS = ["key", "version", "create_revision", "mod_revision", "value"] as const;
export type SortTarget = typeof SORT_TARGETS[number];

/** How etcd sorts a reply. Ascending keys are the order in which it finds them, which costs it nothing. */
export interface Order {
  target: SortTarget;
  descending: boolean;
}

/** In RangeRequest and TxnRequest: CacheTerms (cached.ts). In RangeResponse: 1 when a cache has answered. */
export const CACHE_FIELD = 1001;
/** In RangeResponse: the field and its 1, as they are on the wire. */
export const CACHED_MARK = Uint8Array.of(0xc8, 0x3e, 1);

/** RangeRequest.SortOrder */
const ASCEND = 1;
export const ORDER_DESCEND = 2;

/** The wire form of a RangeRequest. */
export function encodeRangeRequest(request: RangeRequest): Uint8Array {
  // The engines have no TextEncoder, which the writer would look for by itself.
  const writer = new BinaryWriter(encodeUtf8);
  writer.uint32(1 << 3 | 2).bytes(request.key);
  if (request.rangeEnd !== null) writer.uint32(2 << 3 | 2).bytes(request.rangeEnd);
  if (request.limit) writer.uint32(3 << 3).int64(request.limit);
  if (request.revision !== undefined && request.revision !== "0") {
    writer.uint32(4 << 3).int64(request.revision);
  }
  if (request.order !== undefined && (request.order.descending || request.order.target !== "key")) {
    writer.uint32(5 << 3).int32(request.order.descending ? ORDER_DESCEND : ASCEND);
    writer.uint32(6 << 3).int32(SORT_TARGETS.indexOf(request.order.target));
  }
  if (request.serializable) writer.uint32(7 << 3).bool(true);
  if (request.keysOnly) writer.uint32(8 << 3).bool(true);
  if (request.countOnly) writer.uint32(9 << 3).bool(true);
  const bounds = [
    request.minModRevision,
    request.maxModRevision,
    request.minCreateRevision,
    request.maxCreateRevision,
  ];
  bounds.forEach((bound, i) => {
    if (bound !== undefined) writer.uint32(10 + i << 3).int64(bound);
  });
  if (request.cache !== undefined) writer.uint32(CACHE_FIELD << 3 | 2).bytes(request.cache);
  return writer.finish();
}

/**
 * A TxnRequest without comparisons that makes these reads, all at one revision. At most MAX_TXN_OPS of them. Which cache may
 * answer is said once for all.
 */
export function encodeReadTxn(requests: RangeRequest[], cache?: Uint8Array): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8);
  for (const request of requests) {
    // success: a RequestOp whose request_range this is
    const alone = encodeRangeRequest({ ...request, cache: undefined });
    writer.uint32(2 << 3 | 2).fork().uint32(1 << 3 | 2).bytes(alone).join();
  }
  if (cache !== undefined) writer.uint32(CACHE_FIELD << 3 | 2).bytes(cache);
  return writer.finish();
}

/** What an aggregate needs of a RangeResponse. */
export interface RangeSummary {
  /** Keys in the range, decimal. */
  count: string;
  /** The only key that was asked for; null when there is none. */
  key: Uint8Array | null;
}

function skim(reader: BinaryReader, end: number, visit: (field: number) => boolean): void {
  while (reader.pos < end) {
    const [field, wire] = reader.tag();
    if (!visit(field)) reader.skip(wire, field);
  }
}

/** Reads a length-delimited field with `read`, which gets the position behind it. */
function within(reader: BinaryReader, read: (end: number) => void): true {
  const length = reader.uint32();
  read(reader.pos + length);
  return true;
}

/** Runs a decoder of a whole message. Throws EtcdFdwError 08P01 when it fails. */
function decoded(read: () => void): void {
  try {
    read();
  } catch (cause) {
    throw new EtcdFdwError("08P01", "invalid reply from etcd", { cause });
  }
}

/** The summary of a RangeResponse that ends at `end`. */
function readRangeSummary(reader: BinaryReader, end: number): RangeSummary {
  const summary: RangeSummary = { count: "0", key: null };
  skim(reader, end, (field) => {
    if (field === 4) {
      summary.count = String(reader.int64());
      return true;
    }
    if (field !== 2) return false;
    return within(reader, (kvEnd) =>
      skim(reader, kvEnd, (kvField) => {
        if (kvField !== 1) return false;
        summary.key = reader.bytes();
        return true;
      }));
  });
  return summary;
}

/** What a listing of keys needs of a RangeResponse. */
export interface KeyList {
  keys: Uint8Array[];
  more: boolean;
  /** Of the store, decimal. */
  revision: string;
}

/** The keys of a RangeResponse, without their values. Throws EtcdFdwError 08P01 when it is none. */
export function decodeKeys(reply: Uint8Array): KeyList {
  const list: KeyList = { keys: [], more: false, revision: "0" };
  const reader = new BinaryReader(reply, decodeUtf8);
  const header = (end: number) =>
    skim(reader, end, (field) => {
      if (field !== 3) return false;
      list.revision = String(reader.int64());
      return true;
    });
  const keyValue = (end: number) =>
    skim(reader, end, (field) => {
      if (field !== 1) return false;
      list.keys.push(reader.bytes());
      return true;
    });
  decoded(() =>
    skim(reader, reply.length, (field) => {
      if (field === 1) return within(reader, header);
      if (field === 2) return within(reader, keyValue);
      if (field !== 3) return false;
      list.more = reader.bool();
      return true;
    })
  );
  return list;
}

/**
 * The summaries of a TxnResponse whose operations were all reads, and the store's revision, decimal. Throws EtcdFdwError 08P01
 * when it is none.
 */
export function decodeReadTxn(reply: Uint8Array): { revision: string; summaries: RangeSummary[] } {
  const summaries: RangeSummary[] = [];
  let revision = "0";
  // The engines have no TextDecoder either.
  const reader = new BinaryReader(reply, decodeUtf8);
  decoded(() =>
    skim(reader, reply.length, (field) => {
      if (field === 1) {
        return within(reader, (end) =>
          skim(reader, end, (inner) => {
            if (inner !== 3) return false;
            revision = String(reader.int64());
            return true;
          }));
      }
      if (field !== 3) return false;
      return within(reader, (end) =>
        skim(reader, end, (op) => {
          if (op !== 1) return false;
          return within(reader, (rangeEnd) => summaries.push(readRangeSummary(reader, rangeEnd)));
        }));
    })
  );
  return { revision, summaries };
}
