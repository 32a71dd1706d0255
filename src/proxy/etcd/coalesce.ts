// Reads of single keys that arrive while others are under way leave together, as one Txn: for etcd a Txn of a hundred reads
// costs little more than one of them. Each still starts after it was asked for, so what it sees is not older than that.

import { batchEnd, type Limits } from "../../etcd/batches.ts";
import { decodeTxn, encodeRawReads, withHeader } from "../../etcd/txn.ts";
import { isSingleKeyRange } from "../../etcd/ranges.ts";
import { Method } from "../../ipc/frame.ts";
import { cancelled } from "../deadline.ts";
import type { Runtime, Timer } from "../runtime.ts";
import type { Terms } from "./cluster.ts";

/** Makes a call of the cluster. */
export type Call = (method: number, payload: Uint8Array, terms: Terms) => Promise<Uint8Array>;

/** Reads that go out by themselves; only more than these at a time are held back for the next Txn. */
const SINGLE_READS = 2;
/** How long a read is held back behind those under way at most, in milliseconds: they may be stalled. */
const HOLD_MS = 20;

interface Waiting {
  payload: Uint8Array;
  terms: Terms;
  limits: Limits;
  resolve: (reply: Uint8Array) => void;
  reject: (error: unknown) => void;
}

export class Coalescer {
  readonly #runtime: Runtime;
  readonly #call: Call;
  #underWay = 0;
  readonly #waiting = new Set<Waiting>();
  /** Ends the holding back; set while somebody waits. */
  #timer: Timer | null = null;

  constructor(runtime: Runtime, call: Call) {
    this.#runtime = runtime;
    this.#call = call;
  }

  /** As Cluster.call. `limits` are what its server says that etcd takes. */
  call(method: number, payload: Uint8Array, terms: Terms, limits: Limits): Promise<Uint8Array> {
    if (method !== Method.RANGE || !isSingleKeyRange(payload)) return this.#call(method, payload, terms);
    if (this.#underWay < SINGLE_READS) return this.#tracked(this.#call(method, payload, terms));
    return new Promise((resolve, reject) => {
      const one: Waiting = { payload, terms, limits, resolve, reject };
      this.#waiting.add(one);
      this.#timer ??= this.#runtime.after(HOLD_MS, () => this.#sendWaiting());
      terms.signal?.addEventListener("abort", () => {
        this.#waiting.delete(one);
        reject(cancelled());
      });
    });
  }

  #tracked<T>(call: Promise<T>): Promise<T> {
    this.#underWay++;
    const over = () => {
      this.#underWay--;
      this.#sendWaiting();
    };
    call.then(over, over);
    return call;
  }

  #sendWaiting(): void {
    this.#timer?.cancel();
    this.#timer = null;
    if (this.#waiting.size === 0) return;
    const waiting = [...this.#waiting];
    // Servers may differ in what they say of the same etcd.
    const least = (of: (limits: Limits) => number) => Math.min(...waiting.map(({ limits }) => of(limits)));
    const limits = {
      maxTxnOps: least(({ maxTxnOps }) => maxTxnOps),
      maxRequestBytes: least(({ maxRequestBytes }) => maxRequestBytes),
    };
    const batch = waiting.slice(0, batchEnd(0, waiting.length, (i) => waiting[i].payload.length, limits));
    for (const one of batch) this.#waiting.delete(one);
    if (this.#waiting.size > 0) this.#timer = this.#runtime.after(HOLD_MS, () => this.#sendWaiting());
    this.#send(batch);
  }

  #single({ payload, terms, resolve, reject }: Waiting): void {
    this.#tracked(this.#call(Method.RANGE, payload, terms)).then(resolve, reject);
  }

  #send(batch: Waiting[]): void {
    if (batch.length === 1) return this.#single(batch[0]);
    const request = encodeRawReads(batch.map(({ payload }) => payload));
    // The least patient one's deadline: when that is over, the others are asked for by themselves.
    const deadline = batch.map(({ terms }) => terms.deadline).reduce((first, one) => first.earlier(one));
    const terms = { ...batch[0].terms, deadline, signal: undefined, counters: undefined };
    this.#tracked(this.#call(Method.READ_TXN, request, terms)).then((reply) => {
      const { header, responses } = decodeTxn(reply);
      batch.forEach(({ resolve, terms: { counters } }, i) => {
        if (counters !== undefined) counters.coalesced++;
        resolve(withHeader(responses[i]!, header));
      });
    }).catch(() => {
      // What is wrong with one of them must not be the others' error.
      for (const one of batch) if (!one.terms.signal?.aborted) this.#single(one);
    });
  }
}
