// A transaction's end: its writes as one Txn with their guards, or as several where etcd takes no more at once.

import { printable } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { type Compare, decodeTxn, encodeTxn, type TxnOp } from "../../etcd/txn.ts";
import { decodeRangeResponse } from "../../etcd/ranges.ts";
import {
  compactCompare,
  type DeletedRange,
  guardedByKey,
  guardsOf,
  keyByKey,
  opsOf,
  type Step,
  stepsOf,
} from "./steps.ts";
import { duplicateKey, type Write } from "./writes.ts";

/** Makes a Txn; with `writes`, a lost answer is an unknown outcome. */
export type Txn = (request: Uint8Array, writes: boolean) => Promise<Uint8Array>;

export interface CommitOptions {
  /** Operations, and comparisons, that etcd takes in one Txn. */
  maxTxnOps: number;
  /** Whether more than these are refused. */
  requireAtomic: boolean;
}

/** Txns that are on their way at a time. */
const IN_FLIGHT = 16;

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

/** A range that was to be deleted at once has keys that the DELETE did not see. */
class RangeChanged extends EtcdFdwError {}

/** What shows whether the step's guard holds: its key, or a key of its range that is newer than it allows. */
function suspicion({ key, compare }: Step): TxnOp {
  const { rangeEnd, value } = compare!;
  if (rangeEnd === undefined) return { range: { key, rangeEnd: null, keysOnly: true } };
  return { range: { key, rangeEnd, keysOnly: true, minModRevision: String(value), limit: 1 } };
}

/**
 * Why a comparison failed. Looked for afterwards: reads in each Txn, which nearly always succeeds, would cost more than the
 * puts do. When the key is as it should be again, or was only read, nothing can be named.
 */
async function refusal(steps: Step[], txn: Txn): Promise<EtcdFdwError> {
  const suspects = steps.filter(({ compare }) => compare !== null);
  const success = suspects.map(suspicion);
  const { responses } = decodeTxn(await txn(encodeTxn({ compare: [], success, failure: [] }), false));
  const rows = responses.map((response) => decodeRangeResponse(response!).rows.at(0));
  const index = suspects.findIndex(({ compare, failure }, i) => {
    const { target, value } = compare!;
    if (failure === "range") return rows[i] !== undefined;
    return (target === "create" ? rows[i]?.createRevision ?? 0n : rows[i]?.modRevision ?? 0n) !== value;
  });
  const failure = suspects[index]?.failure;
  const key = rows[index]?.key ?? suspects[index]?.key;
  if (failure === "23505") return duplicateKey(key);
  const changed = failure === "range" || index < 0 && steps.some((step) => step.failure === "range");
  return new (changed ? RangeChanged : EtcdFdwError)(
    "40001",
    "could not serialize access due to concurrent update in etcd",
    {
      detail: index < 0 ? "" : `The key "${printable(key)}" was changed by another client.`,
      hint: RETRY,
    },
  );
}

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
  return guarded(steps, reads, opsOf(steps), txn);
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
 * Writes all of it. `deleted` are ranges that DELETEs emptied, `reads` comparisons for what the transaction has read.
 * Rejects with 23505 or 40001 when a guard does not hold, with 08007 when the outcome is unknown, and with 54000 when one
 * Txn cannot hold it and must.
 */
export async function commitWrites(
  writes: Write[],
  deleted: DeletedRange[],
  reads: Compare[],
  options: CommitOptions,
  txn: Txn,
): Promise<Committed> {
  const ranged = stepsOf(writes, deleted);
  if (ranged.length === 0) return { revision: 0n, txns: 0 };
  const steps = guardedByKey(ranged);
  const single = keyByKey(ranged);
  const fits = (some: Step[]) =>
    opsOf(some).length <= options.maxTxnOps && reads.length + guardsOf(some).length <= options.maxTxnOps;
  // A key that came into a range meanwhile is not the DELETE's: it stays, where the others fit.
  const sent = fits(steps) ? steps : reads.length === 0 ? ranged : single;
  try {
    return await commitSteps(sent, reads, options, txn);
  } catch (error) {
    if (!(error instanceof RangeChanged) || options.requireAtomic && !fits(single)) throw error;
    return await commitSteps(single, reads, options, txn);
  }
}

async function commitSteps(
  steps: Step[],
  reads: Compare[],
  { maxTxnOps, requireAtomic }: CommitOptions,
  txn: Txn,
): Promise<Committed> {
  const ops = opsOf(steps).length;
  const compares = reads.length + guardsOf(steps).length;
  if (ops <= maxTxnOps && compares <= maxTxnOps) {
    return { revision: await send(steps, reads, txn), txns: 1 };
  }
  if (requireAtomic || reads.length > 0) throw tooLarge(ops, compares, maxTxnOps, reads.length > 0);
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
