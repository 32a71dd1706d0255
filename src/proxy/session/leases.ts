// Leases that the proxy keeps alive for a session.
//
//   state     renewed  expired  refused  release   revoke
//   HELD      HELD     LOST     LOST     RELEASED  REVOKED
//
// The others are final. "expired" is the lease's own deadline: a time to live after the last renewal that succeeded was
// sent. etcd cannot have ended it before that, and may have ended it after, whether or not it can be asked. "refused" is
// etcd's word that it has, or that the key is gone for which it stands.

import { EtcdFdwError } from "../../base/errors.ts";
import { LeaseReply, LeaseRequest } from "../../etcd/api.ts";
import { Method } from "../../ipc/frame.ts";
import { Deadline, waitFor } from "../deadline.ts";
import { type ClusterHandle, LateError } from "../handle.ts";
import { type Runtime, sleep, type Timer } from "../runtime.ts";

/** Parts of its time to live after which a lease is renewed, so that two attempts may fail. */
const RENEWALS = 3;
/** Milliseconds after which a renewal that failed is tried again. */
const RETRY_MS = 1_000;

export type LeaseState = "HELD" | "LOST" | "RELEASED" | "REVOKED";
export type LeaseEvent = "expired" | "refused" | "release" | "revoke";

const ENDS: Record<LeaseEvent, LeaseState> = {
  expired: "LOST",
  refused: "LOST",
  release: "RELEASED",
  revoke: "REVOKED",
};

export class KeptLease {
  readonly id: bigint;
  /** Seconds. */
  readonly ttl: number;
  readonly #runtime: Runtime;
  readonly #handle: ClusterHandle;
  readonly #controller = new AbortController();
  #state: LeaseState = "HELD";
  /** As Runtime.now(). */
  #expiresAt: number;
  #expiry: Timer;
  #renewal: Timer;
  /** Under way once it is given up. */
  #revoked: Promise<boolean> | null = null;
  #hurry: AbortController | null = null;
  /** Why etcd was not told the last time that was tried. */
  #untold: EtcdFdwError | null = null;

  /** `grantedAt` is when the lease was asked for, as Runtime.now(). */
  constructor(runtime: Runtime, handle: ClusterHandle, id: bigint, ttl: number, grantedAt: number) {
    this.#runtime = runtime;
    this.#handle = handle;
    this.id = id;
    this.ttl = ttl;
    this.#expiresAt = grantedAt + ttl * 1000;
    this.#expiry = this.#expireInTime();
    this.#renewal = this.#renewIn(ttl * 1000 / RENEWALS);
  }

  get state(): LeaseState {
    // A timer may be late; the clock is not.
    if (this.#state === "HELD" && this.#runtime.now() >= this.#expiresAt) this.#take("expired");
    return this.#state;
  }

  /** It must not be relied on any more, though nobody gave it up here. */
  get lost(): boolean {
    return this.state === "LOST";
  }

  /** Aborted when it is no longer HELD. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** etcd says that what it stands for has ended. */
  refuse(): void {
    this.#take("refused");
  }

  #take(event: LeaseEvent): boolean {
    if (this.#state !== "HELD") return false;
    this.#state = ENDS[event];
    this.#expiry.cancel();
    this.#renewal.cancel();
    this.#controller.abort();
    return true;
  }

  #expireInTime(): Timer {
    return this.#runtime.after(this.#expiresAt - this.#runtime.now(), () => this.#take("expired"));
  }

  #renewIn(ms: number): Timer {
    return this.#runtime.after(ms, () => this.#renew());
  }

  async #renew(): Promise<void> {
    const sentAt = this.#runtime.now();
    const pause = this.ttl * 1000 / RENEWALS;
    let next = pause;
    try {
      // One that takes longer than the pause is better tried again, perhaps with another member.
      const deadline = Deadline.after(
        this.#runtime,
        Math.max(Math.min(pause, this.#handle.requestTimeout), 1),
      );
      const payload = LeaseRequest.encode({ ID: String(this.id) });
      const options = { signal: this.#controller.signal, deadline };
      const reply = LeaseReply.decode(await this.#handle.call(Method.LEASE_KEEPALIVE, payload, options));
      if (this.state !== "HELD") return;
      const ttl = Number(reply.TTL);
      if (ttl <= 0) return this.refuse();
      this.#expiry.cancel();
      this.#expiresAt = sentAt + ttl * 1000;
      this.#expiry = this.#expireInTime();
    } catch {
      next = Math.min(next, RETRY_MS);
    }
    if (this.state === "HELD") this.#renewal = this.#renewIn(next);
  }

  /** It runs out by itself from now on. */
  release(): void {
    this.#take("release");
  }

  /**
   * Ends it in etcd: its keys are gone at once. Whether it was held until now. One that was lost is revoked too: etcd may
   * have it still. Rejects when etcd could not be told within the deadline; that is tried on until the lease ends by itself.
   */
  async revoke(deadline?: Deadline): Promise<boolean> {
    const held = this.state === "HELD";
    this.#take("revoke");
    const revoked = this.#revoked ??= this.#tellUntilOver();
    const late = () => this.#untold ?? noAnswer();
    const patience = Math.min(deadline?.left() ?? Infinity, this.#handle.requestTimeout);
    return await waitFor(this.#runtime, revoked, patience, late) && held;
  }

  /** Tells etcd at once what is to be told again in a while. */
  hasten(): void {
    this.#hurry?.abort();
  }

  /** Resolves when etcd need not be told any more. */
  get over(): Promise<void> {
    return (this.#revoked ?? Promise.resolve()).then(() => {}, () => {});
  }

  /** Whether etcd had it still. Rejects when it could not be told before the lease has ended by itself. */
  async #tellUntilOver(): Promise<boolean> {
    const payload = LeaseRequest.encode({ ID: String(this.id) });
    // No renewal is sent any more.
    const end = Deadline.after(this.#runtime, this.ttl * 1000);
    for (;;) {
      try {
        const deadline = end.within(this.#handle.requestTimeout);
        await this.#handle.call(Method.LEASE_REVOKE, payload, { deadline });
        return true;
      } catch (thrown) {
        const error = EtcdFdwError.from(thrown);
        if (error.sqlstate === NO_LEASE) return this.#untold !== null;
        this.#untold = error;
        if (!PASSING.test(error.sqlstate)) throw error;
      }
      this.#hurry = new AbortController();
      await sleep(this.#runtime, Math.min(RETRY_MS, end.left()), this.#hurry.signal);
      if (end.over) throw this.#untold;
    }
  }
}

/** The SQLSTATEs of a lease that etcd does not have, and of what may pass: no connection, no resources. */
const NO_LEASE = "42704";
const PASSING = /^(08|53)/;

function noAnswer(): LateError {
  return new LateError("08007", "etcd did not answer in time");
}
