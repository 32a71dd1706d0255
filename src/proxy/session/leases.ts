// Leases that the proxy keeps alive for a session.
//
//   state     renewed  expired  refused  release   revoke
//   HELD      HELD     LOST     LOST     RELEASED  REVOKED
//
// The others are final. "expired" is the lease's own deadline: a time to live after the last renewal that succeeded was
// sent. etcd cannot have ended it before that, and may have ended it after, whether or not it can be asked. "refused" is
// etcd's word that it has.

import { LeaseReply, LeaseRequest } from "../../etcd/api.ts";
import { Method } from "../../ipc/frame.ts";
import { Deadline } from "../deadline.ts";
import type { ClusterHandle } from "../handle.ts";
import type { Runtime, Timer } from "../runtime.ts";

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
      if (ttl <= 0) return void this.#take("refused");
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
   * Ends it in etcd, if that can be reached: its keys are gone at once. Whether it was held until now. One that was lost is
   * revoked too: etcd may have it still.
   */
  async revoke(deadline?: Deadline): Promise<boolean> {
    const held = this.state === "HELD";
    this.#take("revoke");
    const payload = LeaseRequest.encode({ ID: String(this.id) });
    await this.#handle.call(Method.LEASE_REVOKE, payload, { deadline }).catch(() => {});
    return held;
  }
}
