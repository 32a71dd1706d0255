// All caches of the proxy: one for each range of a cluster as one user, made when it is first asked for, and what is told
// of them for monitoring.

import { printable, toHex } from "../../base/bytes.ts";
import { type CacheTerms, cacheTermsIn, decodeCacheTerms } from "../../etcd/cached.ts";
import { decodeRangeRequest } from "../../etcd/ranges.ts";
import { encodeRangeRequest, encodeReadTxn, type RangeRequest } from "../../etcd/messages.ts";
import { readsOf } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { Deadline } from "../deadline.ts";
import type { Cluster } from "../etcd/cluster.ts";
import type { ClusterHandle, Label } from "../handle.ts";
import type { Budget } from "../memory.ts";
import type { Runtime } from "../runtime.ts";
import type { Counters } from "../stats.ts";
import type { Hub } from "../watch/hub.ts";
import { Cache, revisionIn } from "./cache.ts";
import type { Written } from "./written.ts";

/** What view etcd_fdw_cache shows: a cache, once for each server and role that has read it. */
export interface CacheRow extends Label {
  key: string;
  /** Null for open. */
  range_end: string | null;
  state: string;
  revision: string;
  keys: number;
  bytes: number;
  hits: number;
  misses: number;
  verifications: number;
  repairs: number;
}

/** Caches that one proxy keeps. */
const MAX_CACHES = 1_000;
/** Whoever has not been read for so long, in milliseconds, makes room for others. */
const EVICTED_MS = 30_000;

interface User extends Label {
  hits: number;
  misses: number;
}

interface Entry {
  cache: Cache;
  users: Map<string, User>;
}

export class Caches {
  readonly #runtime: Runtime;
  readonly #budget: Budget;
  readonly #log: (message: string) => void;
  readonly #all = new Set<Entry>();

  constructor(runtime: Runtime, budget: Budget, log: (message: string) => void) {
    this.#runtime = runtime;
    this.#budget = budget;
    this.#log = log;
  }

  get runtime(): Runtime {
    return this.#runtime;
  }

  rows(): CacheRow[] {
    return [...this.#all].flatMap(({ cache, users }) => {
      const { state, held, counts, range: { start, end } } = cache;
      const about = {
        ...{ key: printable(start), range_end: end && printable(end), state, ...counts },
        ...{ keys: held.keys, bytes: held.bytes, revision: String(held.revision) },
      };
      return [...users.values()].map((user) => ({ ...user, ...about }));
    });
  }

  /** Those of a cluster, as the user of its connection. */
  of(cluster: Pick<Cluster, "call">, hub: Pick<Hub, "read">): ClusterCaches {
    return new ClusterCaches(this, (terms, over) => this.#make(cluster, hub, terms, over));
  }

  /** Null when there are too many, or no room for any. */
  #make(
    cluster: Pick<Cluster, "call">,
    hub: Pick<Hub, "read">,
    { start, end }: CacheTerms,
    over: () => void,
  ): Entry | null {
    if (this.#budget.limit === 0 || this.#all.size >= MAX_CACHES) return null;
    const world = {
      ...{ runtime: this.#runtime, budget: this.#budget, log: this.#log, cluster, hub },
      makeRoom: () => this.#evict(),
    };
    // It outlives the request that has named the range.
    const range = { start: new Uint8Array(start), end: end && new Uint8Array(end) };
    const entry: Entry = { cache: new Cache(world, range), users: new Map() };
    this.#all.add(entry);
    entry.cache.run().catch((error) => this.#log(`unexpected error: ${error}`)).then(() => {
      this.#all.delete(entry);
      over();
    });
    return entry;
  }

  #evict(): void {
    for (const { cache } of this.#all) if (cache.idleFor > EVICTED_MS) cache.close();
  }
}

/** The caches of one connection to etcd. */
export class ClusterCaches {
  readonly #caches: Caches;
  readonly #make: (terms: CacheTerms, over: () => void) => Entry | null;
  readonly #entries = new Map<string, Entry>();

