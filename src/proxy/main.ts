// The proxy's entry: `main.ts SOCKET [MEGABYTES [CACHE_MEGABYTES]]`, started and watched by the background worker, in the data directory.
//
// It lives as long as its stdin is open: the worker holds the other end, so that the proxy is gone when the
// server is, however that ended. The socket is left behind; the next proxy replaces it. The second argument bounds what it
// holds for all sessions together: staged rows, requests, replies. The third one bounds what all caches hold beside that.
//
// The narrowest permissions it runs with, as the worker gives them (flags.ts has them as a constant):
//   DENO_DIR=pg_stat_tmp/etcd_fdw/deno DENO_NO_UPDATE_CHECK=1
//   deno run --no-prompt --no-config --no-remote --no-npm --allow-net --ignore-env
//     --allow-read=pg_stat_tmp/etcd_fdw/proxy.sock,pg_stat_tmp/etcd_fdw/proxy.sock.new
//     --allow-write=pg_stat_tmp/etcd_fdw/proxy.sock,pg_stat_tmp/etcd_fdw/proxy.sock.new proxy.js pg_stat_tmp/etcd_fdw/proxy.sock
// No list of hosts for --allow-net: endpoints come with CREATE SERVER, after the start. The environment is
// hidden, not allowed: grpc-js reads its settings there, and none of them is meant for it. No run, sys or ffi.

import { VERSION } from "../base/version.ts";
import type { ProxyInfo } from "./session/asks.ts";
import { grpcTransport } from "./etcd/channel.ts";
import { Clusters } from "./etcd/clusters.ts";
import { log } from "./log.ts";
import { Budget, WATCHES_SHARE } from "./memory.ts";
import { realRuntime } from "./runtime.ts";
import { listen } from "./session/server.ts";

const DEFAULT_MEGABYTES = 1024;
const DEFAULT_CACHE_MEGABYTES = 128;

async function exitWithStdin(): Promise<never> {
  try {
    for await (const _ of Deno.stdin.readable) { /* Nobody writes; only the end counts. */ }
  } finally {
    Deno.exit(0);
  }
}

async function main(args: string[]): Promise<void> {
  const [path, megabytes = String(DEFAULT_MEGABYTES), cached = String(DEFAULT_CACHE_MEGABYTES)] = args;
  const isValid = /^[1-9]\d{0,7}$/.test(megabytes) && /^\d{1,8}$/.test(cached);
  if (path === undefined || args.length > 3 || !isValid) {
    log("the path of the socket is needed, and the megabytes that may be held by sessions and by caches");
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
  const runtime = realRuntime(grpcTransport);
  const budget = new Budget(Number(megabytes) * 1024 * 1024, undefined, "the proxy");
  const windows = budget.part(WATCHES_SHARE, "all watches together");
  const caches = new Budget(Number(cached) * 1024 * 1024, undefined, "all caches together");
  const clusters = new Clusters(runtime, log, { windows, caches });
  const startedAt = runtime.wallClock();
  const info: ProxyInfo = {
    stats: clusters.stats,
    sessions: 0,
    about: () => ({
      ...{ pid: Deno.pid, version: VERSION, deno: Deno.version.deno, sessions: info.sessions },
      ...{ started_at: startedAt, clusters: clusters.size, connections: clusters.connections },
      ...memory(),
    }),
    caches: () => clusters.caches.rows(),
  };
  try {
    await listen(path, { runtime, open: (...what) => clusters.open(...what), log, info, budget });
  } catch (error) {
    log(`could not listen on socket "${path}": ${(error as Error).message}`);
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
