// Reads of a transaction that has written: etcd's answer with the transaction's own writes laid over it.
//
// A row that the transaction wrote has no mod_revision yet, and none of create_revision when it made the key; such a
// revision is shown as 0 on the wire and as NULL in SQL. So it fulfils no filter of revisions, and sorts as NULLs do: last
// where values ascend, first where they descend.

import { compareBytes } from "../../base/bytes.ts";
import { encodeRangeRequest, type RangeRequest, type SortTarget } from "../../etcd/messages.ts";
import {
  decodeKeyRow,
  decodePage,
  decodeRangeRequest,
  encodePage,
  keyOf,
  type KeyRow,
  makeKeyRow,
  type Page,
} from "../../etcd/ranges.ts";
import { decodeTxn, encodeReadResponses, readsOf } from "../../etcd/txn.ts";
import { cacheTermsIn } from "../../etcd/cached.ts";
import { type KeyRange, singleKey, successor } from "../../etcd/keyrange.ts";
import type { Limits } from "../../etcd/batches.ts";
import { Method } from "../../ipc/frame.ts";
import { FIRST_PAGE_KEYS, PAGE_BYTES } from "../../ipc/limits.ts";
import { listingPage, readAll } from "./batches.ts";
import type { Records, Write } from "./records.ts";
import { ask, askRange, sorted, STRIDE, type Work } from "./work.ts";

/** What a read looks at. */
export interface View {
  records: Records;
  /** Of the read: it sees what commands before it wrote. */
  command: number;
  limits: Limits;
  /** Takes note of what etcd has answered, where that must hold when the transaction commits. */
  note: ((request: RangeRequest, page: Page) => Work<void>) | null;
}

/** An empty range_end, or the byte 0, is the end of the keyspace. */
export function keyRangeOf({ key, rangeEnd }: RangeRequest): KeyRange {
  if (rangeEnd === null) return singleKey(key);
  return {
    start: key,
    end: rangeEnd.length === 0 || rangeEnd.length === 1 && rangeEnd[0] === 0 ? null : rangeEnd,
  };
}

/** The revision that the request names; undefined for the latest. */
export function revisionOf({ revision }: RangeRequest): string | undefined {
  return revision === undefined || revision === "0" ? undefined : revision;
}

/** Etcd's own answer. What is asked for on account of it must name its revision: that is how a read keeps to one. */
export function* fetchPage(request: RangeRequest, { note }: View): Work<Page> {
  const page = yield* decodePage(yield* askRange(encodeRangeRequest(request)), revisionOf(request));
  if (note !== null) yield* note(request, page);
  return page;
}

/** How many keys there are, and what was read for it: the keys too, where they must not change. */
function* fetchCount(request: RangeRequest, view: View): Work<Page> {
  const asked = view.note === null ? request : { ...request, countOnly: false, keysOnly: true, limit: 0 };
  return { ...(yield* fetchPage(asked, view)), rows: [], more: false };
}

/** The rows that the transaction itself has in a range, one after the other in either direction. */
class OwnRows {
  readonly #view: View;
  readonly #descending: boolean;
  #left: KeyRange | null;
  #writes: Write[] = [];
  #at = 0;

  constructor(view: View, range: KeyRange, descending = false) {
    this.#view = view;
    this.#left = range;
    this.#descending = descending;
  }

  /** The next one; undefined when `load` must be called before, or there is none. */
  get current(): Write | undefined {
    return this.#writes[this.#at];
  }

  advance(): void {
    this.#at++;
  }

  /** Makes sure that `current` is the next one. */
  *load(): Generator<undefined, void, unknown> {
    const { records, command } = this.#view;
    while (this.#at >= this.#writes.length && this.#left !== null) {
      const { start, end } = this.#left;
      const { writes, next }: { writes: Write[]; next: Uint8Array | null } = this.#descending
        ? records.blockBefore(start, end, command)
        : records.block(start, end, command);
      this.#writes = writes;
      this.#at = 0;
      this.#left = next === null ? null : this.#descending ? { start, end: next } : { start: next, end };
      yield;
    }
  }
}

function* hasOwn(view: View, range: KeyRange): Generator<undefined, boolean, unknown> {
  if (view.records.size === 0) return false;
  const own = new OwnRows(view, range);
  yield* own.load();
  return own.current !== undefined;
}

function rowOf({ key, value, createRevision, version, lease }: Write, keysOnly: boolean): KeyRow {
  return makeKeyRow({
    key,
    value: keysOnly ? new Uint8Array(0) : value!,
    createRevision,
    modRevision: 0n,
    // etcd will count all that the transaction did to the key as one.
    version: version + 1n,
    lease,
  });
}

