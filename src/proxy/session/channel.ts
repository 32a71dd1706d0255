// A session's channel to one server: OPEN -> CLOSING -> CLOSED. While it is CLOSING it takes no more requests, and those
// under way are still answered: a cursor may read on while the server's options change. CLOSED, its handle is free.

import type { EtcdFdwError } from "../../base/errors.ts";
import type { ClusterHandle } from "../handle.ts";
import { Transaction } from "../txn/transaction.ts";

export type ChannelState = "OPEN" | "CLOSING" | "CLOSED";

export class SessionChannel {
  /** Null where there is no server, or where `error` says why it cannot be used. */
  readonly handle: ClusterHandle | null;
  readonly error: EtcdFdwError | null;
  #state: ChannelState = "OPEN";
  #requests = 0;
  #transaction: Transaction | null = null;
  /** A frame of the transaction was refused that nobody waits for: what comes next must not do as if it had been taken. */
  #refused: EtcdFdwError | null = null;

  constructor(handle: ClusterHandle | null, error: EtcdFdwError | null = null) {
    this.handle = handle;
    this.error = error;
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

  /** The backend's transaction, which begins with the first thing that it stages or has recorded. Throws its refusal. */
  transaction(): Transaction {
    if (this.#refused !== null) throw this.#refused;
    return this.#transaction ??= new Transaction(this.handle!.staging);
  }

  refuse(error: EtcdFdwError): void {
    this.#refused ??= error;
  }

  /** The transaction has committed: there is nothing left to end. */
  committed(transaction: Transaction): void {
    if (this.#transaction === transaction) this.#transaction = null;
  }

  endTransaction(): void {
    this.#refused = null;
    const transaction = this.#transaction;
    this.#transaction = null;
    transaction?.end((method, payload) => this.handle!.call(method, payload));
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
