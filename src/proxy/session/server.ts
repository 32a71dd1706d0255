// The Unix socket that the backends connect to.
//
// node:net rather than Deno.listen: three times the throughput for megabytes, and it takes the path as it is
// given, where Deno.listen makes it absolute, which a deep data directory makes too long for a socket's address.

import { chmodSync, renameSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { Session, type SessionOptions } from "./session.ts";

/**
 * Listens at `path`, which only this user can connect to; replaces what a dead proxy has left there. Rejects with the
 * system's error when it cannot.
 */
export function listen(path: string, options: SessionOptions): Promise<Server> {
  // Bound under another name first: the socket has its mode when it appears, and there is no moment without one.
  const unfinished = `${path}.new`;
  rmSync(unfinished, { force: true });
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => void new Session(socket, options));
    server.once("error", reject);
    server.listen(unfinished, () => {
      try {
        chmodSync(unfinished, 0o600);
        renameSync(unfinished, path);
      } catch (error) {
        server.close();
        return reject(error);
      }
      server.off("error", reject);
      server.on("error", (error) => options.log(`error on socket "${path}": ${error.message}`));
      resolve(server);
    });
  });
}
