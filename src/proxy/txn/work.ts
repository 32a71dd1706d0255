// Work that is done in pieces: a generator that hands out calls of etcd, whose replies it is resumed with, or pauses where
// others may run. It decides and does not wait; the driver waits.

import { Method } from "../../ipc/frame.ts";

/** A call of etcd. */
export interface Ask {
  method: number;
  payload: Uint8Array;
}

/** Undefined is a pause. All of several calls are made at once; the first that fails is thrown into the work. */
export type Work<T> = Generator<Ask[] | undefined, T, Uint8Array[]>;

export function* ask(method: number, payload: Uint8Array): Work<Uint8Array> {
  return (yield [{ method, payload }])[0];
}

export const askRange = (payload: Uint8Array): Work<Uint8Array> => ask(Method.RANGE, payload);

/** Items that are looked at without a pause. */
export const STRIDE = 256;

/** A stable sort. */
export function* sorted<T>(items: T[], compare: (a: T, b: T) => number): Generator<undefined, T[], unknown> {
  let runs: T[][] = [];
  for (let at = 0; at < items.length; at += STRIDE) {
    runs.push(items.slice(at, at + STRIDE).sort(compare));
    yield;
  }
  while (runs.length > 1) {
    const merged: T[][] = [];
    for (let i = 0; i < runs.length; i += 2) {
      merged.push(i + 1 === runs.length ? runs[i] : yield* mergedRuns(runs[i], runs[i + 1], compare));
    }
    runs = merged;
  }
  return runs[0] ?? [];
}

function* mergedRuns<T>(a: T[], b: T[], compare: (a: T, b: T) => number): Generator<undefined, T[], unknown> {
  const merged: T[] = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    merged.push(j === b.length || i < a.length && compare(a[i], b[j]) <= 0 ? a[i++] : b[j++]);
    if (merged.length % STRIDE === 0) yield;
  }
  return merged;
}
