// How many small requests one of etcd's takes: it bounds operations, and bytes.

import { fieldSize } from "./wire.ts";

/** What etcd takes in one request. */
export interface Limits {
  /** Operations in a Txn. */
  maxTxnOps: number;
  maxRequestBytes: number;
}

/** What etcd, and its client, add to a request before it is measured. */
export const ENVELOPE_BYTES = 1024;

/** Reads that are sent in one Txn, were etcd to take more: it answers others meanwhile. */
const MAX_READS = 128;

/** How many of the reads from this one on fit a Txn; one always does. `sizeOf` is what a RangeRequest takes. */
export function batchEnd(
  from: number,
  count: number,
  sizeOf: (index: number) => number,
  { maxTxnOps, maxRequestBytes }: Limits,
): number {
  const most = Math.min(maxTxnOps, MAX_READS);
  let room = maxRequestBytes - ENVELOPE_BYTES;
  let at = from;
  for (; at < count && at - from < most; at++) {
    room -= fieldSize(fieldSize(sizeOf(at)));
    if (room < 0) break;
  }
  return Math.max(at, from + 1);
}