/** Whether the write is a row of the answer. */
function isShown({ value, createRevision }: Write, request: RangeRequest): boolean {
  if (value === null || request.minModRevision !== undefined || request.maxModRevision !== undefined) {
    return false;
  }
  const { minCreateRevision: min, maxCreateRevision: max } = request;
  if (min === undefined && max === undefined) return true;
  return createRevision !== 0n && createRevision >= BigInt(min ?? "0") &&
    (max === undefined || createRevision <= BigInt(max));
}

/** Which of these keys etcd holds at this revision. */
function* countExisting(
  writes: Write[],
  { serializable }: RangeRequest,
  revision: string,
  limits: Limits,
): Work<number> {
  const reads = writes.map(({ key }) => ({ key, rangeEnd: null, revision, countOnly: true, serializable }));
  let found = 0;
  for (const response of yield* readAll(reads, limits)) {
    found += Number((yield* decodePage(response, revision)).count);
  }
  return found;
}

/** Keys that are asked for one by one before listing them all is thought of. */
const FEW_KEYS = 1024;
/** A key in a list costs this part of a key that is asked for. */
const LISTED = 16n;

/** Counts the rows by going through the keys: where the transaction has written many of them. */
function* countByListing(request: RangeRequest, revision: string, view: View): Work<bigint> {
  let count = 0n;
  let asked: RangeRequest = {
    ...request,
    countOnly: false,
    keysOnly: true,
    limit: FIRST_PAGE_KEYS,
    revision,
  };
  for (;;) {
    const page = yield* overlaidPage(asked, { ...view, note: null });
    count += BigInt(page.rows.length);
    if (!page.more || page.rows.length === 0) return count;
    const bytes = page.rows.reduce((sum, { length }) => sum + length, 0);
    const limit = listingPage(page.rows.length, bytes);
    asked = { ...asked, key: successor(keyOf(page.rows[page.rows.length - 1])), limit };
  }
}

function* overlaidCount(request: RangeRequest, view: View): Work<Page> {
  const page = yield* fetchCount(request, view);
  const revision = String(page.revision);
  const range = keyRangeOf(request);
  const own = new OwnRows(view, range);
  let alive = 0;
  let writes: Write[] = [];
  let replaced = 0;
  for (let seen = 1;; seen++) {
    yield* own.load();
    const write = own.current;
    if (write !== undefined) writes.push(write);
    alive += Number(write !== undefined && write.value !== null);
    if (page.count > 0n && (write === undefined || writes.length === FEW_KEYS)) {
      replaced += yield* countExisting(writes, request, revision, view.limits);
      if (write !== undefined && page.count < LISTED * BigInt(view.records.size)) {
        return { ...page, count: yield* countByListing(request, revision, view) };
      }
    }
    if (write === undefined) return { ...page, count: page.count + BigInt(alive - replaced) };
    if (writes.length === FEW_KEYS) writes = [];
    own.advance();
  }
}

const SORTED_BY: Record<SortTarget, (a: KeyRow, b: KeyRow) => number> = {
  key: (a, b) => compareBytes(a.key, b.key),
  value: (a, b) => compareBytes(a.value, b.value),
  version: (a, b) => Number(a.version - b.version),
  create_revision: (a, b) => compareRevisions(a.createRevision, b.createRevision),
  mod_revision: (a, b) => compareRevisions(a.modRevision, b.modRevision),
};

/** None is behind all others. */
function compareRevisions(a: bigint, b: bigint): number {
  if (a === 0n || b === 0n) return Number(a === 0n) - Number(b === 0n);
  return Number(a - b);
}

/** By something else than the key: one answer holds all rows that are asked for. */
function* overlaidSorted(request: RangeRequest, view: View): Work<Page> {
  const range = keyRangeOf(request);
  const own: KeyRow[] = [];
  let hidden = 0;
  const rows = new OwnRows(view, range);
  for (yield* rows.load(); rows.current !== undefined; rows.advance(), yield* rows.load()) {
    hidden++;
    if (isShown(rows.current, request)) own.push(rowOf(rows.current, request.keysOnly ?? false));
  }
  const limit = request.limit ?? 0;
  const page = yield* fetchPage({ ...request, limit: limit === 0 ? 0 : limit + hidden }, view);
  const all = own;
  for (const [i, raw] of page.rows.entries()) {
    const row = decodeKeyRow(raw);
    if (view.records.find(row.key, view.command) === undefined) all.push(row);
    if (i % STRIDE === STRIDE - 1) yield;
  }
  const { target, descending } = request.order!;
  const inOrder = yield* sorted(
    all,
    (a, b) => descending ? SORTED_BY[target](b, a) : SORTED_BY[target](a, b),
  );
  const kept = limit === 0 ? inOrder : inOrder.slice(0, limit);
  return {
    ...page,
    rows: kept.map(({ raw }) => raw),
    more: page.more || kept.length < inOrder.length,
  };
}

