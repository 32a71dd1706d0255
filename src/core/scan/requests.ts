// From ranges that are still to be read to the next request: a page of one range, or a Txn of many single keys.

import { fromHex, toHex } from "../../base/bytes.ts";
import {
  encodeRangeRequest,
  encodeReadTxn,
  type Order,
  type RangeRequest,
  type RevisionFilters,
} from "../../etcd/messages.ts";
import { batchEnd, type Limits } from "../../etcd/batches.ts";
import { encodeFrame, FrameType, Method } from "../../ipc/frame.ts";
import { isSingleKey, type KeyRange, toEtcd } from "../../etcd/keyrange.ts";

/** A range in hexadecimal, end null for open. */
export type HexRange = [string, string | null];

export function toHexRange({ start, end }: KeyRange): HexRange {
  return [toHex(start), end === null ? null : toHex(end)];
}

export function fromHexRange([start, end]: HexRange): KeyRange {
  return { start: fromHex(start), end: end === null ? null : fromHex(end) };
}

export const isSingle = (range: HexRange) => isSingleKey(fromHexRange(range));

/** What all requests of a scan have in common. */
export interface Common {
  limits: Limits;
  revision: string;
  keysOnly?: true;
  serializable?: true;
  filters?: RevisionFilters;
  order?: Order;
  /** Which cache may answer (src/etcd/cached.ts), in hexadecimal. */
  cache?: string;
}

export function rangeRequest(range: HexRange, common: Omit<Common, "limits">, limit: number): RangeRequest {
  const { revision, keysOnly, serializable, filters, order } = common;
  const cache = cacheBytes(common);
  return {
    ...toEtcd(fromHexRange(range)),
    limit,
    revision,
    serializable,
    keysOnly,
    order,
    cache,
    ...filters,
  };
}

const cacheBytes = ({ cache }: Pick<Common, "cache">) => cache === undefined ? undefined : fromHex(cache);

/** What the request for a key takes beside it, at most. */
export const REQUEST_BYTES = 100;

function frame(code: number, payload: Uint8Array): Uint8Array {
  return encodeFrame({ type: FrameType.UNARY, code, channel: 0, id: 0, payload });
}

/** The request for up to `limit` keys of a range; 0 for all. */
export function rangeFrame(range: HexRange, common: Omit<Common, "limits">, limit: number): Uint8Array {
  return frame(Method.RANGE, encodeRangeRequest(rangeRequest(range, common, limit)));
}

/** The request for many single keys at once, in this order, and how many of them a request holds. */
export function keysFrame(
  keys: HexRange[],
  common: Common,
  most: number,
): { asked: number; frame: Uint8Array } {
  const limits = { ...common.limits, maxTxnOps: Math.min(common.limits.maxTxnOps, most) };
  const requestOf = (key: HexRange) => rangeRequest(key, { ...common, order: undefined }, 0);
  const sizeOf = (i: number) => REQUEST_BYTES + keys[i][0].length / 2;
  const asked = batchEnd(0, keys.length, sizeOf, limits);
  if (asked === 1) return { asked, frame: rangeFrame(keys[0], { ...common, order: undefined }, 0) };
  return { asked, frame: readsFrame(keys.slice(0, asked).map(requestOf), common) };
}

/** A Txn of reads that are written out one by one. */
export function readsFrame(requests: RangeRequest[], common: Pick<Common, "cache">): Uint8Array {
  return frame(Method.READ_TXN, encodeReadTxn(requests, cacheBytes(common)));
}
