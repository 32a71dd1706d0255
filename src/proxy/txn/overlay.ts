// Reads of a transaction that has written: etcd's answer with the transaction's own writes laid over it.
//
// A row that the transaction wrote has no mod_revision yet, and none of create_revision when it made the key; such a
// revision is shown as 0 on the wire and as NULL in SQL. So it fulfils no filter of revisions, and sorts as NULLs do: last
// where values ascend, first where they descend.

import { compareBytes } from "../../base/bytes.ts";
import { encodeRangeRequest, type RangeRequest, type SortTarget } from "../../etcd/messages.ts";
import {
  decodeRangeRequest,
  decodeRangeResponse,
  encodeRangeResponse,
  type KeyRow,
  makeKeyRow,
  type RangeResponse,
} from "../../etcd/ranges.ts";
import { decodeTxn, encodeReadResponses, encodeTxn, readsOf } from "../../etcd/txn.ts";
import { type KeyRange, singleKey, successor } from "../../etcd/keyrange.ts";
import { MAX_TXN_OPS } from "../../ipc/limits.ts";
import { sortable, type StagedWrites, type Write } from "./writes.ts";

/** etcd, asked without an overlay. */
export interface Reader {
  range(request: Uint8Array): Promise<Uint8Array>;
  /** A Txn that only reads. */
  txn(request: Uint8Array): Promise<Uint8Array>;
}

/** An empty range_end, or the byte 0, is the end of the keyspace. */
export function keyRangeOf({ key, rangeEnd }: RangeRequest): KeyRange {
  if (rangeEnd === null) return singleKey(key);
  return {
    start: key,
    end: rangeEnd.length === 0 || rangeEnd.length === 1 && rangeEnd[0] === 0 ? null : rangeEnd,
  };
}

function rowOf({ key, version }: Write, keysOnly: boolean): KeyRow {
  return makeKeyRow({
    key,
    value: keysOnly ? new Uint8Array(0) : version.value!,
    createRevision: version.createRevision,
    modRevision: 0n,
    // etcd will count all that the transaction did to the key as one.
    version: version.version + 1n,
    lease: version.lease,
  });
}

/** Which of the writes are rows of the answer. */
function rowsOf(writes: Write[], request: RangeRequest): KeyRow[] {
  if (request.minModRevision !== undefined || request.maxModRevision !== undefined) return [];
  const min = BigInt(request.minCreateRevision ?? "0");
  const max = request.maxCreateRevision === undefined ? null : BigInt(request.maxCreateRevision);
  const filtered = request.minCreateRevision !== undefined || max !== null;
  return writes.filter(({ version }) => {
    if (version.value === null) return false;
    const created = version.createRevision;
    return !filtered || created !== 0n && created >= min && (max === null || created <= max);
  }).map((write) => rowOf(write, request.keysOnly ?? false));
}

const hiddenBy = (writes: Write[]) => {
  const keys = new Set(writes.map(({ key }) => sortable(key)));
  return (row: KeyRow) => keys.has(sortable(row.key));
};

/** How many of the keys etcd holds at this revision. */
async function countExisting(
  keys: Uint8Array[],
  request: RangeRequest,
  revision: bigint,
  reader: Reader,
): Promise<Set<string>> {
  const found = new Set<string>();
  for (let at = 0; at < keys.length; at += MAX_TXN_OPS) {
    const reads = keys.slice(at, at + MAX_TXN_OPS).map((key) => ({
      range: {
        key,
        rangeEnd: null,
        revision: String(revision),
        keysOnly: true,
        serializable: request.serializable,
      },
    }));
    const reply = decodeTxn(await reader.txn(encodeTxn({ compare: [], success: reads, failure: [] })));
    for (const response of reply.responses) {
      for (const { key } of decodeRangeResponse(response!).rows) found.add(sortable(key));
    }
  }
  return found;
}

