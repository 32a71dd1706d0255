// What a session asks of the proxy itself: it needs more than one call of etcd, outlives a statement, or is about the
// proxy. Requests are JSON in UTF-8 with bytes in hexadecimal and 64-bit numbers as decimal strings, and so are the
// answers, but for EVENTS (WatchCreateRequest in, WatchResponse out), CHANGES (WatchCreateRequest in, a WatchedPage of src/etcd/watch.ts out), WATCH (a WatchedPage out), OBSERVE (a LeaderResponse out, empty for none) and
// SNAPSHOT (the snapshot's bytes out, in parts; empty behind the last).

import { decodeUtf8, encodeUtf8, fromHex, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { Ask } from "../../ipc/frame.ts";
import { type Deadline, waitFor } from "../deadline.ts";
import { type ClusterHandle, LateError, type PartedAnswer } from "../handle.ts";
import type { Runtime, Timer } from "../runtime.ts";
import type { CacheRow } from "../cache/caches.ts";
import type { StatRow, Stats } from "../stats.ts";
import { Estate } from "./estate.ts";

/** About the process, for monitoring. */
export interface ProxyInfo {
  stats: Stats;
  /** Backends that are connected. */
  sessions: number;
  /** Sessions, connections to etcd and so on, as they are now. */
  about(): Record<string, string | number>;
  caches(): CacheRow[];
}

/**
 * Shapes of the requests; core writes them. Times to live in seconds. Patience is how long to wait for other clients, in
 * milliseconds, null for ever: a part of the request's time, since what comes before and behind the waiting takes some too.
 */
interface Requests {
  name: string;
  value: string;
  lease: string;
  ttl: number;
  patience: number | null;
  revision: string;
  first: boolean;
  key: string;
  end: string | null;
  prev: boolean;
  /** Revisions; null as in WatchRequest. */
  after: string | null;
  upto: string | null;
  /** Events that are wanted, null for all. */
  count: number | null;
  /** Events that need not wait for more; absent for `count`. */
  enough?: number;
  known?: boolean;
}

/** How many bytes of events one answer holds, a little more or less. */
const WATCHED_BYTES = 1024 * 1024;

/**
 * A snapshot whose next part nobody wants for so long, in milliseconds, has been given up: the backend failed to write it.
 * etcd keeps old pages as long as it is open.
 */
const SNAPSHOT_IDLE_MS = 60_000;
/** What a snapshot holds while it is under way: what etcd may send ahead, and the next part twice while it is put together. */
const SNAPSHOT_BYTES = 6 * 1024 * 1024;

/** The session's memory. Taking throws EtcdFdwError 53200. */
export interface Memory {
  take(bytes: number): void;
  give(bytes: number): void;
}

/** The request's signal and deadline. */
interface By {
  signal: AbortSignal;
  deadline: Deadline;
  /** As WatchRequest has it. */
  turn?: (bytes: number) => Promise<void> | null;
}

export class Asks {
  readonly #runtime: Runtime;
  readonly #info: ProxyInfo;
  readonly #memory: Memory;
  readonly #estates = new Map<string, Estate>();
  #snapshot: PartedAnswer | null = null;
  #idle: Timer | null = null;

  constructor(runtime: Runtime, info: ProxyInfo, memory: Memory) {
    this.#runtime = runtime;
    this.#memory = memory;
    this.#info = info;
  }

  /** Answers; `handle` is null on the channel that belongs to no server. Rejects with EtcdFdwError. */
  async answer(code: number, payload: Uint8Array, handle: ClusterHandle | null, by: By): Promise<Uint8Array> {
    switch (code) {
      case Ask.STAT:
        return json(this.#info.stats.rows().map(rounded));
      case Ask.STAT_RESET:
        this.#info.stats.reset();
        return json(true);
      case Ask.PROXY:
        return json(this.#info.about());
      case Ask.CACHES:
        return json(this.#info.caches());
    }
    if (handle === null) throw new EtcdFdwError("08P01", `ask ${code} needs a server`);
    if (code === Ask.EVENTS) return await handle.events(payload, by);
    if (code === Ask.CHANGES) return await handle.changes(payload, by);
    return await this.#ask(code, parsed(payload), handle, by);
  }

  async #ask(code: number, ask: Requests, handle: ClusterHandle, by: By): Promise<Uint8Array> {
    const patience = ask.patience ?? Infinity;
    const estate = this.#of(handle);
    switch (code) {
      case Ask.ENDPOINTS:
        return json(handle.endpoints);
      case Ask.CERTIFICATES:
        return json(await handle.certificates());
      case Ask.OBSERVE: {
        const options = { signal: by.signal, deadline: by.deadline.within(patience) };
        const reply = await handle.observe(fromHex(ask.name), BigInt(ask.revision), options);
        return reply ?? new Uint8Array(0);
      }
      case Ask.WATCH:
        return await handle.watch(
          {
            key: fromHex(ask.key),
            rangeEnd: ask.end === null ? null : fromHex(ask.end),
            prev: ask.prev,
            after: ask.after === null ? null : BigInt(ask.after),
            upto: ask.upto === null ? null : BigInt(ask.upto),
            wait: patience,
            enough: ask.enough ?? ask.count ?? Infinity,
            count: ask.count ?? Infinity,
            bytes: WATCHED_BYTES,
            known: ask.known ?? false,
            turn: by.turn,
          },
          by,
        );
      case Ask.SNAPSHOT:
        return await this.#nextOfSnapshot(ask, handle, by);
      case Ask.LEASE_KEEP:
        return json(
          ask.lease === "0"
            ? String(await estate.keepNew(handle, ask.ttl, by))
            : await estate.keep(handle, BigInt(ask.lease), by),
        );
      case Ask.LEASE_RELEASE:
        return json(estate.release(BigInt(ask.lease)));
      case Ask.LOCK: {
        const key = await estate.lock(handle, ask.name, ask.ttl, patience, by);
        return json(key && toHex(key));
      }
      case Ask.UNLOCK:
        return json(await estate.unlock(ask.name, by));
      case Ask.CAMPAIGN:
        return json(await estate.campaign(handle, ask.name, fromHex(ask.value), ask.ttl, patience, by));
      case Ask.PROCLAIM:
        return json(await estate.proclaim(handle, ask.name, fromHex(ask.value), by));
      case Ask.RESIGN:
        return json(await estate.resign(ask.name, by));
      case Ask.HELD:
        return json(estate.held());
      default:
        throw new EtcdFdwError("0A000", `the etcd proxy does not know ask ${code}`);
    }
  }

  /** What the session holds for this server and role. */
  #of({ label }: ClusterHandle): Estate {
    const key = JSON.stringify(label);
    let estate = this.#estates.get(key);
    if (estate === undefined) this.#estates.set(key, estate = new Estate(this.#runtime));
    return estate;
  }

  /** One snapshot of a session at a time: who begins another has given up the one before. */
  async #nextOfSnapshot(ask: Requests, handle: ClusterHandle, { signal, deadline }: By): Promise<Uint8Array> {
    if (ask.first) {
      this.#endSnapshot();
      const begun = await this.#beginSnapshot(handle, { signal, deadline });
      // Another one may have been begun meanwhile.
      this.#endSnapshot();
      this.#snapshot = begun;
    }
    this.#idle?.cancel();
    const snapshot = this.#snapshot;
    if (snapshot === null) throw new EtcdFdwError("08P01", "no snapshot is under way");
    const late = () => new LateError("08006", `etcd sent no more of its snapshot within ${deadline.ms} ms`);
    try {
      const part = await waitFor(this.#runtime, snapshot.next(), deadline.left(), late, signal);
      if (part === null) this.#endSnapshot();
      else this.#idle = this.#runtime.after(SNAPSHOT_IDLE_MS, () => this.#endSnapshot());
      return part ?? new Uint8Array(0);
    } catch (error) {
      if (this.#snapshot === snapshot) this.#endSnapshot();
      throw error;
    }
  }

  /** A snapshot that counts until it is closed. */
  async #beginSnapshot(handle: ClusterHandle, by: By): Promise<PartedAnswer> {
    this.#memory.take(SNAPSHOT_BYTES);
    try {
      const begun = await handle.snapshot(by);
      return {
        next: () => begun.next(),
        close: () => {
          begun.close();
          this.#memory.give(SNAPSHOT_BYTES);
        },
      };
    } catch (error) {
      this.#memory.give(SNAPSHOT_BYTES);
      throw error;
    }
  }

  #endSnapshot(): void {
    this.#idle?.cancel();
    this.#snapshot?.close();
    this.#snapshot = null;
  }

  /** The session is over. */
  end(): void {
    this.#endSnapshot();
    for (const estate of this.#estates.values()) estate.end();
    this.#estates.clear();
  }
}

function parsed(payload: Uint8Array): Requests {
  try {
    const ask = JSON.parse(decodeUtf8(payload));
    if (typeof ask === "object" && ask !== null) return ask;
  } catch {
    // Told below.
  }
  throw new EtcdFdwError("08P01", "malformed request to the etcd proxy");
}

const json = (value: unknown) => encodeUtf8(JSON.stringify(value));

/** SQL shows whole microseconds. */
const rounded = (row: StatRow): StatRow => ({
  ...row,
  latency_sum: Math.round(row.latency_sum * 1000) / 1000,
  latency_max: Math.round(row.latency_max * 1000) / 1000,
});
