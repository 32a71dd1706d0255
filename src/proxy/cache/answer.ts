// etcd's answer to a read, from what a cache holds: the same rows in the same order, with the same count.

import { compareBytes } from "../../base/bytes.ts";
import type { KeyRange } from "../../etcd/keyrange.ts";
import type { RangeRequest, SortTarget } from "../../etcd/messages.ts";
import { decodeKeyRow, encodePage, headerAt, type KeyRow, makeKeyRow } from "../../etcd/ranges.ts";
import { encodeReadResponses } from "../../etcd/txn.ts";
import { BTree } from "../txn/btree.ts";
import { keyRangeOf } from "../txn/overlay.ts";
import { sorted, STRIDE } from "../txn/work.ts";

/** KeyValues as etcd sent them, by their keys. */
export type Rows = InstanceType<typeof BTree<Uint8Array, Uint8Array>>;

export const noRows = (): Rows => new BTree<Uint8Array, Uint8Array>(undefined, compareBytes);

/** What is read: the rows do not change any more. */
export interface State {
  rows: Rows;
  /** Of all rows. */
  range: KeyRange;
  /** That they are of. */
  revision: bigint;
  /** A ResponseHeader of the cluster's. */
  header: Uint8Array;
}

function countIn({ rows, range: all }: State, { start, end }: KeyRange): number {
  const fromFirst = compareBytes(start, all.start) <= 0;
  const toLast = end === null || all.end !== null && compareBytes(end, all.end) >= 0;
  if (fromFirst && toLast) return rows.size;
  const last = end ?? rows.maxKey();
  return last === undefined ? 0 : rows.forRange(start, last, end === null);
}

/** The rows of a range, in either direction. */
function* rowsIn(rows: Rows, { start, end }: KeyRange, descending: boolean): Generator<Uint8Array> {
  const pair: Uint8Array[] = [];
  if (!descending) {
    for (const [key, raw] of rows.entries(start, pair)) {
      if (end !== null && compareBytes(key, end) >= 0) return;
      yield raw;
    }
    return;
  }
  for (const [key, raw] of rows.entriesReversed(end ?? undefined, pair, end !== null)) {
    if (compareBytes(key, start) < 0) return;
    yield raw;
  }
}

const FILTERS = ["minModRevision", "maxModRevision", "minCreateRevision", "maxCreateRevision"] as const;

/** The rows that the request's bounds of revisions let through; null for all. */
function filterOf(request: RangeRequest): ((raw: Uint8Array) => boolean) | null {
  const [minMod, maxMod, minCreate, maxCreate] = FILTERS.map((name) => BigInt(request[name] ?? "0"));
  // To etcd, 0 is no bound.
  if (minMod === 0n && maxMod === 0n && minCreate === 0n && maxCreate === 0n) return null;
  const within = (value: bigint, min: bigint, max: bigint) => value >= min && (max === 0n || value <= max);
  return (raw) => {
    const { modRevision, createRevision } = decodeKeyRow(raw);
    return within(modRevision, minMod, maxMod) && within(createRevision, minCreate, maxCreate);
  };
}

const compareNumbers = (a: bigint, b: bigint) => a < b ? -1 : Number(a > b);

const SORTED_BY: Record<SortTarget, (a: KeyRow, b: KeyRow) => number> = {
  key: (a, b) => compareBytes(a.key, b.key),
  value: (a, b) => compareBytes(a.value, b.value),
  version: (a, b) => compareNumbers(a.version, b.version),
  create_revision: (a, b) => compareNumbers(a.createRevision, b.createRevision),
  mod_revision: (a, b) => compareNumbers(a.modRevision, b.modRevision),
};

const withoutValue = (raw: Uint8Array) => makeKeyRow({ ...decodeKeyRow(raw), value: new Uint8Array(0) }).raw;

type Work<T> = Generator<undefined, T, unknown>;

/** So many rows as the request wants, and whether there are more. */
function* take(
  request: RangeRequest,
  rows: Iterable<Uint8Array>,
): Work<{ rows: Uint8Array[]; more: boolean }> {
  const limit = request.limit || Infinity;
  const filter = filterOf(request);
  const taken: Uint8Array[] = [];
  let seen = 0;
  for (const raw of rows) {
    if (++seen % STRIDE === 0) yield;
    if (filter !== null && !filter(raw)) continue;
    if (taken.length === limit) return { rows: taken, more: true };
    taken.push(raw);
  }
  return { rows: taken, more: false };
}

/** The same by something else than the key. */
function* takeSorted(
  request: RangeRequest,
  rows: Iterable<Uint8Array>,
): Work<{ rows: Uint8Array[]; more: boolean }> {
  const { target, descending } = request.order!;
  const all = (yield* take({ ...request, limit: 0 }, rows)).rows;
  const compare = SORTED_BY[target];
  const inOrder = yield* sorted(
    all.map(decodeKeyRow),
    (a, b) => descending ? compare(b, a) : compare(a, b),
  );
  const limit = request.limit || Infinity;
  return { rows: inOrder.slice(0, limit).map(({ raw }) => raw), more: inOrder.length > limit };
}

/** The RangeResponse, made in pieces. */
export function* answerRange(request: RangeRequest, state: State): Work<Uint8Array> {
  const { header, revision } = state;
  const range = keyRangeOf(request);
  const page = { header, revision, cached: true, rows: [] as Uint8Array[], more: false };
  if (request.rangeEnd === null) {
    const raw = state.rows.get(request.key);
    const filter = filterOf(request);
    if (raw !== undefined && !request.countOnly && (filter === null || filter(raw))) page.rows.push(raw);
    if (request.keysOnly) page.rows = page.rows.map(withoutValue);
    return yield* encodePage({ ...page, count: raw === undefined ? 0n : 1n });
  }
  const count = BigInt(countIn(state, range));
  if (request.countOnly) return yield* encodePage({ ...page, count });
  const byKey = request.order === undefined || request.order.target === "key";
  const rows = rowsIn(state.rows, range, byKey && (request.order?.descending ?? false));
  const taken = yield* (byKey ? take(request, rows) : takeSorted(request, rows));
  if (request.keysOnly) {
    for (let i = 0; i < taken.rows.length; i++) {
      taken.rows[i] = withoutValue(taken.rows[i]);
      if (i % STRIDE === STRIDE - 1) yield;
    }
  }
  return yield* encodePage({ ...page, ...taken, count });
}

/** The TxnResponse of several reads. */
export function* answerReads(requests: RangeRequest[], state: State): Work<Uint8Array> {
  const responses: Uint8Array[] = [];
  for (const request of requests) responses.push(yield* answerRange(request, state));
  return encodeReadResponses(headerAt(state.header, state.revision), responses);
}
