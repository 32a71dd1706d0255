// The clusters in use: one for each list of endpoints, user and certificates, shared by all sessions that name the same.
//
// A cluster outlives its last session for a while: short sessions that follow each other keep one connection.

import { EtcdFdwError } from "../../base/errors.ts";
import type { OpenPayload } from "../../ipc/frame.ts";
import { fenced, GrantedLeases } from "../fence.ts";
import type { ClusterHandle } from "../handle.ts";
import type { Runtime, Timer } from "../runtime.ts";
import { Stats } from "../stats.ts";
import { Budget } from "../memory.ts";
import { cached, Caches, type ClusterCaches } from "../cache/caches.ts";
import { Written } from "../cache/written.ts";
import { Hub } from "../watch/hub.ts";
import { Cluster, type ClusterOptions } from "./cluster.ts";
import { Coalescer } from "./coalesce.ts";
import { Groups } from "./group.ts";
import { makeHandle } from "./handle.ts";
import { checkTls } from "./tls.ts";

/** How long a cluster that nobody uses keeps its connection, in milliseconds. */
const GRACE_MS = 60_000;

/** What the windows of all watches may hold where nobody says it. */
const WINDOWS_BYTES = 64 * 1024 * 1024;
/** What all caches may hold where nobody says it. */
const CACHES_BYTES = 64 * 1024 * 1024;

interface Entry {
  cluster: Cluster;
  coalescer: Coalescer;
  groups: Groups;
  hub: Hub;
  caches: ClusterCaches;
  users: number;
  /** Runs while nobody uses it. */
  timer: Timer | null;
}

export class Clusters {
  readonly #entries = new Map<string, Entry>();
  readonly stats: Stats;
  readonly #runtime: Runtime;
  readonly #log: (message: string) => void;
  readonly #graceMs: number;
  readonly #windows: Budget;
  readonly caches: Caches;
  readonly #create: (options: ClusterOptions) => Cluster;

  constructor(
    runtime: Runtime,
    log: (message: string) => void,
    {
      graceMs = GRACE_MS,
      create = (options: ClusterOptions) => new Cluster(options),
      windows = new Budget(WINDOWS_BYTES),
      caches = new Budget(CACHES_BYTES),
    } = {},
  ) {
    this.#runtime = runtime;
    this.stats = new Stats(() => runtime.wallClock());
    this.#log = log;
    this.#graceMs = graceMs;
    this.#windows = windows;
    this.caches = new Caches(runtime, caches, log);
    this.#create = create;
  }

  /**
   * A handle on the cluster that OPEN names, for a session that was granted these leases and has written this; it connects at
   * the first call. Throws EtcdFdwError 22023.
   */
  open(open: OpenPayload, granted = new GrantedLeases(), written = new Written()): ClusterHandle {
    const { endpoints, username, password, tls } = checked(open);
    // Who knows another password, or none, must not get the connection of one who knows it.
    const key = JSON.stringify([endpoints, username, password, tls]);
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      const runtime = this.#runtime;
      const hasUser = username !== undefined || tls?.cert !== undefined;
      const cluster = this.#create({ runtime, endpoints, username, password, tls, log: this.#log });
      const coalescer = new Coalescer(runtime, (...call) => cluster.call(...call));
      const groups = new Groups(runtime, (...call) => cluster.call(...call), hasUser);
      const hub = new Hub(runtime, cluster, this.#windows);
      const caches = this.caches.of(cluster, hub);
      this.#entries.set(key, entry = { cluster, coalescer, groups, hub, caches, users: 0, timer: null });
    }
    entry.timer?.cancel();
    entry.users++;
    let released = false;
    const { cluster, coalescer, groups, hub } = entry;
    const shared = { runtime: this.#runtime, cluster, coalescer, groups, hub, stats: this.stats };
    const handle = makeHandle(shared, open, {
      share: () => this.open(open, granted, written),
      close: () => {
        if (!released) this.#release(key, entry);
        released = true;
      },
    });
    return fenced(cached(handle, entry.caches, this.stats.of(handle.label), written), open, granted);
  }

  /** How many clusters are kept. */
  get size(): number {
    return this.#entries.size;
  }

  /** How many of them have a connection. */
  get connections(): number {
    return [...this.#entries.values()].filter(({ cluster }) => cluster.connected).length;
  }

  #release(key: string, entry: Entry): void {
    if (--entry.users > 0) return;
    entry.timer = this.#runtime.after(this.#graceMs, () => {
      this.#entries.delete(key);
      entry.caches.close();
      entry.hub.close();
      entry.cluster.close();
    });
  }
}

function checked(open: OpenPayload): OpenPayload {
  const isTime = (ms: unknown) => typeof ms === "number" && ms > 0 && ms <= 0x7fffffff;
  const isCount = (count: unknown) => typeof count === "number" && count >= 0 && count <= 0x7fffffff;
  const isText = (text: unknown) => text === undefined || typeof text === "string";
  const isTls = (tls: OpenPayload["tls"]) =>
    tls === undefined ||
    typeof tls === "object" && tls !== null && typeof tls.verify === "boolean" &&
      [tls.ca, tls.cert, tls.key, tls.servername].every(isText);
  const valid = Array.isArray(open.endpoints) && open.endpoints.length > 0 &&
    open.endpoints.every((endpoint) => typeof endpoint === "string" && endpoint !== "") &&
    isTime(open.connectTimeout) && isTime(open.requestTimeout) && isText(open.username) &&
    isText(open.password) &&
    [open.database, open.server, open.role].every((name) => typeof name === "string") &&
    isTime(open.maxTxnOps) && isTime(open.maxRequestBytes ?? 1) &&
    [true, false, undefined].includes(open.nested) && isTime(open.maxStagedBytes / 1024) &&
    isText(open.prefix) && [true, false, undefined].includes(open.updatable) &&
    isCount(open.maxRetries) && isCount(open.retryBackoff) && isTls(open.tls);
  // The payload is not quoted: it may hold a password.
  if (!valid) throw new EtcdFdwError("22023", "malformed connection options in an open frame");
  if (open.tls !== undefined) checkTls(open.tls);
  return open;
}
