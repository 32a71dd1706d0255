// What may be held in memory: by a transaction, a session and the whole proxy. Who asks for more is refused; nobody else
// notices.

import { EtcdFdwError } from "../base/errors.ts";

const HINTS: Record<string, string> = {
  "a transaction":
    "Commit more often, raise the server's max_staged_mb, or write with write_mode 'immediate'.",
  "a session": "Commit more often, or write with write_mode 'immediate'.",
  "all transactions together": "Try again when other sessions have committed, or raise the proxy's limit.",
  "the proxy": "Try again when other sessions have committed, or raise the proxy's limit.",
};

/** Bytes that may be taken, of which those of a parent may be a part. */
export class Budget {
  readonly #limit: number;
  readonly #parent: Budget | undefined;
  readonly #name: string;
  #used = 0;
  readonly #waiting = new Set<() => void>();

  constructor(limit: number, parent?: Budget, name = "the proxy") {
    this.#limit = limit;
    this.#parent = parent;
    this.#name = name;
  }

  /** A part of it that is all that some users may take. */
  part(share: number, name: string): Budget {
    return new Budget(Math.floor(this.#limit * share), this, name);
  }

  get used(): number {
    return this.#used;
  }

  /** Takes so many bytes, from the parent too. Throws EtcdFdwError 53200, and has taken nothing then. */
  take(bytes: number): void {
    if (this.#used + bytes > this.#limit) throw this.#exhausted();
    this.#parent?.take(bytes);
    this.#used += bytes;
  }

  /** Takes what is here already, whether or not it may be. */
  note(bytes: number): void {
    this.#parent?.note(bytes);
    this.#used += bytes;
  }

  give(bytes: number): void {
    // Who waits would look in vain, and perhaps give nothing in turn.
    if (bytes === 0) return;
    this.#used -= bytes;
    this.#parent?.give(bytes);
    if (this.#waiting.size > 0) this.#wake();
  }

  get limit(): number {
    return this.#limit;
  }

  get free(): number {
    return this.#limit - this.#used;
  }

  /** Calls back once, when something was given back, be it to the parent. */
  whenGiven(act: () => void): void {
    let isDone = false;
    const once = () => {
      if (!isDone) act();
      isDone = true;
    };
    this.#await(once);
  }

  #await(once: () => void): void {
    this.#waiting.add(once);
    if (this.#parent !== undefined) this.#parent.#await(once);
  }

  /** The first that waits comes first; not at once, since whoever gives is in the middle of something. */
  #wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    queueMicrotask(() => waiting.forEach((act) => act()));
  }

  #exhausted(): EtcdFdwError {
    const name = this.#name;
    return new EtcdFdwError("53200", "out of memory in the etcd proxy", {
      detail: `${name[0].toUpperCase()}${name.slice(1)} may hold ${
        Math.floor(this.#limit / 1024 / 1024)
      } MB there.`,
      hint: HINTS[name] ?? "",
    });
  }
}

/** How much of the proxy's budget transactions may take, so that requests and replies have some left. */
export const TRANSACTIONS_SHARE = 0.75;
/** How much of it may hold events that watchers have not read, or may come back for. */
export const WATCHES_SHARE = 0.125;
/** With how much of it, less than transactions leave, one answer at a time is asked for whatever its size. */
const ENOUGH = 0.125;

/** What can be held up while there is no room for it. */
export interface Flow {
  pause(): unknown;
  resume(): unknown;
}

/** Where large replies find room while they arrive. */
export interface Room {
  /**
   * A reply of this size begins to come; it is paused as long as there is no room for the rest. What is returned is to be
   * called when it is here, or will not come; once is enough.
   */
  arrive(bytes: number, flow: Flow): () => void;
}

interface Arrival {
  bytes: number;
  /** Null once it may come. */
  paused: Flow | null;
}

/**
 * What answers on their way bring, all sessions' together: a part of the proxy's budget. That is what they are expected to
 * bring, or what is arriving if that is more: it cannot be told which expectation an arrival fulfils.
 */
export class Expectations implements Room {
  readonly #budget: Budget;
  #held = 0;
  #expected = 0;
  /** In their order; what may come, and what is paused. */
  readonly #arrivals = new Set<Arrival>();
  #arriving = 0;
  /** What is taken for arrivals beyond all that is expected. */
  #excess = 0;

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  /**
   * Sets room aside; how many bytes, which are to be given back. Null while there is no room: `retry` is called then when
   * there may be. One answer at a time needs no more than ENOUGH of the budget, since what is expected may be wrong.
   */
  take(bytes: number, retry: () => void): number | null {
    if (bytes === 0) return 0;
    const wanted = this.#held > 0 ? bytes : Math.min(bytes, this.#budget.limit * ENOUGH);
    if (wanted > this.#budget.free) {
      this.#budget.whenGiven(retry);
      return null;
    }
    const taken = Math.min(bytes, this.#budget.free);
    this.#budget.take(taken);
    this.#held++;
    this.#expected += taken;
    this.#settle();
    return taken;
  }

  /** The answer to what was expected to bring `bytes` is here, or will not come. */
  give(bytes: number, taken: number): void {
    if (bytes > 0) this.#held--;
    this.#expected -= taken;
    this.#budget.give(taken);
    this.#settle();
  }

  arrive(bytes: number, flow: Flow): () => void {
    const arrival: Arrival = { bytes, paused: flow };
    this.#arrivals.add(arrival);
    this.#admit();
    if (arrival.paused !== null) flow.pause();
    return () => {
      if (!this.#arrivals.delete(arrival)) return;
      if (arrival.paused === null) this.#arriving -= bytes;
      this.#settle();
      this.#admit();
    };
  }

  /** Lets those come for which there is room, and one at a time whatever its size. */
  readonly #admit = () => {
    for (const arrival of this.#arrivals) {
      if (arrival.paused === null) continue;
      const more = this.#excessWith(arrival.bytes) - this.#excess;
      if (this.#arriving > 0 && more > this.#budget.free) return this.#budget.whenGiven(this.#admit);
      this.#arriving += arrival.bytes;
      this.#settle();
      const flow = arrival.paused;
      arrival.paused = null;
      flow.resume();
    }
  };

  #excessWith(bytes: number): number {
    return Math.max(this.#arriving + bytes - this.#expected, 0);
  }

  #settle(): void {
    const more = this.#excessWith(0) - this.#excess;
    this.#excess += more;
    if (more > 0) this.#budget.note(more);
    else if (more < 0) this.#budget.give(-more);
  }
}