/** The rows of a page and the transaction's own of the range that it covers, and whether some were left for the next page. */
function* merged(
  rows: Uint8Array[],
  covered: KeyRange,
  request: RangeRequest,
  view: View,
): Work<{ rows: Uint8Array[]; cut: boolean }> {
  const direction = request.order?.descending ? -1 : 1;
  const own = new OwnRows(view, covered, direction < 0);
  const limit = request.limit || Infinity;
  const kept: Uint8Array[] = [];
  let bytes = 0;
  for (let next = 0, steps = 1;; steps++) {
    if (steps % STRIDE === STRIDE - 1) yield;
    if (own.current === undefined) yield* own.load();
    const write = own.current;
    const raw = rows[next];
    if (write === undefined && raw === undefined) return { rows: kept, cut: false };
    const order = write === undefined
      ? 1
      : raw === undefined
      ? -1
      : compareBytes(write.key, keyOf(raw)) * direction;
    // What the transaction wrote comes in the place of what etcd has.
    if (order >= 0) next++;
    if (order <= 0) own.advance();
    if (order <= 0 && !isShown(write!, request)) continue;
    if (kept.length >= limit || limit < Infinity && bytes >= PAGE_BYTES) return { rows: kept, cut: true };
    const row = order > 0 ? raw : rowOf(write!, request.keysOnly ?? false).raw;
    kept.push(row);
    bytes += row.length;
  }
}

/** In the order of the key, a page at a time; a page that the overlay leaves empty is followed by the next one. */
function* overlaidPage(request: RangeRequest, view: View): Work<Page> {
  const descending = request.order?.descending ?? false;
  let left = keyRangeOf(request);
  let asked = request;
  for (;;) {
    const page = yield* fetchPage(asked, view);
    const last = page.more && page.rows.length > 0 ? keyOf(page.rows[page.rows.length - 1]) : null;
    const covered = last === null
      ? left
      : descending
      ? { start: last, end: left.end }
      : { start: left.start, end: successor(last) };
    const { rows, cut } = yield* merged(page.rows, covered, request, view);
    if (rows.length > 0 || last === null) return { ...page, rows, more: page.more || cut };
    // All that came is hidden. What follows is read at the same revision.
    const revision = String(page.revision);
    left = descending ? { ...left, end: last } : { ...left, start: successor(last) };
    asked = { ...request, revision, key: left.start, rangeEnd: left.end ?? Uint8Array.of(0) };
  }
}

function* overlaid(request: RangeRequest, view: View): Work<Page> {
  if (request.countOnly) return yield* overlaidCount(request, view);
  const target = request.order?.target ?? "key";
  return yield* (target === "key" ? overlaidPage(request, view) : overlaidSorted(request, view));
}

/** A Range as a command sees it. */
export function* readRange(message: Uint8Array, view: View): Work<Uint8Array> {
  const request = decodeRangeRequest(message);
  if (yield* hasOwn(view, keyRangeOf(request))) return yield* encodePage(yield* overlaid(request, view));
  if (view.note === null) return yield* askRange(message);
  if (request.countOnly) return yield* encodePage(yield* fetchCount(request, view));
  const reply = yield* askRange(message);
  yield* view.note(request, yield* decodePage(reply, revisionOf(request)));
  return reply;
}

/** A Txn of reads, likewise: all of them at one revision. */
export function* readTxn(message: Uint8Array, view: View): Work<Uint8Array> {
  const { header, revision, responses } = decodeTxn(yield* ask(Method.READ_TXN, message));
  const cache = cacheTermsIn(message);
  const results: Uint8Array[] = [];
  for (const [i, read] of readsOf(message).entries()) {
    const request = decodeRangeRequest(read);
    const own = yield* hasOwn(view, keyRangeOf(request));
    // What is asked once more is asked of the state that the Txn has read.
    const at = { ...request, revision: revisionOf(request) ?? String(revision), cache };
    if (!own && view.note === null) results.push(responses[i]!);
    else if (request.countOnly || own && request.rangeEnd !== null) {
      results.push(yield* encodePage(yield* (own ? overlaid(at, view) : fetchCount(at, view))));
    } else {
      const page = yield* decodePage(responses[i]!, at.revision);
      if (view.note !== null) yield* view.note(request, page);
      results.push(own ? yield* encodePage(overlaidKey(page, request, view)) : responses[i]!);
    }
  }
  return encodeReadResponses(header, results);
}

/** A single key that the transaction wrote. */
function overlaidKey(page: Page, request: RangeRequest, { records, command }: View): Page {
  const write = records.find(request.key, command);
  const rows = write !== undefined && isShown(write, request)
    ? [rowOf(write, request.keysOnly ?? false).raw]
    : [];
  return { ...page, rows, count: BigInt(rows.length), more: false };
}
