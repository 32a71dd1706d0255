// What a read says of the cache in the proxy that may answer it, and what the answer says of that: a field of our own in
// etcd's messages. etcd skips fields that it does not know, so a read that no cache answers goes to it as it is.

import { CACHE_FIELD } from "./messages.ts";
import { eachField } from "./ranges.ts";
import { fieldSize, Out, varintSize } from "./wire.ts";

/** Which cache may answer, and how it is to be kept. */
export interface CacheTerms {
  /** The keys that it holds: all of the table's. */
  start: Uint8Array;
  /** Null for open. */
  end: Uint8Array | null;
  /** Milliseconds; how old a serializable answer may be. 0: however old. */
  maxStaleness: number;
  /** Seconds between two comparisons with what etcd holds; 0 for none. */
  verify: number;
}

export function encodeCacheTerms({ start, end, maxStaleness, verify }: CacheTerms): Uint8Array {
  const number = (value: number) => value === 0 ? 0 : 1 + varintSize(value);
  const size = fieldSize(start.length) + (end === null ? 0 : fieldSize(end.length)) + number(maxStaleness) +
    number(verify);
  const out = new Out(size);
  out.field(1 << 3 | 2, start);
  if (end !== null) out.field(2 << 3 | 2, end);
  if (maxStaleness > 0) out.open(3 << 3, maxStaleness);
  if (verify > 0) out.open(4 << 3, verify);
  return out.bytes;
}

/** Inverse of encodeCacheTerms(). Throws EtcdFdwError 08P01. */
export function decodeCacheTerms(message: Uint8Array): CacheTerms {
  const terms: CacheTerms = { start: new Uint8Array(0), end: null, maxStaleness: 0, verify: 0 };
  eachField(message, (field, reader) => {
    if (field === 1) terms.start = reader.bytes();
    else if (field === 2) terms.end = reader.bytes();
    else if (field === 3) terms.maxStaleness = reader.uint32();
    else if (field === 4) terms.verify = reader.uint32();
    else return false;
    return true;
  });
  return terms;
}

/** The CacheTerms in a RangeRequest or TxnRequest, as bytes; undefined when no cache may answer it. */
export function cacheTermsIn(message: Uint8Array): Uint8Array | undefined {
  let terms: Uint8Array | undefined;
  eachField(message, (field, reader) => {
    if (field !== CACHE_FIELD) return false;
    terms = reader.bytes();
    return true;
  });
  return terms;
}
