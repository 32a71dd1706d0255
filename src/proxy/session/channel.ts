// A session's channel to one server: OPEN -> CLOSING -> CLOSED. While it is CLOSING it takes no more requests, and those
// under way are still answered: a cursor may read on while the server's options change. CLOSED, its handle is free.

import type { EtcdFdwError } from "../../base/errors.ts";
import type { ClusterHandle } from "../handle.ts";
import type { Budget } from "../memory.ts";
import { type Pace, Transactions } from "../txn/driver.ts";

export type ChannelState = "OPEN" | "CLOSING" | "CLOSED";

export class SessionChannel {
  /** Null where there is no server, or where `error` says why it cannot be used. */
  readonly handle: ClusterHandle | null;
  readonly error: EtcdFdwError | null;
  #state: ChannelState = "OPEN";
  #requests = 0;
  readonly #transactions: Transactions | null;
  /** A frame of the transaction was refused that nobody waits for: what comes next must not do as if it had been taken. */
  #refused: EtcdFdwError | null = null;

  constructor(
    handle: ClusterHandle | null,
    error: EtcdFdwError | null = null,
    lent: { budget: Budget; pace: Pace } | null = null,
  ) {
    this.handle = handle;
    this.error = error;
    this.#transactions = handle && lent && new Transactions(handle, lent.budget, lent.pace);
  }

  get state(): ChannelState {
    return this.#state;
  }

  /** A request that will be answered, or forgotten. */
  begin(): void {
    this.#requests++;
  }

  over(): void {
    this.#requests--;
    this.#closeWhenIdle();
  }

  /** The backend's transactions, one after the other. Throws the refusal of what nobody waited for. */
  transactions(): Transactions {
    if (this.#refused !== null) throw this.#refused;
    return this.#transactions!;
  }

  refuse(error: EtcdFdwError): void {
    this.#refused ??= error;
  }

  endTransaction(): void {
    this.#refused = null;
    this.#transactions?.end();
  }

  close(): void {
    if (this.#state !== "OPEN") return;
    this.endTransaction();
    this.#state = "CLOSING";
    this.#closeWhenIdle();
  }

  #closeWhenIdle(): void {
    if (this.#state !== "CLOSING" || this.#requests > 0) return;
    this.#state = "CLOSED";
    this.handle?.close();
  }
}
