// Leases that the proxy keeps alive for a session.

import { LeaseReply, LeaseRequest } from "../../etcd/api.ts";
import { Method } from "../../ipc/frame.ts";
import type { ClusterHandle } from "../handle.ts";

/** Parts of its time to live after which a lease is renewed, so that two attempts may fail. */
const RENEWALS = 3;
/** Milliseconds after which a renewal that failed is tried again. */
const RETRY_MS = 1_000;

export class KeptLease {
  readonly id: bigint;
  /** Seconds. */
  readonly ttl: number;
  /** etcd has ended it. */
  lost = false;
  readonly #handle: ClusterHandle;
  readonly #controller = new AbortController();
  #timer: ReturnType<typeof setTimeout>;

  constructor(handle: ClusterHandle, id: bigint, ttl: number) {
    this.#handle = handle;
    this.id = id;
    this.ttl = ttl;
    this.#timer = this.#renewIn(ttl * 1000 / RENEWALS);
  }

  #renewIn(ms: number): ReturnType<typeof setTimeout> {
    return setTimeout(() => this.#renew(), ms);
  }

  async #renew(): Promise<void> {
    let next = this.ttl * 1000 / RENEWALS;
    try {
      const { signal } = this.#controller;
      const payload = LeaseRequest.encode({ ID: String(this.id) });
      const reply = await this.#handle.call(Method.LEASE_KEEPALIVE, payload, { signal });
      this.lost = LeaseReply.decode(reply).TTL === "0";
    } catch {
      next = Math.min(next, RETRY_MS);
    }
    if (!this.lost && !this.#controller.signal.aborted) this.#timer = this.#renewIn(next);
  }

  /** It runs out by itself from now on. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#controller.abort();
  }

  /** Ends it in etcd, if that can be reached: its keys are gone at once. */
  async revoke(): Promise<void> {
    this.stop();
    const payload = LeaseRequest.encode({ ID: String(this.id) });
    await this.#handle.call(Method.LEASE_REVOKE, payload).catch(() => {});
  }
}
