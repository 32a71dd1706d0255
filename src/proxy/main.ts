// The proxy's entry: one argument, the path of the Unix socket.
//
// The background worker (src/backend/worker.c) runs this with the cluster's data directory as the current folder and a pipe
// as standard input, whose end means that the server is gone. All that it may do is connect to hosts and use its own folder.

import { ClusterPool } from "./etcd/pool.ts";
import { Session } from "./session.ts";

function log(text: string): void {
  console.error(`etcd_fdw proxy: ${text}`);
}

async function exitWithServer(): Promise<never> {
  const buffer = new Uint8Array(64);
  while (await Deno.stdin.read(buffer).catch(() => null) !== null);
  Deno.exit(0);
}

/** A socket left behind by a proxy that was killed; another file in its place is not touched. */
function removeStale(path: string): void {
  try {
    if (Deno.lstatSync(path).isSocket) Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function serve(path: string): Promise<void> {
  removeStale(path);
  const listener = Deno.listen({ transport: "unix", path });
  Deno.chmodSync(path, 0o600);
  const pool = new ClusterPool();
  for (;;) {
    try {
      const connection = await listener.accept();
      void new Session(connection, pool).run();
    } catch (error) {
      // Out of file descriptors, or a backend that was gone before it was served.
      log(`could not accept a connection: ${error instanceof Error ? error.message : error}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

if (import.meta.main) {
  const [path] = Deno.args;
  if (path === undefined) {
    log("usage: proxy.js SOCKET");
    Deno.exit(2);
  }
  Deno.addSignalListener("SIGTERM", () => Deno.exit(0));
  Deno.addSignalListener("SIGINT", () => Deno.exit(0));
  // One backend's trouble must not end the others' service.
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    log(`unhandled rejection: ${event.reason instanceof Error ? event.reason.stack : event.reason}`);
  });
  void exitWithServer();
  await serve(path);
}
