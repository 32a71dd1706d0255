// What a commit consists of: each key's guard and operation, the DELETEs of whole ranges as one operation each, what was
// read; and how this is cut into Txns.

import { compareBytes, printableKey } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import {
  encodeSteps,
  groupingBytes,
  levelsFor,
  mostSteps,
  type Nesting,
  type Step,
  stepSize,
} from "../../etcd/nested.ts";
import type { KeyRange } from "../../etcd/keyrange.ts";
import { decodeKeyRow, decodePage, keyOf } from "../../etcd/ranges.ts";
import type { RangeRequest } from "../../etcd/messages.ts";
import { ENVELOPE_BYTES, type Limits } from "../../etcd/batches.ts";
import { readAll } from "./batches.ts";
import { STEPS_IN_FLIGHT } from "./commit.ts";
import { ABSENT, ANYTHING, conflict, duplicateKey, type Records, type Write } from "./records.ts";
import type { ReadSet } from "./reads.ts";
import { STRIDE, type Work } from "./work.ts";

/** A range that a DELETE emptied: this command's, of what there was at this revision. */
export interface DeletedRange {
  range: KeyRange;
  revision: bigint;
  command: number;
}

/** What etcd takes, and what it is to do with more. */
export interface CommitOptions extends Limits, Nesting {
  /** Whether a transaction that needs several Txns is refused. */
  requireAtomic: boolean;
}

/** All that a transaction comes to. It must not change while it is written. */
export interface Batch {
  records: Records;
  deleted: DeletedRange[];
  /** Null: what was read need not hold. */
  reads: ReadSet | null;
}

const roomIn = ({ maxRequestBytes }: CommitOptions) => maxRequestBytes - ENVELOPE_BYTES;

/** A guard or an operation takes part as a record of the batch or as one of the steps for ranges, by number. */
type Item = number;
const GUARD_ONLY = 1;
const operationOf = (record: number): Item => record * 2;
const guardOf = (record: number): Item => record * 2 + GUARD_ONLY;
const rangeItem = (index: number): Item => -1 - index;

/** A Txn: some of the items. */
interface Part {
  from: number;
  to: number;
  /** Otherwise it only compares. */
  writes: boolean;
}

/** The commit of a batch in one form: Txns that compare alone, to be made first, and Txns that write. */
export interface Form {
  readonly deletion: Deletion;
  readonly batch: Batch;
  readonly ranges: Step[];
  readonly items: Item[];
  readonly guards: Item[];
  readonly checks: Part[];
  readonly writes: Part[];
}

/** A record's part. Null: it has none. */
function stepOf({ key, value, lease, expected, read, verified }: Write, guardOnly: boolean): Step | null {
  // A key that the transaction has made and deleted again was never there, if it could be made.
  const never = value === null && expected === ABSENT;
  if (never && !read && verified && !guardOnly) return null;
  const guard = expected === ANYTHING ? null : { key, mod: expected };
  if (never || guardOnly) return guard === null ? null : { guard, op: null };
  return { guard, op: value === null ? { delete: { key } } : { put: { key, value, lease } } };
}

function stepAt({ batch, ranges }: Pick<Form, "batch" | "ranges">, item: Item): Step {
  if (item < 0) return ranges[-1 - item];
  return stepOf(batch.records.final(Math.floor(item / 2)), item % 2 === GUARD_ONLY)!;
}

/** etcd has no empty key: the byte 0 stands for the beginning and, as an end, for the end. */
function boundsOf({ start, end }: KeyRange): { key: Uint8Array; rangeEnd: Uint8Array } {
  return { key: start.length === 0 ? Uint8Array.of(0) : start, rangeEnd: end ?? Uint8Array.of(0) };
}

/** How the deletion of ranges is written. */
export const Deletion = {
  /** By ranges, and with the guards of all their keys, so that a key that is gone is seen as well. */
  GUARDED: 0,
  /** By ranges. */
  RANGES: 1,
  /** Key by key: what has come into a range meanwhile stays. */
  KEYS: 2,
} as const;
type Deletion = typeof Deletion[keyof typeof Deletion];

