// What etcd is asked besides about the rights to a Txn's keys.
//
// etcd looks at the rights to what stands on a Txn's first level, and lets pass whatever a Txn within it does. So that a
// user's rights hold there too, the first level names all keys once more, as operations of the side that is never taken:
// its rights are looked at, and nothing else happens.
//
// Of many keys, ranges are named that hold them. They are parted where neighbours have least in common, so that what is
// between two keys of one range begins as both do, and is the user's if he has a right to their prefix.

import { compareBytes } from "../base/bytes.ts";
import { type KeyRange, prefixRange } from "./keyrange.ts";
import { fieldSize, type Out } from "./wire.ts";

/** What of a key counts: rights are not told apart behind this, which makes them narrower, never wider. */
const KEY_BYTES = 200;
/** The most bytes that a range takes in the request. */
export const RIGHT_BYTES = 2 * (KEY_BYTES + 3) + 12;

export interface Rights {
  read: KeyRange[];
  written: KeyRange[];
}

function commonLength(a: Uint8Array, b: Uint8Array): number {
  const most = Math.min(a.length, b.length, KEY_BYTES);
  let length = 0;
  while (length < most && a[length] === b[length]) length++;
  return length;
}

/** What is cut off makes the range larger. */
function shortened({ start, end }: KeyRange): KeyRange {
  return {
    start: start.length > KEY_BYTES ? start.subarray(0, KEY_BYTES) : start,
    end: end === null || end.length <= KEY_BYTES ? end : prefixRange(end.subarray(0, KEY_BYTES)).end,
  };
}

/** Ranges, no more than `most`, that hold all of these. Yields where others may run. */
export function* covering(ranges: KeyRange[], most: number): Generator<undefined, KeyRange[], unknown> {
  if (ranges.length <= most) return ranges.map(shortened);
  const isSorted = ranges.every(({ start }, i) => i === 0 || compareBytes(ranges[i - 1].start, start) <= 0);
  const inOrder = isSorted ? ranges : [...ranges].sort((a, b) => compareBytes(a.start, b.start));
  yield;
  // Where a new range may begin, by how much it has in common with the key in front of it.
  const gaps: number[][] = Array.from({ length: KEY_BYTES + 1 }, () => []);
  let end = inOrder[0].end;
  const ends = [end];
  for (let i = 1; i < inOrder.length; i++) {
    const { start, end: own } = inOrder[i];
    if (end !== null && compareBytes(end, start) <= 0) {
      gaps[commonLength(inOrder[i - 1].start, start)].push(i);
    }
    end = end === null || own === null ? null : compareBytes(own, end) > 0 ? own : end;
    ends.push(end);
    if (i % 256 === 255) yield;
  }
  const cuts: number[] = [];
  for (const some of gaps) cuts.push(...some.slice(0, most - 1 - cuts.length));
  cuts.sort((a, b) => a - b);
  return [0, ...cuts].map((from, i) =>
    shortened({ start: inOrder[from].start, end: ends[(cuts[i] ?? inOrder.length) - 1] })
  );
}

/** Of TxnRequest, RequestOp, RangeRequest and DeleteRangeRequest. */
const FAILURE = 3 << 3 | 2;
const RANGE = 1 << 3 | 2;
const DELETE_RANGE = 3 << 3 | 2;
const KEY = 1 << 3 | 2;
const RANGE_END = 2 << 3 | 2;

/** etcd has no empty key: the byte 0 stands for the beginning and, as an end, for the end. */
const orNul = (key: Uint8Array | null) => key === null || key.length === 0 ? Uint8Array.of(0) : key;

function bodySize({ start, end }: KeyRange): number {
  return fieldSize(orNul(start).length) + fieldSize(orNul(end).length);
}

/** The bytes of the fields that writeRights() adds to a TxnRequest. */
export function rightsSize({ read, written }: Rights): number {
  return [...read, ...written].reduce((sum, range) => sum + fieldSize(fieldSize(bodySize(range))), 0);
}

export function writeRights(out: Out, { read, written }: Rights): void {
  const write = (operation: number, ranges: KeyRange[]) => {
    for (const range of ranges) {
      const body = bodySize(range);
      out.open(FAILURE, fieldSize(body));
      out.open(operation, body);
      out.field(KEY, orNul(range.start));
      out.field(RANGE_END, orNul(range.end));
    }
  };
  write(RANGE, read);
  write(DELETE_RANGE, written);
}
