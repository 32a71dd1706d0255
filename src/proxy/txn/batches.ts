// Many small reads, as few Txns: by number and by bytes, since etcd bounds both.

import { batchEnd, type Limits } from "../../etcd/batches.ts";
import { encodeRangeRequest, type RangeRequest } from "../../etcd/messages.ts";
import { decodeTxn, encodeRawReads } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { PAGE_BYTES } from "../../ipc/limits.ts";
import type { Work } from "./work.ts";

/** Txns of reads that are on their way at a time. */
const AT_ONCE = 8;

/** Keys of a page that is only looked through. */
const LISTING_PAGE = 20_000;

/** The keys that the next page of a listing asks for, the last one having had so many in so many bytes. */
export function listingPage(keys: number, bytes: number): number {
  return Math.max(1, Math.min(LISTING_PAGE, Math.floor(PAGE_BYTES * keys / bytes)));
}

/** The RangeResponse of each of the reads. They are of one revision if they name it. */
export function* readAll(reads: RangeRequest[], limits: Limits): Work<Uint8Array[]> {
  const requests = reads.map(encodeRangeRequest);
  const responses: Uint8Array[] = [];
  for (let at = 0; at < requests.length;) {
    const asks = [];
    while (at < requests.length && asks.length < AT_ONCE) {
      const end = batchEnd(at, requests.length, (i) => requests[i].length, limits);
      asks.push({ method: Method.READ_TXN, payload: encodeRawReads(requests.slice(at, end)) });
      at = end;
    }
    for (const reply of yield asks) {
      for (const response of decodeTxn(reply).responses) responses.push(response!);
    }
  }
  return responses;
}