class Collector {
  readonly ranges: Step[] = [];
  readonly items: Item[] = [];
  readonly #batch: Batch;
  readonly #written: number[];
  #next = 0;

  constructor(batch: Batch) {
    this.#batch = batch;
    this.#written = batch.records.all("written");
  }

  /** All steps, what only compares first. */
  *collect(deletion: Deletion): Generator<undefined, void, unknown> {
    const { records, reads, deleted } = this.#batch;
    for (const range of reads?.ranges ?? []) {
      this.#addRange({ guard: { ...boundsOf(range), mod: reads!.revision! + 1n }, op: null });
    }
    for (const [i, record] of records.all("read").entries()) {
      if (reads !== null && !this.#isSeen(records.final(record))) this.items.push(guardOf(record));
      if (i % STRIDE === STRIDE - 1) yield;
    }
    const inOrder = [...deleted].sort((a, b) => compareBytes(a.range.start, b.range.start));
    for (const one of deletion === Deletion.KEYS ? [] : inOrder) yield* this.#deleteRange(one, deletion);
    yield* this.#upTo(this.#written.length);
  }

  #addRange(step: Step): void {
    this.items.push(rangeItem(this.ranges.push(step) - 1));
  }

  /** A key that was read as absent in a range that is compared as a whole: a new key would be seen there. */
  #isSeen({ key, value, expected, read }: Write): boolean {
    return read && value === null && expected === ABSENT && this.#isRead(key);
  }

  #isRead(key: Uint8Array): boolean {
    return this.#batch.reads!.ranges.some(({ start, end }) =>
      compareBytes(key, start) >= 0 && (end === null || compareBytes(key, end) < 0)
    );
  }

  *#upTo(end: number): Generator<undefined, void, unknown> {
    for (; this.#next < end; this.#next++) {
      const record = this.#written[this.#next];
      const write = this.#batch.records.final(record);
      if (!this.#isSeen(write) && stepOf(write, false) !== null) this.items.push(operationOf(record));
      if (this.#next % STRIDE === STRIDE - 1) yield;
    }
  }

  /** The first of the records that does not sort before this key. */
  #firstFrom(key: Uint8Array): number {
    let low = 0;
    let high = this.#written.length;
    while (low < high) {
      const middle = low + high >> 1;
      if (compareBytes(this.#batch.records.final(this.#written[middle]).key, key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** One operation for the range, if nothing of it is to be left. */
  *#deleteRange(
    { range, revision, command }: DeletedRange,
    deletion: Deletion,
  ): Generator<undefined, void, unknown> {
    const start = this.#firstFrom(range.start);
    // Two that overlap: the second one's keys are written by the first.
    if (start < this.#next) return;
    const end = range.end === null ? this.#written.length : this.#firstFrom(range.end);
    const guards: Item[] = [];
    let keys = 0;
    for (let i = start; i < end; i++) {
      const { value, expected, first, command: by } = this.#batch.records.final(this.#written[i]);
      if (value !== null || expected === ANYTHING) return;
      if (expected !== ABSENT) keys++;
      // The comparison of the range speaks for what this DELETE found; what the transaction saw before may be older.
      const found = first && by === command;
      if (!found || deletion === Deletion.GUARDED) guards.push(guardOf(this.#written[i]));
      if (i % STRIDE === STRIDE - 1) yield;
    }
    if (keys < 2) return;
    yield* this.#upTo(start);
    for (const guard of guards) this.items.push(guard);
    const bounds = boundsOf(range);
    this.#addRange({ guard: { ...bounds, mod: revision + 1n }, op: { delete: bounds } });
    this.#next = end;
  }
}

/**
 * Steps of one of several Txns: where one does not do, it is best if none takes long, since etcd gives up what it has not come
 * to within seconds, and if one is made while another is applied.
 */
const SPLIT_STEPS = STEPS_IN_FLIGHT / 2;

/** Cuts items into Txns, by bytes and by number. */
function* cut(
  form: Pick<Form, "batch" | "ranges">,
  items: Item[],
  options: CommitOptions,
  atMost = Infinity,
): Generator<undefined, Part[], unknown> {
  const { maxTxnOps, nested } = options;
  const most = Math.min(mostSteps(maxTxnOps, nested), atMost);
  const parts: Part[] = [];
  let bytes = 0;
  let from = 0;
  let writes = false;
  let shortest: number | null = null;
  for (let i = 0; i < items.length; i++) {
    const step = stepAt(form, items[i]);
    const size = stepSize(step);
    const guarded: number | null = step.guard?.key.length ?? null;
    const least: number | null = shortest === null || guarded === null
      ? shortest ?? guarded
      : Math.min(shortest, guarded);
    const whole = bytes + size + groupingBytes(i + 1 - from, least, options);
    if (i > from && (whole > roomIn(options) || i - from === most)) {
      parts.push({ from, to: i, writes });
      [from, bytes, writes, shortest] = [i, 0, false, guarded];
    } else shortest = least;
    bytes += size;
    writes ||= step.op !== null;
    if (i % STRIDE === STRIDE - 1) yield;
  }
  if (items.length > from) parts.push({ from, to: items.length, writes });
  return parts;
}

/** Whether several Txns are an error. */
const mustBeOne = ({ reads }: Batch, { requireAtomic }: CommitOptions) => requireAtomic || reads !== null;

function* formOf(
  batch: Batch,
  deletion: Deletion,
  options: CommitOptions,
): Generator<undefined, Form, unknown> {
  const collector = new Collector(batch);
  yield* collector.collect(deletion);
  const { items, ranges } = collector;
  let writes = yield* cut({ batch, ranges }, items, options);
  const guards: Item[] = [];
  if (writes.length > 1 && !mustBeOne(batch, options)) {
    writes = yield* cut({ batch, ranges }, items, options, SPLIT_STEPS);
    for (const [i, item] of items.entries()) {
      const { guard } = stepAt({ batch, ranges }, item);
      if (guard !== null && item >= 0) guards.push(guardOf(Math.floor(item / 2)));
      else if (guard !== null) guards.push(rangeItem(ranges.push({ guard, op: null }) - 1));
      if (i % STRIDE === STRIDE - 1) yield;
    }
  }
  return {
    deletion,
    batch,
    ranges,
    items,
    guards,
    checks: yield* cut({ batch, ranges }, guards, options, SPLIT_STEPS),
    writes,
  };
}

/**
 * The form in which the batch is written first; null when there is nothing to do. Throws EtcdFdwError 54000 when one Txn
 * cannot hold it and must.
 */
export function* firstForm(batch: Batch, options: CommitOptions): Work<Form | null> {
  yield* batch.records.settle();
  const fits = (form: Form) => form.writes.length <= 1;
  let form = yield* formOf(batch, batch.deleted.length === 0 ? Deletion.KEYS : Deletion.GUARDED, options);
  // Under SERIALIZABLE a range's own guard would say too little: a key of it may be gone.
  if (!fits(form) && batch.deleted.length > 0 && batch.reads === null) {
    form = yield* formOf(batch, Deletion.RANGES, options);
  }
  if (mustBeOne(batch, options) && !fits(form)) throw tooLarge(form, options);
  return form.items.length === 0 ? null : form;
}

/** The form for when a guard of this one does not hold: a key that came into a range meanwhile is not the DELETE's. */
export function* nextForm(form: Form, options: CommitOptions): Work<Form | null> {
  if (form.deletion === Deletion.KEYS || form.batch.deleted.length === 0) return null;
  const byKey = yield* formOf(form.batch, Deletion.KEYS, options);
  return mustBeOne(form.batch, options) && byKey.writes.length > 1 ? null : byKey;
}

/** The TxnRequest of a part. */
export function* encodePart(
  form: Form,
  kind: "check" | "write",
  index: number,
  { maxTxnOps, nested, rights }: CommitOptions,
): Generator<undefined, Uint8Array, unknown> {
  const { from, to } = form[kind === "check" ? "checks" : "writes"][index];
  const items = kind === "check" ? form.guards : form.items;
  const levels = levelsFor(to - from, maxTxnOps, nested)!;
  return yield* encodeSteps(from, to, levels, (i) => stepAt(form, items[i]), rights);
}

/** What shows whether a guard holds: its key, or a key of its range that is newer than it allows. */
function suspicion({ guard }: Step): RangeRequest {
  const { key, rangeEnd, mod } = guard!;
  if (rangeEnd === undefined) return { key, rangeEnd: null, keysOnly: true };
  return { key, rangeEnd, keysOnly: true, minModRevision: String(mod), limit: 1 };
}

/** Guards that are looked at before the next ones are asked for: the first that does not hold ends it. */
const SUSPECTS = 512;

/**
 * Why a guard failed. Looked for afterwards: reads in each Txn, which nearly always succeeds, would cost more than the
 * puts do. When the key is as it should be again nothing can be named.
 */
export function* explain(form: Form, options: CommitOptions): Work<EtcdFdwError> {
  const suspects: Item[] = [];
  for (const [i, item] of form.items.entries()) {
    if (stepAt(form, item).guard !== null) suspects.push(item);
    if (i % STRIDE === STRIDE - 1) yield;
  }
  for (let at = 0; at < suspects.length; at += SUSPECTS) {
    const asked = suspects.slice(at, at + SUSPECTS);
    const responses = yield* readAll(asked.map((item) => suspicion(stepAt(form, item))), options);
    for (const [i, response] of responses.entries()) {
      const item = asked[i];
      const row = (yield* decodePage(response, undefined)).rows.at(0);
      const { key, rangeEnd, mod } = stepAt(form, item).guard!;
      const holds = rangeEnd !== undefined
        ? row === undefined
        : (row === undefined ? ABSENT : decodeKeyRow(row).modRevision) === mod;
      if (holds) continue;
      const inserted = item >= 0 && form.batch.records.final(Math.floor(item / 2)).inserted;
      return inserted ? duplicateKey(key) : conflict(row === undefined ? key : keyOf(row));
    }
  }
  return conflict();
}

/** A single row that no request can hold. Throws EtcdFdwError 54000. */
export function checkRow(key: Uint8Array, value: Uint8Array, options: CommitOptions): void {
  const size = stepSize({ guard: { key, mod: ABSENT }, op: { put: { key, value, lease: ABSENT } } });
  if (size <= roomIn(options)) return;
  throw new EtcdFdwError("54000", `row is too large for etcd: "${printableKey(key)}"`, {
    detail: `It takes ${size} bytes, and a request may have ${options.maxRequestBytes}.`,
    hint: "Raise etcd's --max-request-bytes and the server's max_request_bytes, or store less in a row.",
  });
}

function tooLarge({ items, writes, batch }: Form, options: CommitOptions): EtcdFdwError {
  const limits = `max_request_bytes is ${options.maxRequestBytes}, max_txn_ops is ${options.maxTxnOps}`;
  return new EtcdFdwError("54000", "transaction is too large for one Txn of etcd", {
    detail: `Its ${items.length} writes and comparisons take ${writes.length} Txns; ${limits}.` +
      (batch.reads === null
        ? ""
        : " With rows that were locked, and under SERIALIZABLE, all of them must be in one."),
    hint: options.nested
      ? "Raise etcd's --max-request-bytes and the server's max_request_bytes, or write less in a transaction."
      : "Raise etcd's --max-txn-ops and the server's max_txn_ops, or write less in a transaction.",
  });
}
