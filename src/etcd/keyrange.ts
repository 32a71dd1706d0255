// Algebra of key ranges: half-open intervals of byte strings, in etcd's order.

import { compareBytes, concatBytes } from "../base/bytes.ts";

/** The keys k with start <= k < end; `end` null means up to the last key there is. Never empty: an empty set is `null`. */
export interface KeyRange {
  readonly start: Uint8Array;
  readonly end: Uint8Array | null;
}

const NUL = Uint8Array.of(0);

/** Every key. */
export const ALL_KEYS: KeyRange = { start: new Uint8Array(0), end: null };

/** The smallest key that sorts after `key`. */
export function successor(key: Uint8Array): Uint8Array {
  return concatBytes(key, NUL);
}

/** Exactly one key. */
export function singleKey(key: Uint8Array): KeyRange {
  return { start: key, end: successor(key) };
}

/** Whether the range holds exactly one possible key. */
export function isSingleKey(range: KeyRange): boolean {
  const { start, end } = range;
  return end !== null && end.length === start.length + 1 && end[start.length] === 0 &&
    compareBytes(start, end.subarray(0, start.length)) === 0;
}

/** Every key that begins with `prefix`; all keys when it is empty. */
export function prefixRange(prefix: Uint8Array): KeyRange {
  let length = prefix.length;
  while (length > 0 && prefix[length - 1] === 0xff) length--;
  if (length === 0) return { start: prefix, end: null };
  const end = prefix.slice(0, length);
  end[length - 1]++;
  return { start: prefix, end };
}

/** The keys of both, or null when there are none: no key is empty, so a range that ends at the byte 0 has none either. */
export function intersect(a: KeyRange, b: KeyRange): KeyRange | null {
  const start = compareBytes(a.start, b.start) >= 0 ? a.start : b.start;
  let end = a.end;
  if (end === null || b.end !== null && compareBytes(b.end, end) < 0) end = b.end;
  if (end !== null && (compareBytes(start, end) >= 0 || compareBytes(end, NUL) <= 0)) return null;
  return { start, end };
}

/** Both at once, or what covers both: `b` must not start before `a`, nor behind its end. */
function joined(a: KeyRange, b: KeyRange): KeyRange {
  const end = a.end === null || b.end === null ? null : compareBytes(a.end, b.end) >= 0 ? a.end : b.end;
  return { start: a.start, end };
}

/** The same keys as ranges in etcd's order that neither overlap nor touch. */
export function unite(ranges: KeyRange[]): KeyRange[] {
  const united: KeyRange[] = [];
  for (const range of [...ranges].sort((a, b) => compareBytes(a.start, b.start))) {
    const last = united.at(-1);
    const apart = last === undefined || last.end !== null && compareBytes(last.end, range.start) < 0;
    if (apart) united.push(range);
    else united[united.length - 1] = joined(last, range);
  }
  return united;
}

/** The keys of both sets. Either is a list of ranges that do not overlap. */
export function intersectSets(a: KeyRange[], b: KeyRange[]): KeyRange[] {
  return a.flatMap((x) => b.map((y) => intersect(x, y))).filter((range) => range !== null)
    .sort((x, y) => compareBytes(x.start, y.start));
}

/** The smallest range around a set of ranges in etcd's order; null around nothing. */
export function hull(ranges: KeyRange[]): KeyRange | null {
  if (ranges.length === 0) return null;
  return joined(ranges[0], ranges[ranges.length - 1]);
}

/**
 * The range as etcd's `key` and `range_end`. A single key has no range_end at all (a range_end that is present but
 * empty would mean "to the end"); the end of the keyspace is the byte 0, as is the start, since no key is empty.
 */
export function toEtcd(range: KeyRange): { key: Uint8Array; rangeEnd: Uint8Array | null } {
  if (range.start.length > 0 && isSingleKey(range)) return { key: range.start, rangeEnd: null };
  return { key: range.start.length > 0 ? range.start : NUL, rangeEnd: range.end ?? NUL };
}
