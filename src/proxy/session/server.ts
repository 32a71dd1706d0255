// The Unix socket that the backends connect to.

import type { Listener } from "../runtime.ts";
import { type Budget, Expectations, TRANSACTIONS_SHARE } from "../memory.ts";
import { Session, type SessionOptions } from "./session.ts";

export interface ListenOptions extends Omit<SessionOptions, "transactions" | "expectations"> {
  /** Of the whole proxy. */
  budget: Budget;
}

/** Listens at `path`: a session for each connection. Rejects with the system's error when it cannot. */
export function listen(path: string, options: ListenOptions): Promise<Listener> {
  const { runtime, log, budget } = options;
  const shared: SessionOptions = {
    ...options,
    transactions: budget.part(TRANSACTIONS_SHARE, "all transactions together"),
    expectations: new Expectations(budget),
  };
  runtime.etcd.meter?.(shared.expectations);
  return runtime.listen(
    path,
    (connection) => new Session(connection, shared),
    (error) => log(`error on socket "${path}": ${error.message}`),
  );
}