  constructor(caches: Caches, make: (terms: CacheTerms, over: () => void) => Entry | null) {
    this.#caches = caches;
    this.#make = make;
  }

  get runtime(): Runtime {
    return this.#caches.runtime;
  }

  /** The cache of this range, whatever its state; null when there can be none. */
  find(terms: CacheTerms): Entry | null {
    const key = `${toHex(terms.start)}-${terms.end && toHex(terms.end)}`;
    const known = this.#entries.get(key);
    if (known !== undefined) return known;
    const entry = this.#make(terms, () => {
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
    });
    if (entry !== null) this.#entries.set(key, entry);
    return entry;
  }

  close(): void {
    for (const { cache } of this.#entries.values()) cache.close();
  }
}

function userOf({ users }: Entry, label: Label): User {
  const key = JSON.stringify(label);
  let user = users.get(key);
  if (user === undefined) users.set(key, user = { ...label, hits: 0, misses: 0 });
  return user;
}

function readsIn(method: number, payload: Uint8Array): RangeRequest[] {
  if (method === Method.RANGE) return [decodeRangeRequest(payload)];
  return readsOf(payload).map(decodeRangeRequest);
}

/** Whether all of them name the same revision, or none. */
function areOfOneState(requests: RangeRequest[]): boolean {
  if (requests.length === 0) return false;
  const revision = revisionIn(requests);
  return requests.every((one) => revisionIn([one]) === revision);
}

/** The same reads of what etcd's members have agreed upon; what a single member knows may be older. */
function linearizable(method: number, requests: RangeRequest[]): Uint8Array {
  const all = requests.map((one) => ({ ...one, serializable: false, cache: undefined }));
  return method === Method.RANGE ? encodeRangeRequest(all[0]) : encodeReadTxn(all);
}

/** The handle, with caches in front of it for the reads that say so. */
export function cached(
  handle: ClusterHandle,
  caches: ClusterCaches,
  counters: Counters,
  written: Written,
): ClusterHandle {
  const { cluster, label } = handle;
  const answer = async (
    method: number,
    payload: Uint8Array,
    terms: Uint8Array,
    options: Parameters<ClusterHandle["call"]>[2] = {},
  ): Promise<Uint8Array> => {
    const wanted = decodeCacheTerms(terms);
    const { maxStaleness } = wanted;
    const requests = readsIn(method, payload);
    const askEtcd = async () => {
      const isAnyGood = maxStaleness === 0 && written.floorOf(cluster) === 0n;
      const isSerializable = requests.some(({ serializable }) => serializable);
      const asked = isAnyGood || !isSerializable ? payload : linearizable(method, requests);
      return await handle.call(method, asked, options);
    };
    const entry = areOfOneState(requests) ? caches.find(wanted) : null;
    if (entry === null) return await askEtcd();
    const { cache } = entry;
    written.identify(cluster, cache.clusterId);
    const { doubted } = written;
    const user = userOf(entry, label);
    cache.verifyEvery = wanted.verify;
    const answered = await cache.read({
      ...{ requests, isTxn: method === Method.READ_TXN, maxStaleness },
      floor: written.floorOf(cluster),
      deadline: options.deadline ?? Deadline.after(caches.runtime, handle.requestTimeout),
      signal: options.signal,
    });
    if (answered === null) {
      user.misses++;
      counters.cache_misses++;
      return await askEtcd();
    }
    user.hits++;
    counters.cache_hits++;
    counters.cache_bytes += answered.reply.length;
    if (answered.isNewest) written.settle(cluster, doubted);
    return answered.reply;
  };
  return {
    ...handle,
    call(method, payload, options) {
      if (method === Method.RANGE || method === Method.READ_TXN) {
        const terms = options?.endpoint === undefined ? cacheTermsIn(payload) : undefined;
        if (terms !== undefined) return answer(method, payload, terms, options);
        return handle.call(method, payload, options);
      }
      const call = handle.call(method, payload, options);
      call.then((reply) => written.note(cluster, reply), () => written.doubt(cluster));
      return call;
    },
  };
}
