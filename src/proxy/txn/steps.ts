// What a commit consists of: each key's guard and operation, and the DELETEs of whole ranges as one operation each.

import { compareBytes } from "../../base/bytes.ts";
import type { Compare, TxnOp } from "../../etcd/txn.ts";
import { type KeyRange, successor } from "../../etcd/keyrange.ts";
import type { Write } from "./writes.ts";

/** A range that a DELETE emptied, as it was at this revision. */
export interface DeletedRange {
  range: KeyRange;
  revision: bigint;
}

/** One key's, or one range's part in a Txn. */
export interface Step {
  key: Uint8Array;
  compare: Compare | null;
  op: TxnOp | null;
  /** What a failed comparison means; `range`: that the keys of a range must be deleted one by one. */
  failure: "23505" | "40001" | "range";
  /** Of a range: its keys' own steps. */
  members: Step[];
}

function stepOf({ key, version }: Write): Step | null {
  const { guard, value, lease } = version;
  const made = guard !== null && "absent" in guard;
  // A key that the transaction has made and deleted again was never there.
  if (made && value === null) return null;
  const compare: Compare | null = guard === null
    ? null
    : made
    ? { key, target: "create", result: "equal", value: 0n }
    : { key, target: "mod", result: "equal", value: (guard as { mod: bigint }).mod };
  const op: TxnOp = value === null ? { delete: { key } } : { put: { key, value, lease } };
  return { key, compare, op, failure: made ? "23505" : "40001", members: [] };
}

/** The first of the writes, which are in the order of their keys, that does not sort before this key. */
function firstFrom(writes: Write[], key: Uint8Array): number {
  let low = 0;
  let high = writes.length;
  while (low < high) {
    const middle = low + high >> 1;
    if (compareBytes(writes[middle].key, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Whether a DeleteRange that finds nothing newer than the revision does what these writes do. */
function coveredBy(writes: Write[], revision: bigint): boolean {
  return writes.every(({ version: { value, guard } }) =>
    value === null && guard !== null && ("absent" in guard || guard.mod <= revision)
  );
}

function rangeStep({ range, revision }: DeletedRange, writes: Write[]): Step | null {
  const members = writes.map(stepOf).filter((step) => step !== null);
  if (members.length < 2 || !coveredBy(writes, revision)) return null;
  const key = range.start.length === 0 ? Uint8Array.of(0) : range.start;
  const rangeEnd = range.end ?? Uint8Array.of(0);
  return {
    ...{ key, op: { delete: { key, rangeEnd } }, failure: "range", members },
    compare: { key, rangeEnd, target: "mod", result: "less", value: revision + 1n },
  };
}

/** The steps of these writes, in the order of their keys. */
export function stepsOf(writes: Write[], deleted: DeletedRange[]): Step[] {
  const steps: Step[] = [];
  let next = 0;
  const upTo = (end: number) => {
    for (; next < end; next++) {
      const step = stepOf(writes[next]);
      if (step !== null) steps.push(step);
    }
  };
  for (const one of [...deleted].sort((a, b) => compareBytes(a.range.start, b.range.start))) {
    const start = firstFrom(writes, one.range.start);
    // Two that overlap: the second one's keys are written by the first.
    if (start < next) continue;
    const end = one.range.end === null ? writes.length : firstFrom(writes, one.range.end);
    const step = rangeStep(one, writes.slice(start, end));
    if (step === null) continue;
    upTo(start);
    steps.push(step);
    next = end;
  }
  upTo(writes.length);
  return steps;
}

/** Ranges with the guards of all their keys beside their own, so that a key that is gone is seen as well. */
export function guardedByKey(steps: Step[]): Step[] {
  return steps.flatMap((step) => [step, ...step.members.map((member) => ({ ...member, op: null }))]);
}

/** Ranges as the deletions of their keys. */
export function keyByKey(steps: Step[]): Step[] {
  return steps.flatMap((step) => step.members.length === 0 ? step : step.members);
}

export const guardsOf = (steps: Step[]): Compare[] => steps.flatMap(({ compare }) => compare ?? []);
export const opsOf = (steps: Step[]): TxnOp[] => steps.flatMap(({ op }) => op ?? []);

/** Fewer keys than these are compared one by one. */
const COMPACT_STEPS = 8;

/**
 * The guards of new keys that follow each other as one comparison: no key may be there from the first to the last. It is
 * stricter, so that it may fail where the guards hold; null where it does not fit.
 */
export function compactCompare(steps: Step[]): Compare | null {
  const absent = steps.every(({ compare }) => compare?.target === "create");
  if (!absent || steps.length < COMPACT_STEPS) return null;
  const rangeEnd = successor(steps[steps.length - 1].key);
  return { key: steps[0].key, rangeEnd, target: "create", result: "equal", value: 0n };
}
