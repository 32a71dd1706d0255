// A transaction of one backend on one cluster: its writes until they are committed, its reads with these laid over them,
// and what it has read where SERIALIZABLE demands that this still holds at the end.

import { compareBytes } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { decodeRangeRequest, decodeRangeResponse } from "../../etcd/ranges.ts";
import { decodeLease, encodeLease, encodeLeaseGrant } from "../../etcd/lease.ts";
import { type Compare, decodeTxn, encodeTxn, readsOf } from "../../etcd/txn.ts";
import { encodeRangeRequest, type RangeRequest } from "../../etcd/messages.ts";
import { Method } from "../../ipc/frame.ts";
import { MAX_TXN_OPS } from "../../ipc/limits.ts";
import { type KeyRange, successor, unite } from "../../etcd/keyrange.ts";
import {
  decodeSeconds,
  decodeStageEntries,
  decodeStageHeader,
  type StageEntry,
  StageFlag,
  StageKind,
  type StageReply,
} from "../../ipc/stage.ts";
import { type CommitOptions, commitWrites } from "./commit.ts";
import { keyRangeOf, type Reader, readRange, readTxn } from "./overlay.ts";
import type { DeletedRange } from "./steps.ts";
import { sortable, StagedWrites, type Write } from "./writes.ts";

/** etcd, as a session reaches it. */
export type Call = (method: number, payload: Uint8Array) => Promise<Uint8Array>;

export interface TransactionOptions extends CommitOptions {
  /** What it may hold until it commits. */
  maxStagedBytes: number;
}

/** Pages of a DELETE that finds its keys here. */
const LISTING_PAGE = 20_000;

export class Transaction {
  readonly #options: TransactionOptions;
  readonly #writes: StagedWrites;
  readonly #leases: bigint[] = [];
  /** Ranges that DELETEs have emptied. */
  #deleted: (DeletedRange & { level: number })[] = [];
  /** What went wrong with a write that nobody waits for. */
  #failure: { error: EtcdFdwError; level: number } | null = null;
  /** Ranges that were read under SERIALIZABLE, and the keys in them with their mod_revision, 0 for none. */
  #readRanges: KeyRange[] = [];
  /** That all of it was read at; the lowest, should a table have read the past. */
  #readRevision: bigint | null = null;
  readonly #readKeys = new Map<string, { key: Uint8Array; mod: bigint; create: bigint }>();

  constructor(options: TransactionOptions) {
    this.#options = options;
    this.#writes = new StagedWrites(options.maxStagedBytes);
  }

  /** A WRITE that nobody waits for: it is staged at once, so that what follows finds it. */
  stage(payload: Uint8Array): void {
    let level = 1;
    try {
      const { header, rest } = decodeStageHeader(payload);
      level = header.level;
      for (const entry of decodeStageEntries(rest)) this.#add(entry, header.level, header.command);
    } catch (thrown) {
      this.#failure ??= { error: EtcdFdwError.from(thrown), level };
    }
  }

