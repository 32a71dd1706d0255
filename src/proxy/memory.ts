// How much memory the proxy may hold for what: bounds within bounds, so that who asks for more than his share is refused
// and nobody else notices.

import { EtcdFdwError } from "../base/errors.ts";

export class Budget {
  readonly #limit: number;
  readonly #parent: Budget | undefined;
  readonly #name: string;
  #used = 0;

  /** Bytes. What is taken here is taken from the parent too. */
  constructor(limit: number, parent?: Budget, name = "memory") {
    this.#limit = limit;
    this.#parent = parent;
    this.#name = name;
  }

  get used(): number {
    return this.#used;
  }

  /** Throws EtcdFdwError 53200, and takes nothing, when the bound would be exceeded here or above. */
  take(bytes: number): void {
    if (this.#used + bytes > this.#limit) {
      throw new EtcdFdwError("53200", `the etcd proxy has no memory left for ${this.#name}`, {
        detail: `${bytes} bytes were asked for; ${this.#used} of ${this.#limit} bytes are in use.`,
      });
    }
    this.#parent?.take(bytes);
    this.#used += bytes;
  }

  give(bytes: number): void {
    this.#used -= bytes;
    this.#parent?.give(bytes);
  }
}
