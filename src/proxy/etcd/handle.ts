// One session's way to a cluster: the cluster's calls with the server's timeouts, counted for the server and the role.

import type { OpenPayload } from "../../ipc/frame.ts";
import { Method } from "../../ipc/frame.ts";
import { MAX_REQUEST_BYTES } from "../../ipc/limits.ts";
import { eachField } from "../../etcd/ranges.ts";
import { Deadline } from "../deadline.ts";
import { type CallOptions, type ClusterHandle, LateError } from "../handle.ts";
import type { Runtime } from "../runtime.ts";
import type { Counters, Stats } from "../stats.ts";
import { certificatesOf } from "./certificates.ts";
import type { Cluster, Terms } from "./cluster.ts";
import type { Coalescer } from "./coalesce.ts";
import type { Groups } from "./group.ts";
import { stand } from "./queue.ts";
import type { Hub } from "../watch/hub.ts";
import { changedKeys, pastEvents } from "../watch/past.ts";
import { newLeader, takeSnapshot } from "./streams.ts";

/** The cluster and what all its handles share. */
export interface Shared {
  runtime: Runtime;
  cluster: Cluster;
  coalescer: Coalescer;
  groups: Groups;
  hub: Hub;
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
  runtime: Runtime,
  counters: Counters,
  method: number,
  sent: number,
  call: Promise<Uint8Array>,
): Promise<Uint8Array> {
  const begun = runtime.now();
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
    const took = runtime.now() - begun;
    counters.latency_sum += took;
    if (took > counters.latency_max) counters.latency_max = took;
  }
}

/** A handle on the cluster for what `open` says; `share` and `close` are the owner's. */
export function makeHandle(
  { runtime, cluster, coalescer, groups, hub, stats }: Shared,
  open: OpenPayload,
  { share, close }: Pick<ClusterHandle, "share" | "close">,
): ClusterHandle {
  const label = { database: open.database, server: open.server, role: open.role };
  const counters = stats.of(label);
  const requestTimeout = open.requestTimeout;
  const termsOf = ({ deadline, signal }: CallOptions, waits = false): Terms => ({
    deadline: deadline ?? Deadline.after(runtime, requestTimeout),
    ...{ connect: open.connectTimeout, retries: open.maxRetries, backoff: open.retryBackoff },
    ...{ waits, signal, counters },
  });
  const limits = {
    maxTxnOps: open.maxTxnOps,
    maxRequestBytes: open.maxRequestBytes ?? MAX_REQUEST_BYTES,
  };
  const nested = open.nested ?? true;
  // A certificate names a user too.
  const rights = open.username !== undefined || open.tls?.cert !== undefined;
  return {
    staging: {
      ...limits,
      nested,
      rights,
      requireAtomic: open.requireAtomic,
      maxStagedBytes: open.maxStagedBytes,
    },
    endpoints: open.endpoints,
    label,
    cluster,
    user: open.username ?? "",
    requestTimeout,
    check: () => {},
    call(method, payload, options = {}) {
      const { endpoint } = options;
      const terms = termsOf(options);
      const grouped = endpoint === undefined && nested ? groups.call(method, payload, terms, limits) : null;
      const answer = grouped ??
        (endpoint === undefined
          ? coalescer.call(method, payload, terms, limits)
          : cluster.callEndpoint(endpoint, method, payload, terms));
      return counted(runtime, counters, method, payload.length, answer);
    },
    changes(request, options = {}) {
      const answer = cluster.stream(
        (channel, using) => changedKeys(runtime, channel, request, using),
        termsOf(options),
      );
      return counted(runtime, counters, 0, request.length, answer);
    },
    events(request, options = {}) {
      const answer = cluster.stream(
        (channel, using) => pastEvents(runtime, channel, request, using),
        termsOf(options),
      );
      return counted(runtime, counters, 0, request.length, answer);
    },
    // Waiting for other clients is no work of etcd's.
    watch: (request, options = {}) => hub.read(request, termsOf(options)),
    async observe(election, revision, options = {}) {
      try {
        return await cluster.stream(
          (channel, using) => newLeader(channel, election, revision, using),
          termsOf(options, true),
        );
      } catch (error) {
        if (error instanceof LateError) return null;
        throw error;
      }
    },
    stand: (place, wanted, options = {}) =>
      cluster.stream(
        (channel, using) => stand(channel, place, wanted, using),
        termsOf(options, true),
      ),
    snapshot: (options = {}) =>
      cluster.stream((channel, using) => takeSnapshot(runtime, channel, using), termsOf(options)),
    certificates: () => certificatesOf(runtime.etcd, open.endpoints, open.tls, open.connectTimeout),
    noteTransaction: () => {
      counters.transactions++;
    },
    share,
    close,
  };
}
