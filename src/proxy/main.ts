// The proxy's entry: `main.ts SOCKET`, started and watched by the background worker, in the data directory.
//
// It lives as long as its stdin is open: the worker holds the other end, so that the proxy is gone when the
// server is, however that ended. The socket is left behind; the next proxy replaces it.
//
// The narrowest permissions it runs with, as the worker gives them (flags.ts has them as a constant):
//   DENO_DIR=pg_etcd_fdw/deno DENO_NO_UPDATE_CHECK=1
//   deno run --no-prompt --no-config --no-remote --no-npm --allow-net --ignore-env
//     --allow-read=pg_etcd_fdw/proxy.sock,pg_etcd_fdw/proxy.sock.new
//     --allow-write=pg_etcd_fdw/proxy.sock,pg_etcd_fdw/proxy.sock.new proxy.js pg_etcd_fdw/proxy.sock
// No list of hosts for --allow-net: endpoints come with CREATE SERVER, after the start. The environment is
// hidden, not allowed: grpc-js reads its settings there, and none of them is meant for it. No run, sys or ffi.

import { VERSION } from "../base/version.ts";
import type { ProxyInfo } from "./session/asks.ts";
import { Clusters } from "./etcd/clusters.ts";
import { log } from "./log.ts";
import { Budget } from "./memory.ts";
import { listen } from "./session/server.ts";

/** What the sessions' transactions may hold together. */
const MEMORY_BYTES = 1024 * 1024 * 1024;

async function exitWithStdin(): Promise<never> {
  try {
    for await (const _ of Deno.stdin.readable) { /* Nobody writes; only the end counts. */ }
  } finally {
    Deno.exit(0);
  }
}

async function main(args: string[]): Promise<void> {
  if (args.length !== 1) {
    log("one argument is needed, the path of the socket");
    Deno.exit(2);
  }
  for (const signal of ["SIGTERM", "SIGINT"] as const) Deno.addSignalListener(signal, () => Deno.exit(0));
  // One session's fault must not end the others.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    log(`unexpected error: ${describe(event.reason)}`);
  });
  globalThis.addEventListener("error", (event) => {
    event.preventDefault();
    log(`unexpected error: ${describe(event.error)}`);
  });
  exitWithStdin();
  const clusters = new Clusters(log);
  const startedAt = Date.now();
  const info: ProxyInfo = {
    stats: clusters.stats,
    sessions: 0,
    about: () => ({
      ...{ pid: Deno.pid, version: VERSION, deno: Deno.version.deno, sessions: info.sessions },
      ...{ started_at: startedAt, clusters: clusters.size, connections: clusters.connections },
      ...memory(),
    }),
  };
  try {
    await listen(args[0], {
      open: (payload) => clusters.open(payload),
      log,
      info,
      memory: new Budget(MEMORY_BYTES),
    });
  } catch (error) {
    log(`could not listen on socket "${args[0]}": ${(error as Error).message}`);
    Deno.exit(1);
  }
}

/** Bytes. */
function memory(): { memory_resident: number; memory_heap: number } {
  const { rss, heapUsed } = Deno.memoryUsage();
  return { memory_resident: rss, memory_heap: heapUsed };
}

function describe(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}

await main(Deno.args);
