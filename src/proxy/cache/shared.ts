// One question for all who wait for its answer. Who comes while it is on its way waits for the next one, which is asked
// after he has come.
//
// A question costs more than all else that is done for a read. Clients that ask again and again come back together, when
// they have been answered: so the next question waits for those whom the last one has answered as well as for those who
// came too late for it, but not longer than that one took.

import type { Runtime, Timer } from "../runtime.ts";

/** How long a question waits for more who want it at least and at most, in milliseconds. */
const LEAST_GATHER_MS = 1;
const MOST_GATHER_MS = 5;

interface Next<T> {
  promise: Promise<T>;
  go: () => void;
  /** Who waits for it. */
  count: number;
}

export class Shared<T> {
  readonly #ask: () => Promise<T>;
  readonly #runtime: Pick<Runtime, "now" | "after">;
  #next: Next<T> | null = null;
  #isUnderWay = false;
  /** How many the last question was asked for, and how many the next one is likely to be. */
  #answered = 0;
  #expected = 1;
  #askedAt = 0;
  /** How long the last one took, in milliseconds. */
  #took = 0;
  /** The next question waits no longer. */
  #timer: Timer | null = null;

  constructor(ask: () => Promise<T>, runtime: Pick<Runtime, "now" | "after">) {
    this.#ask = ask;
    this.#runtime = runtime;
  }

  /** An answer to a question that is asked from now on. */
  answer(): Promise<T> {
    const next = this.#next ??= this.#prepare();
    next.count++;
    this.#consider();
    return next.promise;
  }

  #prepare(): Next<T> {
    let go = () => {};
    const promise = new Promise<void>((resolve) => go = resolve).then(() => this.#ask());
    const over = () => {
      this.#isUnderWay = false;
      this.#expected = this.#answered + (this.#next?.count ?? 0);
      this.#took = this.#runtime.now() - this.#askedAt;
      this.#consider();
    };
    promise.then(over, over);
    return { promise, go, count: 0 };
  }

  #consider(): void {
    if (this.#next === null || this.#isUnderWay) return;
    if (this.#next.count >= this.#expected) this.#go(this.#next);
    else {
      const ms = Math.min(Math.max(this.#took, LEAST_GATHER_MS), MOST_GATHER_MS);
      this.#timer ??= this.#runtime.after(ms, () => this.#go(this.#next!));
    }
  }

  /** Nobody joins it any more. */
  #go({ go, count }: Next<T>): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#next = null;
    this.#isUnderWay = true;
    this.#askedAt = this.#runtime.now();
    this.#answered = count;
    go();
  }
}
