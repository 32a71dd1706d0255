// Until when a request must be done. One such object goes with it through queue, coalescer, connector, login, call and
// repetitions, so that none of them has a time of its own.

import { EtcdFdwError } from "../base/errors.ts";
import type { Clock, Runtime } from "./runtime.ts";

export class Deadline {
  readonly #clock: Clock;
  readonly #at: number;
  /** Milliseconds that were given, for messages; Infinity for no limit. */
  readonly ms: number;

  private constructor(clock: Clock, at: number, ms: number) {
    this.#clock = clock;
    this.#at = at;
    this.ms = ms;
  }

  /** So many milliseconds from now; Infinity for no limit. */
  static after(clock: Clock, ms: number): Deadline {
    return new Deadline(clock, clock.now() + ms, ms);
  }

  /** Milliseconds, 0 when it is over. */
  left(): number {
    return Math.max(this.#at - this.#clock.now(), 0);
  }

  get over(): boolean {
    return this.left() === 0;
  }

  /** This one, or so many milliseconds from now if that is earlier. */
  within(ms: number): Deadline {
    return ms < this.left() ? Deadline.after(this.#clock, ms) : this;
  }

  /** The one of the two that comes first. */
  earlier(other: Deadline): Deadline {
    return other.#at < this.#at ? other : this;
  }

  /** The one of the two that comes last. */
  later(other: Deadline): Deadline {
    return other.#at > this.#at ? other : this;
  }
}

export function cancelled(): EtcdFdwError {
  return new EtcdFdwError("57014", "request was cancelled");
}

/** Waits for a promise, but no longer than `ms` or until the signal is aborted. */
export function waitFor<T>(
  runtime: Runtime,
  promise: Promise<T>,
  ms: number,
  late: () => EtcdFdwError,
  signal?: AbortSignal,
): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(cancelled());
    const aborted = () => settle(() => reject(cancelled()));
    const timer = runtime.after(ms, () => settle(() => reject(late())));
    const settle = (act: () => void) => {
      timer.cancel();
      signal?.removeEventListener("abort", aborted);
      act();
    };
    signal?.addEventListener("abort", aborted);
    promise.then((value) => settle(() => resolve(value)), (error) => settle(() => reject(error)));
  });
}
