// Which keys a write looks at and which it changes, when it is one that can be made together with others: single operations,
// and flat Txns whose failing side does nothing.
//
// etcd makes all comparisons of a request before it applies anything, nested Txns' too. So writes that share a Txn must not
// touch what another one of them compares: then it is as if they came one after the other.

import { compareBytes } from "../base/bytes.ts";
import type { GroupedWrite } from "./group.ts";
import { type KeyRange, singleKey } from "./keyrange.ts";
import { eachField } from "./ranges.ts";
import type { Rights } from "./rights.ts";

/** Of Txns, these are also the rights that they need. */
export type Footprint = Rights;

/** Operations, or comparisons, beyond which a write goes by itself. */
const MAX_STEPS = 16;

/** Fields of the requests: Compare.key and .range_end; PutRequest.key and .prev_kv; DeleteRangeRequest.key, .range_end and .prev_kv. */
const COMPARE = { key: 3, end: 64 };
const PUT = { key: 1, end: 0, prev: 4 };
const DELETE = { key: 1, end: 2, prev: 3 };

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

/** Null when the operation is something else than a put or a deletion, or reads what was there. */
function operationIn(message: Uint8Array): KeyRange | null {
  let range: KeyRange | null = null;
  eachField(message, (field, reader) => {
    const fields = field === 2 ? PUT : field === 3 ? DELETE : null;
    if (fields === null) return false;
    const operation = reader.bytes();
    if (!hasField(operation, fields.prev)) range = rangeIn(operation, fields);
    return true;
  });
  return range;
}

function hasField(message: Uint8Array, wanted: number): boolean {
  let found = false;
  eachField(message, (field) => {
    found ||= field === wanted;
    return false;
  });
  return found;
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
