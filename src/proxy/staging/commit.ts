// A transaction's end: its writes as one Txn with their guards, or as several where etcd takes no more at once.

import { printable } from "../../ipc/bytes.ts";
import { EtcdFdwError } from "../../ipc/errors.ts";
import { type Compare, decodeTxn, encodeTxn, type TxnOp } from "../../ipc/etcd_txn.ts";
import { decodeRangeResponse } from "../../ipc/etcd_ranges.ts";
import { successor } from "../../ipc/keyrange.ts";
import { duplicateKey, type Write } from "./writes.ts";

/** Makes a Txn; with `writes`, a lost answer is an unknown outcome. */
export type Txn = (request: Uint8Array, writes: boolean) => Promise<Uint8Array>;

export interface CommitOptions {
  /** Operations, and comparisons, that etcd takes in one Txn. */
  maxTxnOps: number;
  /** Whether more than these are refused. */
  requireAtomic: boolean;
}

/** One key's part in a Txn. */
interface Step {
  key: Uint8Array;
  compare: Compare | null;
  op: TxnOp | null;
  /** What a failed comparison means. */
  failure: "23505" | "40001";
}

/** Txns that are on their way at a time. */
const IN_FLIGHT = 16;

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
  return { key, compare, op, failure: made ? "23505" : "40001" };
}

function chunked<T>(items: T[], size: number): T[][] {
  const chunks: T[][] = [];
  for (let at = 0; at < items.length; at += size) chunks.push(items.slice(at, at + size));
  return chunks;
}

/** Runs the tasks, a few at a time, and waits for all that were begun. Rejects with the first failure. */
async function inFlight(tasks: (() => Promise<unknown>)[]): Promise<void> {
  let next = 0;
  let failed: { error: unknown } | null = null;
  const worker = async () => {
    while (failed === null && next < tasks.length) {
      await tasks[next++]().catch((error) => failed ??= { error });
    }
  };
  await Promise.all(Array.from({ length: Math.min(IN_FLIGHT, tasks.length) }, worker));
  if (failed !== null) throw (failed as { error: unknown }).error;
}

const RETRY = "The transaction might succeed if retried.";

/**
 * Why a comparison failed. Looked for afterwards: reads in each Txn, which nearly always succeeds, would cost more than the
 * puts do. When the key is as it should be again, or was only read, nothing can be named.
 */
async function refusal(steps: Step[], txn: Txn): Promise<EtcdFdwError> {
  const suspects = steps.filter(({ compare }) => compare !== null);
  const success = suspects.map(({ key }): TxnOp => ({ range: { key, rangeEnd: null, keysOnly: true } }));
  const { responses } = decodeTxn(await txn(encodeTxn({ compare: [], success, failure: [] }), false));
  const index = suspects.findIndex(({ compare }, i) => {
    const [row] = decodeRangeResponse(responses[i]!).rows;
    const { target, value } = compare!;
    return (target === "create" ? row?.createRevision ?? 0n : row?.modRevision ?? 0n) !== value;
  });
  const step = suspects[index];
  if (step?.failure === "23505") return duplicateKey(step.key);
  return new EtcdFdwError("40001", "could not serialize access due to concurrent update in etcd", {
    detail: step === undefined ? "" : `The key "${printable(step.key)}" was changed by another client.`,
    hint: RETRY,
  });
}

/** Fewer keys than these are compared one by one. */
const COMPACT_STEPS = 8;

/**
 * The guards of new keys that follow each other as one comparison: no key may be there from the first to the last. It is
 * stricter, so that it may fail where the guards hold; null where it does not fit.
 */
function compactCompare(steps: Step[]): Compare | null {
  const absent = steps.every(({ compare }) => compare?.target === "create");
  if (!absent || steps.length < COMPACT_STEPS) return null;
  const rangeEnd = successor(steps[steps.length - 1].key);
  return { key: steps[0].key, rangeEnd, target: "create", result: "equal", value: 0n };
}

const guardsOf = (steps: Step[]): Compare[] => steps.flatMap((step) => step.compare ?? []);