async function overlaidCount(request: RangeRequest, writes: Write[], reader: Reader): Promise<RangeResponse> {
  const response = decodeRangeResponse(await reader.range(encodeRangeRequest(request)));
  const revision = request.revision !== undefined && request.revision !== "0"
    ? BigInt(request.revision)
    : response.revision;
  const existing = await countExisting(writes.map(({ key }) => key), request, revision, reader);
  for (const { key, version } of writes) {
    response.count += BigInt(Number(version.value !== null) - Number(existing.has(sortable(key))));
  }
  return response;
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
async function overlaidSorted(
  request: RangeRequest,
  writes: Write[],
  reader: Reader,
): Promise<RangeResponse> {
  const limit = request.limit ?? 0;
  const asked = { ...request, limit: limit === 0 ? 0 : limit + writes.length };
  const response = decodeRangeResponse(await reader.range(encodeRangeRequest(asked)));
  const isHidden = hiddenBy(writes);
  const rows = [...response.rows.filter((row) => !isHidden(row)), ...rowsOf(writes, request)];
  const { target, descending } = request.order!;
  rows.sort((a, b) => descending ? SORTED_BY[target](b, a) : SORTED_BY[target](a, b));
  const kept = limit === 0 ? rows : rows.slice(0, limit);
  return { ...response, rows: kept, more: response.more || kept.length < rows.length };
}

/** In the order of the key, a page at a time; a page that the overlay leaves empty is followed by the next one. */
async function overlaidPage(request: RangeRequest, writes: Write[], reader: Reader): Promise<RangeResponse> {
  const descending = request.order?.descending ?? false;
  const isHidden = hiddenBy(writes);
  const own = rowsOf(writes, request);
  let left = keyRangeOf(request);
  let asked = request;
  for (;;) {
    const response = decodeRangeResponse(await reader.range(encodeRangeRequest(asked)));
    const last = response.rows.at(-1)?.key;
    const covered = (row: KeyRow) => {
      if (!response.more || last === undefined) return true;
      return descending ? compareBytes(row.key, last) >= 0 : compareBytes(row.key, last) <= 0;
    };
    const isLeft = (row: KeyRow) =>
      compareBytes(row.key, left.start) >= 0 && (left.end === null || compareBytes(row.key, left.end) < 0);
    const rows = [
      ...response.rows.filter((row) => !isHidden(row)),
      ...own.filter((row) => isLeft(row) && covered(row)),
    ].sort((a, b) => descending ? compareBytes(b.key, a.key) : compareBytes(a.key, b.key));
    const limit = request.limit ?? 0;
    const kept = limit === 0 ? rows : rows.slice(0, limit);
    if (kept.length > 0 || !response.more || last === undefined) {
      return { ...response, rows: kept, more: response.more || kept.length < rows.length };
    }
    // All that came is hidden. What follows is read at the same revision.
    const revision = asked.revision !== undefined && asked.revision !== "0"
      ? asked.revision
      : String(response.revision);
    left = descending ? { ...left, end: last } : { ...left, start: successor(last) };
    asked = { ...request, revision, key: left.start, rangeEnd: left.end ?? Uint8Array.of(0) };
  }
}

/** A Range as a command sees it that comes behind what is staged. */
export async function readRange(
  message: Uint8Array,
  staged: StagedWrites,
  command: number,
  reader: Reader,
): Promise<Uint8Array> {
  const request = decodeRangeRequest(message);
  const writes = staged.within(keyRangeOf(request), command);
  if (writes.length === 0) return await reader.range(message);
  return encodeRangeResponse(await overlaid(request, writes, reader));
}

function overlaid(request: RangeRequest, writes: Write[], reader: Reader): Promise<RangeResponse> {
  if (request.countOnly) return overlaidCount(request, writes, reader);
  const target = request.order?.target ?? "key";
  return target === "key" ? overlaidPage(request, writes, reader) : overlaidSorted(request, writes, reader);
}

/** A Txn of reads, likewise: all of them at one revision. */
export async function readTxn(
  message: Uint8Array,
  staged: StagedWrites,
  command: number,
  reader: Reader,
): Promise<Uint8Array> {
  const reply = await reader.txn(message);
  const { header, revision, responses } = decodeTxn(reply);
  const results = await Promise.all(
    readsOf(message).map((read, i) => {
      const request = decodeRangeRequest(read);
      const writes = staged.within(keyRangeOf(request), command);
      if (writes.length === 0) return responses[i]!;
      if (request.rangeEnd === null && !request.countOnly) {
        return overlaidKey(responses[i]!, writes[0], request);
      }
      const at = request.revision !== undefined && request.revision !== "0"
        ? request.revision
        : String(revision);
      return overlaid({ ...request, revision: at }, writes, reader).then(encodeRangeResponse);
    }),
  );
  return encodeReadResponses(header, results);
}

function overlaidKey(response: Uint8Array, write: Write, request: RangeRequest): Uint8Array {
  const rows = rowsOf([write], request);
  return encodeRangeResponse({
    ...decodeRangeResponse(response),
    rows,
    count: BigInt(rows.length),
    more: false,
  });
}
