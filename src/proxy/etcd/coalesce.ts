// Reads of single keys that arrive while others are under way leave together, as one Txn: for etcd a Txn of a hundred reads
// costs little more than one of them. Each still starts after it was asked for, so what it sees is not older than that.

import { concatBytes } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { decodeTxn, encodeRawReads } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { MAX_TXN_OPS } from "../../ipc/limits.ts";
import type { Counters } from "../stats.ts";
import type { Timeouts } from "./cluster.ts";

/** Makes a call of the cluster. */
export type Call = (
  method: number,
  payload: Uint8Array,
  timeouts: Timeouts,
  signal?: AbortSignal,
  counters?: Counters,
) => Promise<Uint8Array>;

/** Reads that go out by themselves; only more than these at a time are held back for the next Txn. */
const SINGLE_READS = 2;

interface Waiting {
  payload: Uint8Array;
  /** performance.now() */
  askedAt: number;
  timeouts: Timeouts;
  signal?: AbortSignal;
  counters?: Counters;
  resolve: (reply: Uint8Array) => void;
  reject: (error: unknown) => void;
}

/** The time to wait counts from the asking: the backend gives up on a proxy that takes longer. */
function remaining({ timeouts, askedAt }: Waiting): Timeouts {
  const waited = Math.round(performance.now() - askedAt);
  return { ...timeouts, request: Math.max(timeouts.request - waited, 1) };
}

const KEY = 1 << 3 | 2;
const RANGE_END = 2 << 3 | 2;

/** Whether the RangeRequest surely asks for a single key: it begins with the key, and no range_end follows. */
function isSingleKey(payload: Uint8Array): boolean {
  if (payload[0] !== KEY) return false;
  let length = 0;
  let at = 1;
  for (let shift = 0;; shift += 7) {
    length |= (payload[at] & 0x7f) << shift;
    if ((payload[at++] & 0x80) === 0) break;
  }
  return payload[at + length] !== RANGE_END;
}

export class Coalescer {
  readonly #call: Call;
  #underWay = 0;
  #waiting: Waiting[] = [];

  constructor(call: Call) {
    this.#call = call;
  }

  /** As Cluster.call. */
  call(
    method: number,
    payload: Uint8Array,
    timeouts: Timeouts,
    signal?: AbortSignal,
    counters?: Counters,
  ): Promise<Uint8Array> {
    if (method !== Method.RANGE || !isSingleKey(payload)) {
      return this.#call(method, payload, timeouts, signal, counters);
    }
    if (this.#underWay < SINGLE_READS) {
      return this.#tracked(this.#call(method, payload, timeouts, signal, counters));
    }
    return new Promise((resolve, reject) => {
      const one: Waiting = {
        payload,
        askedAt: performance.now(),
        timeouts,
        signal,
        counters,
        resolve,
        reject,
      };
      this.#waiting.push(one);
      signal?.addEventListener("abort", () => {
        this.#waiting = this.#waiting.filter((other) => other !== one);
        reject(new EtcdFdwError("57014", "request was cancelled"));
      });
    });
  }

  #tracked<T>(call: Promise<T>): Promise<T> {
    this.#underWay++;
    const over = () => {
      this.#underWay--;
      if (this.#waiting.length > 0) this.#send(this.#waiting.splice(0, MAX_TXN_OPS));
    };
    call.then(over, over);
    return call;
  }

  #single(one: Waiting): void {
    const { payload, signal, counters, resolve, reject } = one;
    const call = this.#call(Method.RANGE, payload, remaining(one), signal, counters);
    this.#tracked(call).then(resolve, reject);
  }

  #send(batch: Waiting[]): void {
    if (batch.length === 1) return this.#single(batch[0]);
    const request = encodeRawReads(batch.map(({ payload }) => payload));
    // The most patient one's: each ends by its own signal.
    const timeouts = batch.map(remaining).reduce((most, one) => one.request > most.request ? one : most);
    this.#tracked(this.#call(Method.READ_TXN, request, timeouts)).then((reply) => {
      const { header, responses } = decodeTxn(reply);
      batch.forEach(({ resolve, counters }, i) => {
        if (counters !== undefined) counters.coalesced++;
        // The responses in a Txn have headers of their own, which lack the member; the Txn's goes behind and wins.
        resolve(withHeader(responses[i]!, header));
      });
    }, () => {
      // What is wrong with one of them must not be the others' error.
      for (const one of batch) if (!one.signal?.aborted) this.#single(one);
    });
  }
}

const LENGTH_DELIMITED_HEADER = 1 << 3 | 2;

/** The response with this header merged into its own. */
function withHeader(response: Uint8Array, header: Uint8Array): Uint8Array {
  const length: number[] = [];
  let rest = header.length;
  for (; rest > 0x7f; rest >>>= 7) length.push(rest & 0x7f | 0x80);
  return concatBytes(response, Uint8Array.of(LENGTH_DELIMITED_HEADER, ...length, rest), header);
}
