// One session's way to a cluster: the cluster's calls with the server's timeouts, counted for the server and the role.

import type { OpenPayload } from "../../ipc/frame.ts";
import { Method } from "../../ipc/frame.ts";
import { MAX_REQUEST_BYTES } from "../../ipc/limits.ts";
import { eachField } from "../../etcd/ranges.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import { RangeReply, WatchCreate } from "../../etcd/api.ts";
import { type CallOptions, type ClusterHandle, LateError } from "../handle.ts";
import type { Counters, Stats } from "../stats.ts";
import { certificatesOf } from "./certificates.ts";
import type { Cluster, Timeouts } from "./cluster.ts";
import type { Coalescer } from "./coalesce.ts";
import { newLeader, pastEvents, takeSnapshot } from "./streams.ts";

/** The longest time that a timer takes, in milliseconds: 24 days. */
const FOREVER_MS = 0x7fffffff;

/** The cluster and what all its handles share. */
export interface Shared {
  cluster: Cluster;
  coalescer: Coalescer;
  stats: Stats;
}

/** Where the keys of a reply are: fields to go through, from the outside in. RangeResponse.kvs; TxnResponse.responses. */
const KEYS: Record<number, number[]> = { [Method.RANGE]: [2], [Method.READ_TXN]: [3, 1, 2] };

function count(message: Uint8Array, [wanted, ...inner]: number[]): number {
  let found = 0;
  eachField(message, (field, reader) => {
    if (field !== wanted) return false;
    if (inner.length === 0) {
      found++;
      return false;
    }
    found += count(reader.bytes(), inner);
    return true;
  });
  return found;
}

/** Keys in the reply. One that is damaged goes to the backend all the same, which says what is wrong with it. */
function rowsIn(method: number, reply: Uint8Array): number {
  const path = KEYS[method];
  if (path === undefined) return 0;
  try {
    return count(reply, path);
  } catch {
    return 0;
  }
}

/** Notes how a call went. */
async function counted(
  counters: Counters,
  method: number,
  sent: number,
  call: Promise<Uint8Array>,
): Promise<Uint8Array> {
  const begun = performance.now();
  counters.calls++;
  counters.bytes_sent += sent;
  try {
    const reply = await call;
    counters.bytes_received += reply.length;
    counters.rows += rowsIn(method, reply);
    return reply;
  } catch (error) {
    counters.errors++;
    throw error;
  } finally {
    const took = performance.now() - begun;
    counters.latency_sum += took;
    if (took > counters.latency_max) counters.latency_max = took;
  }
}

/** Waiting for other clients is no work of etcd's. */
function timesOf(timeouts: Timeouts, patience: number | undefined): Timeouts {
  if (patience === undefined) return timeouts;
  return { ...timeouts, request: Math.min(patience, FOREVER_MS), waits: true };
}

/** A handle on the cluster for what `open` says; `share` and `close` are the owner's. */
export function makeHandle(
  { cluster, coalescer, stats }: Shared,
  open: OpenPayload,
  { share, close }: Pick<ClusterHandle, "share" | "close">,
): ClusterHandle {
  const timeouts: Timeouts = {
    connect: open.connectTimeout,
    request: open.requestTimeout,
    retries: open.maxRetries,
    backoff: open.retryBackoff,
  };
  const label = { database: open.database, server: open.server, role: open.role };
  const counters = stats.of(label);
  const call = (method: number, payload: Uint8Array, { signal, endpoint, patience }: CallOptions = {}) => {
    const times = timesOf(timeouts, patience);
    const answer = endpoint === undefined
      ? coalescer.call(method, payload, times, signal, counters)
      : cluster.callEndpoint(endpoint, method, payload, times, signal);
    return patience === undefined ? counted(counters, method, payload.length, answer) : answer;
  };
  return {
    staging: {
      maxTxnOps: open.maxTxnOps,
      maxRequestBytes: open.maxRequestBytes ?? MAX_REQUEST_BYTES,
      nested: open.nested ?? true,
      requireAtomic: open.requireAtomic,
      maxStagedBytes: open.maxStagedBytes,
    },
    endpoints: open.endpoints,
    label,
    call,
    async events(request, signal) {
      const { key } = WatchCreate.decode(request);
      const latest = await call(Method.RANGE, encodeRangeRequest({ key, rangeEnd: null, countOnly: true }), {
        signal,
      });
      const now = RangeReply.decode(latest).header!.revision;
      const { channel, options, explain } = await cluster.borrow(timeouts, signal);
      return await counted(counters, 0, request.length, pastEvents(channel, request, now, options, explain));
    },
    async observe(election, revision, patience, signal) {
      const times = timesOf(timeouts, patience);
      try {
        const { channel, options, explain } = await cluster.borrow(times, signal);
        return await newLeader(channel, election, revision, options, explain);
      } catch (error) {
        if (error instanceof LateError) return null;
        throw error;
      }
    },
    async snapshot(signal) {
      const { channel, options, explain } = await cluster.borrow(timesOf(timeouts, Infinity), signal);
      // The signal is one request's, the snapshot lasts for many.
      return takeSnapshot(channel, { ...options, signal: undefined }, explain);
    },
    certificates: () => certificatesOf(open.endpoints, open.tls, open.connectTimeout),
    noteTransaction: () => {
      counters.transactions++;
    },
    share,
    close,
  };
}
