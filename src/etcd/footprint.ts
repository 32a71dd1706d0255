// Which keys a write looks at and which it changes, when it is one that can be made together with others: single operations,
// and flat Txns whose failing side does nothing.
//
// etcd makes all comparisons of a request before it applies anything, nested Txns' too. So writes that share a Txn must not
// touch what another one of them compares: then it is as if they came one after the other.

import { compareBytes } from "../base/bytes.ts";
import type { GroupedWrite } from "./group.ts";
import { type KeyRange, singleKey } from "./keyrange.ts";
import { eachField } from "./ranges.ts";

export interface Footprint {
  /** Looked at, and not changed. */
  read: KeyRange[];
  written: KeyRange[];
}

/** Operations, or comparisons, beyond which a write goes by itself. */
const MAX_STEPS = 16;

/** Fields of the requests: Compare.key and .range_end; PutRequest.key; DeleteRangeRequest.key and .range_end. */
const COMPARE = { key: 3, end: 64 };
const PUT = { key: 1, end: 0 };
const DELETE = { key: 1, end: 2 };

function rangeIn(message: Uint8Array, fields: { key: number; end: number }): KeyRange {
  let key: Uint8Array = new Uint8Array(0);
  let end: Uint8Array | null = null;
  eachField(message, (field, reader) => {
    if (field === fields.key) key = reader.bytes();
    else if (field === fields.end) end = reader.bytes();
    else return false;
    return true;
  });
  if (end === null || (end as Uint8Array).length === 0) return singleKey(key);
  // The byte 0 alone is the last key there is.
  const open = (end as Uint8Array).length === 1 && (end as Uint8Array)[0] === 0;
  return { start: key, end: open ? null : end };
}

/** Null when the operation is something else than a put or a deletion. */
function operationIn(message: Uint8Array): KeyRange | null {
  let range: KeyRange | null = null;
  eachField(message, (field, reader) => {
    if (field === 2) range = rangeIn(reader.bytes(), PUT);
    else if (field === 3) range = rangeIn(reader.bytes(), DELETE);
    else return false;
    return true;
  });
  return range;
}

function ofTxn(payload: Uint8Array): Footprint | null {
  const footprint: Footprint = { read: [], written: [] };
  let isSimple = true;
  eachField(payload, (field, reader) => {
    if (field === 1) footprint.read.push(rangeIn(reader.bytes(), COMPARE));
    else if (field === 2) {
      const range = operationIn(reader.bytes());
      if (range === null) isSimple = false;
      else footprint.written.push(range);
    } else {
      isSimple = false;
      return false;
    }
    return true;
  });
  const { read, written } = footprint;
  return isSimple && read.length <= MAX_STEPS && written.length <= MAX_STEPS ? footprint : null;
}

/** Null: it is to go by itself. Throws EtcdFdwError 08P01 for damaged bytes. */
export function footprintOf({ kind, payload }: GroupedWrite): Footprint | null {
  if (kind === "txn") return ofTxn(payload);
  return { read: [], written: [rangeIn(payload, kind === "put" ? PUT : DELETE)] };
}

const meet = (a: KeyRange, b: KeyRange) =>
  (a.end === null || compareBytes(b.start, a.end) < 0) &&
  (b.end === null || compareBytes(a.start, b.end) < 0);
const meetAny = (some: KeyRange[], others: KeyRange[]) => some.some((a) => others.some((b) => meet(a, b)));

/** Whether neither touches what the other one looks at. */
export function areApart(a: Footprint, b: Footprint): boolean {
  return !meetAny(a.written, b.written) && !meetAny(a.written, b.read) && !meetAny(a.read, b.written);
}
