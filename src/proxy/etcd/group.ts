// Writes that arrive while others are under way leave together, as one Txn, each with its own comparisons: for etcd a Txn of
// fifty writes costs little more than one of them. Alone, a write goes out at once.
//
//   state      what happens                                   becomes
//   (none)     no other is under way, or it is no small one   SENT, by itself
//   (none)     others are                                     WAITING
//   WAITING    one of those has ended, or HOLD_MS are over    SENT with others that it is apart from
//   WAITING    it is cancelled, or late                       ended; etcd has not seen it
//   SENT       etcd has answered                              ended, with its own answer
//   SENT       it is cancelled, or late                       ended, what became of it is not known; the others go on
//   SENT       etcd has refused the Txn as a whole            SENT, by itself
//   SENT       the connection was lost                        ended, as each by itself would be
//
// A write never leaves twice but when etcd has refused it, and overtakes nobody who waits and whom it meets.

import { EtcdFdwError } from "../../base/errors.ts";
import { ENVELOPE_BYTES, type Limits } from "../../etcd/batches.ts";
import { areApart, type Footprint, footprintOf } from "../../etcd/footprint.ts";
import { decodeGroup, encodeGroup, type GroupedWrite, sizeInGroup } from "../../etcd/group.ts";
import { type Rights, rightsSize } from "../../etcd/rights.ts";
import { Method } from "../../ipc/frame.ts";
import { waitFor } from "../deadline.ts";
import { undecided } from "../handle.ts";
import type { Runtime, Timer } from "../runtime.ts";
import type { Terms } from "./cluster.ts";
import type { Call } from "./coalesce.ts";
import { lateWrite } from "./status.ts";

/** Requests of writes that are under way before others wait: with one, two clients would take turns. */
const UNDER_WAY = 2;
/** How long a write waits for those under way at most, in milliseconds: they may be stalled. */
const HOLD_MS = 20;
/** Writes in one Txn, and their bytes: others should not wait for them for long. */
const MAX_WRITES = 48;
const MAX_BYTES = 256 * 1024;
/** A larger write goes by itself. */
const SMALL_BYTES = 16 * 1024;
/** What is left of the operations that a level of a Txn may have, for the writes in it. */
const SPARED_OPS = 16;

const KINDS: Record<number, GroupedWrite["kind"]> = {
  [Method.PUT]: "put",
  [Method.DELETE_RANGE]: "delete",
  [Method.TXN]: "txn",
};

const NONE: Rights = { read: [], written: [] };

interface Waiting extends GroupedWrite {
  method: number;
  footprint: Footprint;
  terms: Terms;
  limits: Limits;
  resolve: (reply: Uint8Array) => void;
  reject: (error: unknown) => void;
}

export class Groups {
  readonly #runtime: Runtime;
  readonly #call: Call;
  readonly #hasUser: boolean;
  #underWay = 0;
  /** The oldest first. */
  readonly #waiting = new Set<Waiting>();
  /** Ends the waiting; set while there is any. */
  #timer: Timer | null = null;

  /** @param hasUser Whether etcd may know who writes: then rights are looked at. */
  constructor(runtime: Runtime, call: Call, hasUser: boolean) {
    this.#runtime = runtime;
    this.#call = call;
    this.#hasUser = hasUser;
  }

  /** As Cluster.call; null: it is no write that can be made together with others. */
  call(method: number, payload: Uint8Array, terms: Terms, limits: Limits): Promise<Uint8Array> | null {
    const kind = KINDS[method];
    if (kind === undefined || payload.length > SMALL_BYTES || limits.maxTxnOps < 2 * SPARED_OPS) return null;
    if (this.#underWay < UNDER_WAY && this.#waiting.size === 0) {
      return this.#tracked(this.#call(method, payload, terms));
    }
    const footprint = footprintOf({ kind, payload });
    if (footprint === null) return null;
    return this.#wait({ kind, method, payload, footprint, terms, limits });
  }

  #wait(write: Omit<Waiting, "resolve" | "reject">): Promise<Uint8Array> {
    let waiting: Waiting;
    const answer = new Promise<Uint8Array>((resolve, reject) => {
      this.#waiting.add(waiting = { ...write, resolve, reject });
    });
    this.#timer ??= this.#runtime.after(HOLD_MS, () => this.#sendWaiting());
    const { deadline, signal } = write.terms;
    const late = () => lateWrite(deadline.ms, this.#waiting.has(waiting));
    return waitFor(this.#runtime, answer, deadline.left(), late, signal).finally(() =>
      this.#waiting.delete(waiting)
    );
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
    const group = this.#next();
    for (const one of group) this.#waiting.delete(one);
    if (this.#waiting.size > 0) this.#timer = this.#runtime.after(HOLD_MS, () => this.#sendWaiting());
    if (group.length > 0) this.#send(group);
  }

  /** Who leaves next: the oldest, and who meets neither it nor one that has come before himself. */
  #next(): Waiting[] {
    const group: Waiting[] = [];
    const passed: Waiting[] = [];
    let room = MAX_BYTES;
    let rights = 0;
    for (const one of this.#waiting) {
      const most = one.limits.maxTxnOps - SPARED_OPS;
      if (group.length === 0) room = Math.min(room, one.limits.maxRequestBytes - ENVELOPE_BYTES);
      const needed = this.#rightsOf([one]) ?? NONE;
      const size = sizeInGroup(one) + rightsSize(needed);
      const operations = rights + needed.read.length + needed.written.length;
      const isFull = group.length >= Math.min(MAX_WRITES, most) || size > room || operations > most;
      if (isFull && group.length > 0) break;
      const isApart = (other: Waiting) => areApart(one.footprint, other.footprint);
      if (group.every(isApart) && passed.every(isApart)) {
        group.push(one);
        room -= size;
        rights = operations;
      } else passed.push(one);
    }
    return group;
  }

  /** Those to which etcd must be made to look; null: to none. */
  #rightsOf(group: Waiting[]): Rights | null {
    if (!this.#hasUser) return null;
    const txns = group.filter(({ kind }) => kind === "txn");
    return {
      read: txns.flatMap(({ footprint }) => footprint.read),
      written: txns.flatMap(({ footprint }) => footprint.written),
    };
  }

  #single({ method, payload, terms, resolve, reject }: Waiting): void {
    this.#tracked(this.#call(method, payload, terms)).then(resolve, reject);
  }

  #send(group: Waiting[]): void {
    if (group.length === 1) return this.#single(group[0]);
    // One that is late or cancelled must not be the others' end, so the most patient one's deadline holds.
    const deadline = group.map(({ terms }) => terms.deadline).reduce((last, one) => last.later(one));
    const terms = { ...group[0].terms, deadline, signal: undefined, counters: undefined };
    const call = this.#call(Method.TXN, encodeGroup(group, this.#rightsOf(group)), terms).then((reply) =>
      decodeGroup(reply, group)
    );
    this.#tracked(call).then((answers) => {
      for (const [i, { resolve, terms: { counters } }] of group.entries()) {
        if (counters !== undefined) counters.grouped++;
        resolve(answers[i]);
      }
    }, (thrown) => {
      const error = undecided(EtcdFdwError.from(thrown));
      // What is wrong with one of them must not be the others' error; what may have taken place is not done again.
      const isRefusal = !error.sqlstate.startsWith("08") && error.sqlstate !== "XX000";
      for (const one of group) {
        if (isRefusal && !one.terms.signal?.aborted && !one.terms.deadline.over) this.#single(one);
        else one.reject(error);
      }
    });
  }
}
