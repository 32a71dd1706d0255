// What may be held in memory: by a transaction, a session and the whole proxy. Who asks for more is refused; nobody else
// notices.

import { EtcdFdwError } from "../base/errors.ts";

const HINTS: Record<string, string> = {
  "a transaction":
    "Commit more often, raise the server's max_staged_mb, or write with write_mode 'immediate'.",
  "a session": "Commit more often, or write with write_mode 'immediate'.",
  "the proxy": "Try again when other sessions have committed, or raise the proxy's limit.",
};

/** Bytes that may be taken, of which those of a parent may be a part. */
export class Budget {
  readonly #limit: number;
  readonly #parent: Budget | undefined;
  readonly #name: string;
  #used = 0;

  constructor(limit: number, parent?: Budget, name = "the proxy") {
    this.#limit = limit;
    this.#parent = parent;
    this.#name = name;
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

  give(bytes: number): void {
    this.#used -= bytes;
    this.#parent?.give(bytes);
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
