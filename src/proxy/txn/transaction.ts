// A transaction of one backend on one cluster: its writes until they are committed, its reads with these laid over them,
// what it has read where SERIALIZABLE demands that this still holds at the end, and the leases that it has granted.
//
//   OPEN -> COMMITTING -> COMMITTED | REFUSED | UNKNOWN
//   OPEN, REFUSED -> ABORTED
//
// Its leases that rows have are kept by COMMITTED; all are revoked by ABORTED and REFUSED, and left to their time by UNKNOWN:
// to revoke them after a lost answer would delete rows that were committed.

import { printableKey, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { decodeKeyRow, decodePage, decodeRangeRequest, decodeRangeResponse } from "../../etcd/ranges.ts";
import { decodeLease, encodeLeaseGrant } from "../../etcd/lease.ts";
import { readsOf } from "../../etcd/txn.ts";
import { encodeRangeRequest, type RangeRequest } from "../../etcd/messages.ts";
import { Method } from "../../ipc/frame.ts";
import { FIRST_PAGE_KEYS } from "../../ipc/limits.ts";
import { successor } from "../../etcd/keyrange.ts";
import {
  decodeGrant,
  decodeStageEntries,
  decodeStageHeader,
  type StageEntry,
  StageFlag,
  type StageHeader,
  StageKind,
  type StageReply,
} from "../../ipc/stage.ts";
import { Budget } from "../memory.ts";
import { Spare } from "./arena.ts";
import { listingPage, readAll } from "./batches.ts";
import { keyRangeOf, readRange, readTxn, revisionOf, type View } from "./overlay.ts";
import { type Batch, checkRow, type CommitOptions, type DeletedRange } from "./plan.ts";
import { ReadSet } from "./reads.ts";
import { ABSENT, conflict, Records } from "./records.ts";
import { ask, STRIDE, type Work } from "./work.ts";

export interface TransactionOptions extends CommitOptions {
  /** What it may hold until it commits. */
  maxStagedBytes: number;
}

export type State = "OPEN" | "COMMITTING" | "COMMITTED" | "REFUSED" | "UNKNOWN" | "ABORTED";

/** What a request comes to: its answer, or what must be written for it first. */
export type Answer = { reply: StageReply } | { write: Batch; count: number; refused: number[] };

interface Lease {
  id: bigint;
  seconds: bigint;
  level: number;
  /** In milliseconds of the driver's clock. */
  grantedAt: number;
  /** WRITTEN: a row that was written at once has it, and the transaction's end does not concern it any more. */
  use: "NONE" | "STAGED" | "WRITTEN";
}

export class Transaction {
  readonly #options: TransactionOptions;
  readonly #parent: Budget;
  readonly #records: Records;
  readonly #reads: ReadSet;
  readonly #revoke: (lease: bigint) => void;
  #state: State = "OPEN";
  #leases: Lease[] = [];
  /** Ranges that DELETEs have emptied. */
  #deleted: (DeletedRange & { level: number })[] = [];
  /** What went wrong with a write that nobody waits for. */
  #failure: { error: EtcdFdwError; level: number } | null = null;
  /** Rises with every rollback: work that has begun before must not add to what is left. */
  #epoch = 0;

  /** @param revoke Ends a lease, if etcd can be reached; otherwise it runs out. */
  constructor(
    options: TransactionOptions,
    parent: Budget,
    revoke: (lease: bigint) => void,
    spare = new Spare(),
  ) {
    this.#options = options;
    this.#parent = parent;
    const budget = new Budget(options.maxStagedBytes, parent, "a transaction");
    this.#records = new Records(budget, spare);
    this.#reads = new ReadSet(budget);
    this.#revoke = revoke;
  }

  get state(): State {
    return this.#state;
  }

  /** A WRITE that nobody waits for: it is staged at once, so that what follows finds it. */
  stage(payload: Uint8Array): void {
    let level = 1;
    try {
      const { header, rest } = decodeStageHeader(payload);
      level = header.level;
      for (const entry of decodeStageEntries(rest)) this.#add(entry, header);
    } catch (thrown) {
      this.#failure ??= { error: EtcdFdwError.from(thrown), level };
    }
  }

  #add(
    entry: StageEntry,
    { level, command, flags }: StageHeader,
    into = this.#records,
  ): void {
    checkRow(entry.key, entry.value, this.#options);
    if (entry.lease !== 0n) this.#useLease(entry.lease, into === this.#records ? "STAGED" : "WRITTEN");
    into.add(entry, level, command, (flags & StageFlag.CHECK) !== 0);
  }

  #check(): void {
    if (this.#failure !== null) throw this.#failure.error;
    if (this.#state !== "OPEN") {
      throw new EtcdFdwError("25000", "the transaction has ended in the etcd proxy");
    }
  }

  /** Throws when the transaction was rolled back, as far as it matters, since the work began. */
  #stillIn(epoch: number): void {
    if (epoch !== this.#epoch) throw new EtcdFdwError("57014", "request was cancelled");
  }

  /** A WRITE that is waited for. Throws as the write itself would. */
  *write(payload: Uint8Array): Work<Answer> {
    this.#check();
    const epoch = this.#epoch;
    yield* this.#records.settle();
    const { header, rest } = decodeStageHeader(payload);
    const entries = decodeStageEntries(rest);
    const refused = header.flags & StageFlag.CHECK ? yield* this.#existing(entries, header) : [];
    const skipped = new Set(refused);
    const isNow = (header.flags & StageFlag.IMMEDIATE) !== 0;
    const batch = isNow ? this.#batch() : null;
    try {
      for (const [i, entry] of entries.entries()) {
        if (i % STRIDE === STRIDE - 1) yield;
        this.#stillIn(epoch);
        // Twice the same key in one statement: the second write finds what the first one left.
        if (!skipped.has(i)) this.#add(entry, batch === null ? header : NOW, batch?.records);
      }
    } catch (error) {
      batch?.records.clear();
      throw error;
    }
    if (batch === null) return { reply: { revision: 0n, count: 0, refused } };
    return { write: batch, count: 0, refused };
  }

  /** What is to be written at once, apart from what is staged. */
  #batch(): Batch {
    const budget = new Budget(this.#options.maxStagedBytes, this.#parent, "a transaction");
    return { records: new Records(budget), deleted: [], reads: null };
  }

  #useLease(id: bigint, use: "STAGED" | "WRITTEN"): void {
    const lease = this.#leases.find((one) => one.id === id);
    if (lease !== undefined && lease.use !== "WRITTEN") lease.use = use;
  }

  /**
   * Which INSERT entries have keys that exist, in etcd or by the transaction itself. Throws EtcdFdwError 40001 for one that
   * is newer in etcd than what the whole transaction reads.
   */
  *#existing(entries: StageEntry[], header: StageHeader): Work<number[]> {
    const refused: number[] = [];
    const unknown: number[] = [];
    const seen = new Set<string>();
    for (const [i, { kind, key }] of entries.entries()) {
      if (kind !== StageKind.INSERT) continue;
      const id = toHex(key);
      const exists = seen.has(id) || this.#records.exists(key);
      seen.add(id);
      if (exists === undefined) unknown.push(i);
      else if (exists) refused.push(i);
    }
    if (unknown.length === 0) return refused;
    const epoch = this.#epoch;
    const recorded = (header.flags & StageFlag.RECORDED) !== 0;
    const shown = recorded || header.revision > 0n ? { keysOnly: true } : { countOnly: true };
    const reads = unknown.map((i) => ({ key: entries[i].key, rangeEnd: null, ...shown }));
    const responses = yield* readAll(reads, this.#options);
    this.#stillIn(epoch);
    for (const [i, index] of unknown.entries()) {
      const { count, rows } = decodeRangeResponse(responses[i]);
      const mod = rows.at(0)?.modRevision ?? ABSENT;
      if (header.revision > 0n && mod > header.revision) throw conflict(entries[index].key);
      if (count > 0n) refused.push(index);
      if (recorded) this.#noteExisting(entries[index].key, mod, header);
    }
    return refused.sort((a, b) => a - b);
  }

  /** A key that an INSERT has found with this mod_revision, or not. */
  #noteExisting(key: Uint8Array, mod: bigint, { level, flags }: StageHeader): void {
    // A key that was not there is guarded by its INSERT, unless that goes with a subtransaction or is written at once.
    const guardsItself = level === 1 || (flags & StageFlag.IMMEDIATE) !== 0;
    if (mod !== ABSENT || !guardsItself) this.#records.noteRead(key, mod);
  }

  /** Deletes what is in the ranges, as a command of this number sees them. */
  *deleteRange(payload: Uint8Array): Work<Answer> {
    this.#check();
    const epoch = this.#epoch;
    yield* this.#records.settle();
    const { header, rest } = decodeStageHeader(payload);
    const batch = header.flags & StageFlag.IMMEDIATE ? this.#batch() : null;
    const view = this.#view(batch === null ? header.command : 0, (header.flags & StageFlag.RECORDED) !== 0);
    const level = batch === null ? header : NOW;
    let count = 0;
    // All of it is read at one revision, which the statements that follow may have to keep to.
    let revision: bigint | null = null;
    try {
      for (const read of readsOf(rest)) {
        const asked = decodeRangeRequest(read);
        if (revision !== null) asked.revision = String(revision);
        if (batch !== null) this.#refuseStaged(asked);
        const found: { count: number; revision: bigint } = yield* this.#emptyRange(asked, view, (entry) => {
          this.#stillIn(epoch);
          this.#add(entry, level, batch?.records);
        });
        count += found.count;
        revision = found.revision;
        this.#stillIn(epoch);
        if (asked.rangeEnd === null || isFiltered(asked)) continue;
        const deleted = { range: keyRangeOf(copied(asked)), revision, command: level.command };
        if (batch === null) this.#deleted.push({ ...deleted, level: header.level });
        else batch.deleted.push(deleted);
      }
    } catch (error) {
      batch?.records.clear();
      throw error;
    }
    if (batch !== null) return { write: batch, count, refused: [] };
    return { reply: { revision: revision ?? 0n, count, refused: [] } };
  }

  /**
   * What is written at once stays, whatever becomes of the transaction; and then its own write of the row would fail.
   * Throws EtcdFdwError 55000 for a key in what is asked for that the transaction has written.
   */
  #refuseStaged(asked: RangeRequest): void {
    const { start, end } = keyRangeOf(asked);
    for (let from: Uint8Array | null = start; from !== null;) {
      const { writes, next } = this.#records.block(from, end, Infinity);
      if (writes.length > 0) throw notCommitted(writes[0].key);
      from = next;
    }
  }

  /** Hands out a DELETE for each key of a range; at which revision they were found. */
  *#emptyRange(
    asked: RangeRequest,
    view: View,
    add: (entry: StageEntry) => void,
  ): Work<{ count: number; revision: bigint }> {
    let request: RangeRequest = { ...asked, keysOnly: true, limit: FIRST_PAGE_KEYS };
    let count = 0;
    for (;;) {
      const reply = yield* readRange(encodeRangeRequest(request), view);
      const page = yield* decodePage(reply, revisionOf(request));
      let last: Uint8Array | null = null;
      for (const [i, raw] of page.rows.entries()) {
        if (i % STRIDE === STRIDE - 1) yield;
        const row = decodeKeyRow(raw);
        last = row.key;
        count++;
        add({
          ...{ kind: StageKind.DELETE, key: row.key, value: row.value, lease: 0n },
          ...{ seenMod: row.modRevision, seenCreate: row.createRevision, seenVersion: row.version },
        });
      }
      if (!page.more || request.rangeEnd === null || last === null) return { count, revision: page.revision };
      const limit = listingPage(page.rows.length, reply.length);
      request = { ...request, revision: String(page.revision), key: successor(last), limit };
    }
  }

  /**
   * Grants a lease of so many seconds, or answers with one that is as good as new. Throws as etcd does.
   *
   * @param now Milliseconds.
   */
  *grant(payload: Uint8Array, now: number): Work<Answer> {
    this.#check();
    const epoch = this.#epoch;
    const { seconds, level } = decodeGrant(payload);
    // A row lives as long as it says, by the whole seconds that etcd counts.
    const fresh = ({ grantedAt }: Lease) => now - grantedAt < Math.min(1, Number(seconds) / 10) * 1000;
    const known = this.#leases.find((one) =>
      one.seconds === seconds && one.level <= level && one.use !== "WRITTEN" && fresh(one)
    );
    if (known !== undefined) return { reply: { revision: known.id, count: 0, refused: [] } };
    const id = decodeLease(yield* ask(Method.LEASE_GRANT, encodeLeaseGrant(seconds)));
    if (epoch !== this.#epoch) this.#revoke(id);
    this.#stillIn(epoch);
    this.#leases.push({ id, seconds, level, grantedAt: now, use: "NONE" });
    return { reply: { revision: id, count: 0, refused: [] } };
  }

  rollback(level: number): void {
    this.#epoch++;
    this.#records.rollback(level);
    this.#deleted = this.#deleted.filter((one) => one.level < level);
    this.#revokeFrom(level);
    if (this.#failure !== null && this.#failure.level >= level) this.#failure = null;
  }

  #revokeFrom(level: number): void {
    for (const lease of this.#leases) {
      if (lease.level >= level && lease.use !== "WRITTEN") this.#revoke(lease.id);
    }
    this.#leases = this.#leases.filter((lease) => lease.level < level);
  }

  /** Of rows that ON CONFLICT DO NOTHING has left out, or that were never written. */
  #revokeUnused(): void {
    for (const { id, use } of this.#leases) if (use === "NONE") this.#revoke(id);
  }

  release(level: number): void {
    this.#records.release(level);
    for (const one of [...this.#deleted, ...this.#leases]) one.level = Math.min(one.level, level - 1);
    if (this.#failure !== null && this.#failure.level >= level) this.#failure.level = level - 1;
  }

  /** A read of the command with this number; `record` where SERIALIZABLE must hold for it. */
  *read(method: number, message: Uint8Array, command: number, record: boolean): Work<Uint8Array> {
    this.#check();
    yield* this.#records.settle();
    const view = this.#view(command, record);
    if (method === Method.RANGE) return yield* readRange(message, view);
    if (method === Method.READ_TXN) return yield* readTxn(message, view);
    return yield* ask(method, message);
  }

  #view(command: number, record: boolean): View {
    const records = this.#records;
    return {
      records,
      command,
      limits: this.#options,
      note: record ? (request, page) => this.#reads.note(request, page, records) : null,
    };
  }

  /** All that it comes to, to be written; `settle` tells how that went. Throws what writes before have met with. */
  commit(): Batch {
    this.#check();
    this.#state = "COMMITTING";
    const reads = this.#records.hasReads || this.#reads.ranges.length > 0 ? this.#reads : null;
    return { records: this.#records, deleted: this.#deleted, reads };
  }

  /** The outcome of the commit. */
  settle(outcome: "COMMITTED" | "REFUSED" | "UNKNOWN"): void {
    this.#state = outcome;
    if (outcome === "REFUSED") this.#revokeFrom(0);
    if (outcome === "COMMITTED") this.#revokeUnused();
    this.#clear();
  }

  /** The backend has ended it. A commit under way has its outcome first. */
  end(): void {
    if (this.#state !== "OPEN" && this.#state !== "REFUSED") return;
    this.#state = "ABORTED";
    this.#revokeFrom(0);
    this.#clear();
  }

  #clear(): void {
    this.#epoch++;
    this.#records.clear();
    this.#reads.clear();
    this.#deleted = [];
    this.#leases = [];
  }
}

function notCommitted(key: Uint8Array): EtcdFdwError {
  return new EtcdFdwError("55000", `cannot change key "${printableKey(key)}" at once`, {
    detail:
      'The transaction has written it through a table with write_mode "transactional", and is not committed.',
    hint: 'Use a table with write_mode "transactional", or commit before.',
  });
}

/** Of what is written at once. */
const NOW: StageHeader = { level: 1, command: 0, flags: 0, revision: 0n };

/** The request, without a hold on the frame that it came in. */
function copied(request: RangeRequest): RangeRequest {
  return { ...request, key: request.key.slice(), rangeEnd: request.rangeEnd?.slice() ?? null };
}

/** Whether the request leaves keys of its range out. */
function isFiltered(request: RangeRequest): boolean {
  const { minModRevision, maxModRevision, minCreateRevision, maxCreateRevision } = request;
  const bounds = [minModRevision, maxModRevision, minCreateRevision, maxCreateRevision];
  return bounds.some((one) => one !== undefined) || Boolean(request.limit);
}