/** Makes a Txn with the compact comparison, and only where that fails with each guard; its reply, or a refusal. */
async function guarded(steps: Step[], reads: Compare[], success: TxnOp[], txn: Txn): Promise<bigint> {
  const compact = compactCompare(steps);
  for (const compare of compact === null ? [guardsOf(steps)] : [[compact], guardsOf(steps)]) {
    const request = encodeTxn({ compare: [...reads, ...compare], success, failure: [] });
    const reply = decodeTxn(await txn(request, success.length > 0));
    if (reply.succeeded) return reply.revision;
  }
  throw await refusal(steps, txn);
}

/** Sends these steps; the revision of the Txn. Rejects with 23505 or 40001 when a comparison fails. */
function send(steps: Step[], reads: Compare[], txn: Txn): Promise<bigint> {
  return guarded(steps, reads, steps.flatMap((step) => step.op ?? []), txn);
}

/** Whether all comparisons hold now. */
async function verify(steps: Step[], txn: Txn): Promise<void> {
  if (guardsOf(steps).length > 0) await guarded(steps, [], [], txn);
}

/** The same for the Txns of a large transaction; those with a compact comparison are asked about many at a time. */
function verifications(chunks: Step[][], most: number, txn: Txn): (() => Promise<void>)[] {
  const compact = chunks.filter((chunk) => compactCompare(chunk) !== null);
  const others = chunks.filter((chunk) => compactCompare(chunk) === null);
  const together = async (group: Step[][]) => {
    const compare = group.map((chunk) => compactCompare(chunk)!);
    const reply = decodeTxn(await txn(encodeTxn({ compare, success: [], failure: [] }), false));
    if (!reply.succeeded) { for (const chunk of group) await verify(chunk, txn); }
  };
  return [
    ...chunked(compact, most).map((group) => () => together(group)),
    ...others.map((chunk) => () => verify(chunk, txn)),
  ];
}

export interface Committed {
  /** Of the last Txn; 0 when there was nothing to write. */
  revision: bigint;
  txns: number;
}

/**
 * Writes all of it. `reads` are comparisons for what the transaction has read. Rejects with 23505 or 40001 when a
 * guard does not hold, with 08007 when the outcome is unknown, and with 54000 when one Txn cannot hold it and must.
 */
export async function commitWrites(
  writes: Write[],
  reads: Compare[],
  { maxTxnOps, requireAtomic }: CommitOptions,
  txn: Txn,
): Promise<Committed> {
  const steps = writes.map(stepOf).filter((step) => step !== null);
  if (steps.length === 0) return { revision: 0n, txns: 0 };
  const compares = reads.length + steps.filter(({ compare }) => compare !== null).length;
  if (steps.length <= maxTxnOps && compares <= maxTxnOps) {
    return { revision: await send(steps, reads, txn), txns: 1 };
  }
  if (requireAtomic || reads.length > 0) throw tooLarge(steps.length, compares, maxTxnOps, reads.length > 0);
  const chunks = chunked(steps, maxTxnOps);
  await inFlight(verifications(chunks, maxTxnOps, txn));
  let revision = 0n;
  let done = 0;
  const write = async (chunk: Step[]) => {
    const at = await send(chunk, [], txn);
    done++;
    if (at > revision) revision = at;
  };
  try {
    await inFlight(chunks.map((chunk) => () => write(chunk)));
  } catch (error) {
    throw done === 0 ? error : partial(EtcdFdwError.from(error), done, chunks.length);
  }
  return { revision, txns: chunks.length };
}

function partial(error: EtcdFdwError, done: number, all: number): EtcdFdwError {
  return new EtcdFdwError("08007", "a transaction was written to etcd in part", {
    detail: `${done} of ${all} Txns took effect, then: ${error.message}. ${error.detail}`.trim(),
    hint:
      "Compare the rows concerned with etcd. Option atomic 'require' refuses transactions that need several Txns.",
  });
}

function tooLarge(ops: number, compares: number, most: number, serializable: boolean): EtcdFdwError {
  return new EtcdFdwError("54000", "transaction is too large for one Txn of etcd", {
    detail: `It has ${ops} writes and ${compares} comparisons; max_txn_ops is ${most}.` +
      (serializable ? " Under SERIALIZABLE, all of them must be in one." : ""),
    hint: "Raise etcd's --max-txn-ops and the server's max_txn_ops, or write less in a transaction.",
  });
}
