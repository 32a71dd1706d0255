// Calls on one connection that nobody waits for any more. They are let come to their end: what arrives for a stream that was
// reset speaks against the connection by HTTP/2's guard against floods, which allows a thousand such frames and some thirty
// more each second, and then ends the connection with all other sessions' calls. A reply of a few megabytes is hundreds of
// frames.
//
// A call that does not end soon, or is one too many, is reset; that is done one at a time, the oldest first.

import type { Runtime, Timer } from "../runtime.ts";

/** How long a call may take to end by itself, in milliseconds. */
const PATIENCE_MS = 2_000;
/** Calls, and bytes of their requests, above which nobody has this patience. */
const MANY = 256;
const MANY_BYTES = 16 * 1024 * 1024;
/** Calls of which there are no more, whatever that does to the connection. */
const MOST = 4_096;
/** Between two resets, in milliseconds. */
const PACE_MS = 50;

/** How much later than its caller etcd gives a call up: late enough for all that is said here. In milliseconds. */
export const GRACE_MS = 10_000;

interface Call {
  since: number;
  bytes: number;
  reset: () => void;
}

export class Lingering {
  readonly #runtime: Pick<Runtime, "now" | "after">;
  /** In the order in which they were given up. */
  readonly #calls = new Set<Call>();
  #bytes = 0;
  #timer: Timer | null = null;

  constructor(runtime: Pick<Runtime, "now" | "after">) {
    this.#runtime = runtime;
  }

  get size(): number {
    return this.#calls.size;
  }

  /** Takes a call whose request had so many bytes; what is returned is to be called when it has ended. */
  add(bytes: number, reset: () => void): () => void {
    const call = { since: this.#runtime.now(), bytes, reset };
    this.#calls.add(call);
    this.#bytes += bytes;
    if (this.#calls.size > MOST) this.#resetOldest();
    this.#timer ??= this.#runtime.after(PACE_MS, () => this.#tick());
    return () => this.#forget(call);
  }

  #forget(call: Call): void {
    if (!this.#calls.delete(call)) return;
    this.#bytes -= call.bytes;
    if (this.#calls.size > 0) return;
    this.#timer?.cancel();
    this.#timer = null;
  }

  #resetOldest(): void {
    const [oldest] = this.#calls;
    this.#forget(oldest);
    oldest.reset();
  }

  #tick(): void {
    const [{ since }] = this.#calls;
    const isMany = this.#calls.size > MANY || this.#bytes > MANY_BYTES;
    this.#timer = this.#runtime.after(PACE_MS, () => this.#tick());
    if (isMany || this.#runtime.now() - since >= PATIENCE_MS) this.#resetOldest();
  }
}