  #add(entry: StageEntry, level: number, command: number): void {
    this.#writes.add(entry, level, command);
  }

  #check(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }

  /** A WRITE that is waited for. Rejects as the write itself would. */
  async write(payload: Uint8Array, call: Call): Promise<StageReply> {
    this.#check();
    const { header, rest } = decodeStageHeader(payload);
    const entries = decodeStageEntries(rest);
    if (header.flags & StageFlag.IMMEDIATE) return await this.#writeNow(entries, header.flags, call);
    const refused = header.flags & StageFlag.CHECK ? await this.#existing(entries, call) : [];
    const skipped = new Set(refused);
    entries.forEach((entry, i) => {
      if (!skipped.has(i)) this.#add(entry, header.level, header.command);
    });
    return { revision: 0n, count: 0, refused };
  }

  /** Which INSERT entries have keys that exist, in etcd or by the transaction itself. */
  async #existing(entries: StageEntry[], call: Call): Promise<number[]> {
    const refused: number[] = [];
    const unknown: number[] = [];
    const seen = new Set<string>();
    entries.forEach(({ kind, key }, i) => {
      if (kind !== StageKind.INSERT) return;
      const id = sortable(key);
      const exists = seen.has(id) || this.#writes.exists(key);
      seen.add(id);
      if (exists === undefined) unknown.push(i);
      else if (exists) refused.push(i);
    });
    const asked: Promise<void>[] = [];
    for (let at = 0; at < unknown.length; at += MAX_TXN_OPS) {
      const part = unknown.slice(at, at + MAX_TXN_OPS);
      const success = part.map((i) => ({ range: { key: entries[i].key, rangeEnd: null, countOnly: true } }));
      asked.push(
        call(Method.READ_TXN, encodeTxn({ compare: [], success, failure: [] })).then((reply) => {
          decodeTxn(reply).responses.forEach((response, n) => {
            if (decodeRangeResponse(response!).count > 0n) refused.push(part[n]);
          });
        }),
      );
    }
    await Promise.all(asked);
    return refused.sort((a, b) => a - b);
  }

  async #writeNow(entries: StageEntry[], flags: number, call: Call): Promise<StageReply> {
    const refused = flags & StageFlag.CHECK ? await this.#existing(entries, call) : [];
    return { revision: await this.#commitNow(entries, [], refused, call), count: 0, refused };
  }

  async #commitNow(
    entries: StageEntry[],
    deleted: DeletedRange[],
    refused: number[],
    call: Call,
  ): Promise<bigint> {
    const skipped = new Set(refused);
    // Twice the same key in one statement: the second write finds what the first one left.
    const now = new StagedWrites(this.#options.maxStagedBytes);
    entries.forEach((entry, i) => {
      if (!skipped.has(i)) now.add(entry, 1, 0);
    });
    return (await commitWrites(now.final(), deleted, [], this.#options, txnOf(call))).revision;
  }

  /** Deletes what is in the ranges, as a command of this number sees them. */
  async deleteRange(payload: Uint8Array, call: Call): Promise<StageReply> {
    this.#check();
    const { header, rest } = decodeStageHeader(payload);
    const before = header.flags & StageFlag.IMMEDIATE ? 0 : header.command;
    let count = 0;
    let revisionRead = 0n;
    const doomed: StageEntry[] = [];
    const deleted: DeletedRange[] = [];
    if (header.flags & StageFlag.RECORDED) await this.#record(Method.READ_TXN, rest, readerOf(call));
    for (const read of readsOf(rest)) {
      const asked = decodeRangeRequest(read);
      let request: RangeRequest = { ...asked, keysOnly: true, limit: LISTING_PAGE };
      let revision = 0n;
      for (;;) {
        const reply = decodeRangeResponse(
          await readRange(encodeRangeRequest(request), this.#writes, before, readerOf(call)),
        );
        if (revision === 0n) revision = request.revision ? BigInt(request.revision) : reply.revision;
        if (reply.revision > revisionRead) revisionRead = reply.revision;
        for (const row of reply.rows) {
          count++;
          doomed.push({
            ...{ kind: StageKind.DELETE, key: row.key, value: new Uint8Array(0), lease: 0n },
            ...{ seenMod: row.modRevision, seenCreate: row.createRevision, seenVersion: row.version },
          });
        }
        if (!reply.more || request.rangeEnd === null) break;
        request = { ...request, revision: String(revision), key: successor(reply.rows.at(-1)!.key) };
      }
      if (asked.rangeEnd !== null && !isFiltered(asked)) deleted.push({ range: keyRangeOf(asked), revision });
    }
    if (header.flags & StageFlag.IMMEDIATE) {
      return { revision: await this.#commitNow(doomed, deleted, [], call), count, refused: [] };
    }
    for (const entry of doomed) this.#add(entry, header.level, header.command);
    for (const one of deleted) this.#deleted.push({ ...one, level: header.level });
    return { revision: revisionRead, count, refused: [] };
  }

  /** Grants a lease of so many seconds. Rejects as etcd does. */
  async grant(payload: Uint8Array, call: Call): Promise<StageReply> {
    const lease = decodeLease(await call(Method.LEASE_GRANT, encodeLeaseGrant(decodeSeconds(payload))));
    this.#leases.push(lease);
    return { revision: lease, count: 0, refused: [] };
  }

  /** The transaction has not committed: its leases are of no use. Whoever cannot be reached lets them run out. */
  end(call: Call): void {
    for (const lease of this.#leases) call(Method.LEASE_REVOKE, encodeLease(lease)).catch(() => {});
  }

  rollback(level: number): void {
    this.#writes.rollback(level);
    this.#deleted = this.#deleted.filter((one) => one.level < level);
    if (this.#failure !== null && this.#failure.level >= level) this.#failure = null;
  }

  release(level: number): void {
    this.#writes.release(level);
    for (const one of this.#deleted) one.level = Math.min(one.level, level - 1);
    if (this.#failure !== null && this.#failure.level >= level) this.#failure.level = level - 1;
  }

  /** A read of the command with this number; `record` where SERIALIZABLE must hold for it. */
  async read(
    method: number,
    message: Uint8Array,
    command: number,
    record: boolean,
    call: Call,
  ): Promise<Uint8Array> {
    this.#check();
    const reader = readerOf(call);
    if (record) await this.#record(method, message, reader);
    if (this.#writes.size === 0) return await call(method, message);
    if (method === Method.RANGE) return await readRange(message, this.#writes, command, reader);
    if (method === Method.READ_TXN) return await readTxn(message, this.#writes, command, reader);
    return await call(method, message);
  }

  /** Notes what the read finds in etcd: its keys, which may be deleted, and its range, where keys may come and change. */
  async #record(method: number, message: Uint8Array, reader: Reader): Promise<void> {
    const reads = method === Method.READ_TXN ? readsOf(message) : method === Method.RANGE ? [message] : [];
    for (const read of reads) {
      const request = decodeRangeRequest(read);
      // Not for what a limit shows: which keys come first depends on all of them up to there.
      const whole = { ...request, countOnly: false, keysOnly: true };
      const reply = decodeRangeResponse(await reader.range(encodeRangeRequest(whole)));
      const revision = request.revision && request.revision !== "0"
        ? BigInt(request.revision)
        : reply.revision;
      for (const { key, modRevision, createRevision } of reply.rows) {
        this.#readKeys.set(sortable(key), { key, mod: modRevision, create: createRevision });
      }
      if (request.rangeEnd === null) {
        if (reply.rows.length === 0) {
          this.#readKeys.set(sortable(request.key), { key: request.key, mod: 0n, create: 0n });
        }
        continue;
      }
      const shown = cutOff(request, reply.more ? reply.rows.at(-1)?.key : undefined);
      this.#readRanges = unite([...this.#readRanges, keyRangeOf(shown)]);
      if (this.#readRevision === null || revision < this.#readRevision) this.#readRevision = revision;
    }
  }

  /** What must still hold of what was read, beside the guards of what is written. */
  #readCompares(writes: Write[]): Compare[] {
    const compares = this.#readRanges.map(({ start, end }): Compare => ({
      key: start.length === 0 ? Uint8Array.of(0) : start,
      rangeEnd: end ?? Uint8Array.of(0),
      ...{ target: "mod", result: "less", value: this.#readRevision! + 1n },
    }));
    const guarded = new Set(
      writes.filter(({ version }) => version.guard !== null).map(({ key }) => sortable(key)),
    );
    for (const [id, { key, mod, create }] of this.#readKeys) {
      if (guarded.has(id)) continue;
      const ranged = this.#readRanges.some(({ start, end }) =>
        compareBytes(key, start) >= 0 && (end === null || compareBytes(key, end) < 0)
      );
      // In a range that is compared as a whole, a key that was not changed can only be gone.
      if (ranged && create === 0n) continue;
      compares.push({
        key,
        ...(ranged ? { target: "create", value: create } : { target: "mod", value: mod }),
        result: "equal",
      });
    }
    return compares;
  }

  /** Writes it all to etcd. Rejects with 23505, 40001, 08007 or 54000. */
  async commit(call: Call): Promise<StageReply> {
    this.#check();
    const writes = this.#writes.final();
    const { revision, txns } = await commitWrites(
      writes,
      this.#deleted,
      this.#readCompares(writes),
      this.#options,
      txnOf(call),
    );
    return { revision, count: txns, refused: [] };
  }
}

/** The part of a range that a page up to this key has shown. */
function cutOff(request: RangeRequest, last: Uint8Array | undefined): RangeRequest {
  if (last === undefined || request.order !== undefined && request.order.target !== "key") return request;
  return request.order?.descending ? { ...request, key: last } : { ...request, rangeEnd: successor(last) };
}

/** Whether the request leaves keys of its range out. */
function isFiltered(request: RangeRequest): boolean {
  const { minModRevision, maxModRevision, minCreateRevision, maxCreateRevision } = request;
  return [minModRevision, maxModRevision, minCreateRevision, maxCreateRevision].some((one) =>
    one !== undefined
  ) ||
    Boolean(request.limit);
}

function readerOf(call: Call): Reader {
  return {
    range: (request) => call(Method.RANGE, request),
    txn: (request) => call(Method.READ_TXN, request),
  };
}

function txnOf(call: Call) {
  return (request: Uint8Array, writes: boolean) => call(writes ? Method.TXN : Method.READ_TXN, request);
}
