// The world for tests: as it is, and one whose time passes when the test says so.

import { grpcTransport } from "./etcd/channel.ts";
import type { Transport } from "./etcd/transport.ts";
import { realRuntime, type Runtime, type Timer } from "./runtime.ts";

export const REAL: Runtime = realRuntime(grpcTransport);

const none = () => {
  throw new Error("not in this test");
};

/** Time stands still but for pass(). */
export class VirtualRuntime implements Runtime {
  readonly etcd: Transport;
  #now = 1_000;
  #timers: { at: number; act: () => void }[] = [];

  constructor(etcd: Partial<Transport> = {}) {
    this.etcd = { dial: none, certificates: none, ...etcd };
  }

  now = () => this.#now;
  wallClock = () => this.#now;
  random = () => 0.5;
  listen = none;

  after(ms: number, act: () => void): Timer {
    const timer = { at: this.#now + Math.max(ms, 0), act };
    if (ms !== Infinity) this.#timers.push(timer);
    return { cancel: () => void (this.#timers = this.#timers.filter((other) => other !== timer)) };
  }

  get timers(): number {
    return this.#timers.length;
  }

  /** Lets so many milliseconds pass: what falls due is done in its order, and what follows from it. */
  async pass(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await settled();
      const next = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.#timers = this.#timers.filter((other) => other !== next);
      this.#now = Math.max(next.at, this.#now);
      next.act();
    }
    this.#now = end;
    await settled();
  }
}

/** The result of work that pauses. */
export function atOnce<T>(work: Generator<undefined, T, unknown>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

/** All that follows from promises that are settled has happened. */
export const settled = () => new Promise<void>((resolve) => setTimeout(resolve, 0));
