// What etcd tells on streams: a watch, the leader of an election, a snapshot.

import { compareBytes, concatBytes } from "../../base/bytes.ts";
import { GrpcStatus } from "../../base/errors.ts";
import {
  type KeyValueMessage,
  LeaderReply,
  LeaderRequest,
  RangeReply,
  SnapshotReply,
} from "../../etcd/api.ts";
import { encodeFirstAt } from "../../etcd/queue.ts";
import type { Standing } from "../../etcd/ranges.ts";
import { decodeTxnOutcome } from "../../etcd/txn.ts";
import { encodeProbe, type Watched } from "../../etcd/watch.ts";
import { Deadline } from "../deadline.ts";
import type { PartedAnswer } from "../handle.ts";
import type { Runtime } from "../runtime.ts";
import { isCompacted } from "./compaction.ts";
import { errorOf, isFuture } from "./status.ts";
import type { CallOptions, Channel, Failure, Hear, Outcome } from "./transport.ts";

const RANGE = "/etcdserverpb.KV/Range";
const WATCH = "/etcdserverpb.Watch/Watch";
const OBSERVE = "/v3electionpb.Election/Observe";
const SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot";

const TXN = "/etcdserverpb.KV/Txn";

/** A watch that etcd does not allow; not every version says why. */
export const refusal = (reason = ""): Failure => ({
  code: GrpcStatus.PERMISSION_DENIED,
  text: reason || "etcdserver: permission denied",
});

/**
 * A stream for a watch of this range: `open` says what to send first, if anything, once it is known that the token is
 * good (not every etcd tells that from a missing right when a watch is made), that the range may be read, and up to which
 * revision this member has everything.
 */
export async function watchRange(
  channel: Channel,
  watched: Watched,
  options: CallOptions,
  open: (standing: Standing) => Uint8Array[],
  heard: Hear,
): Promise<Outcome> {
  const probe = await channel.call(TXN, encodeProbe(watched), options);
  if (probe.failure !== undefined) return probe;
  const first = open(decodeTxnOutcome(probe.reply));
  return first.length === 0 ? { reply: probe.reply } : await channel.converse(WATCH, first, options, heard);
}

/**
 * The first leader that is another one than at the revision, or has another value, as a LeaderResponse; null when the deadline
 * comes first. A new leader's key may be older than the last one's: it has waited.
 */
export async function newLeader(
  channel: Channel,
  election: Uint8Array,
  revision: bigint,
  options: CallOptions,
): Promise<Outcome<Uint8Array | null>> {
  const late = { reply: null };
  let isNew = ({ mod_revision }: KeyValueMessage) => BigInt(mod_revision) > revision;
  if (revision > 0n) {
    const past = await channel.call(RANGE, encodeFirstAt(election, revision), options);
    if (past.failure === undefined) {
      const [then] = RangeReply.decode(past.reply).kvs;
      const isLater = isNew;
      isNew = (kv) => isLater(kv) || then === undefined || compareBytes(kv.key, then.key) !== 0;
    } else if (isCompacted(past.failure)) {
      // A revision that somebody was shown is that of the leader's key, and of no other leader's.
      isNew = ({ mod_revision }) => BigInt(mod_revision) !== revision;
    } else if (!isFuture(past.failure)) return options.deadline.over ? late : past;
  }
  const request = LeaderRequest.encode({ name: election });
  const outcome = await channel.converse(OBSERVE, [request], options, (bytes) => {
    const { kv } = LeaderReply.decode(bytes);
    return kv !== null && isNew(kv);
  });
  return outcome.failure !== undefined && options.deadline.over ? late : outcome;
}

/** Bytes of a snapshot that are handed on at a time; etcd sends 32 kB. */
const PART_BYTES = 1024 * 1024;

/**
 * A snapshot under way. Nothing is read ahead of what is asked for, but its beginning, for which the options' deadline and
 * signal hold; the snapshot lasts for many requests.
 */
export async function takeSnapshot(
  runtime: Runtime,
  channel: Channel,
  { deadline, signal, login }: CallOptions,
): Promise<Outcome<PartedAnswer>> {
  const stream = channel.receive(SNAPSHOT, new Uint8Array(0), {
    login,
    deadline: Deadline.after(runtime, Infinity),
  });
  const cancel = () => stream.cancel();
  const timer = runtime.after(deadline.left(), cancel);
  signal?.addEventListener("abort", cancel);
  const first = await stream.next();
  timer.cancel();
  signal?.removeEventListener("abort", cancel);
  if (first.failure !== undefined) {
    return deadline.over ? { failure: { code: GrpcStatus.DEADLINE_EXCEEDED, text: "late" } } : first;
  }
  let begun: Outcome<Uint8Array | null> | null = first;
  return {
    reply: {
      async next() {
        const parts: Uint8Array[] = [];
        let bytes = 0;
        while (bytes < PART_BYTES) {
          const { reply, failure }: Outcome<Uint8Array | null> = begun ?? await stream.next();
          begun = null;
          if (failure !== undefined) {
            throw errorOf(failure, { endpoint: channel.endpoint, writes: false, timeout: deadline.ms });
          }
          if (reply === null) break;
          const { blob } = SnapshotReply.decode(reply!);
          parts.push(blob);
          bytes += blob.length;
        }
        return parts.length === 0 ? null : concatBytes(...parts);
      },
      close: cancel,
    },
  };
}
