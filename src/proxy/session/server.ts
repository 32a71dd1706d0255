// The Unix socket that the backends connect to.

import type { Listener } from "../runtime.ts";
import { Session, type SessionOptions } from "./session.ts";

/** Listens at `path`: a session for each connection. Rejects with the system's error when it cannot. */
export function listen(path: string, options: SessionOptions): Promise<Listener> {
  const { runtime, log } = options;
  return runtime.listen(
    path,
    (connection) => new Session(connection, options),
    (error) => log(`error on socket "${path}": ${error.message}`),
  );
}
