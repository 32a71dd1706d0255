// What etcd tells on streams: past events, the leader of an election, a snapshot.

import { compareBytes, concatBytes } from "../../base/bytes.ts";
import { EtcdFdwError, GrpcStatus } from "../../base/errors.ts";
import {
  type KeyValueMessage,
  LeaderReply,
  LeaderRequest,
  RangeReply,
  SnapshotReply,
  WatchCreate,
  WatchReply,
} from "../../etcd/api.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import { encodeFirstAt } from "../../etcd/queue.ts";
import { decodeTxnOutcome } from "../../etcd/txn.ts";
import { encodeProbe, encodeWatchedPage, newestEvents, type Watched } from "../../etcd/watch.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import { Deadline } from "../deadline.ts";
import type { PartedAnswer } from "../handle.ts";
import { inSlices, type Runtime, type Timer } from "../runtime.ts";
import { isCompacted } from "./compaction.ts";
import { History, TICK_MS } from "./history.ts";
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

/** A compaction may come while the oldest revision is looked for; so often it is looked for again. */
const ATTEMPTS = 10;

/** The past of a range up to now, or that a part of it was compacted away. */
interface Past {
  now: string;
  /** A revision before which nothing is kept, "0" where nothing was compacted; of a past that is not whole, the oldest that is. */
  compacted: string;
  isWhole: boolean;
  /** As a WatchResponse has them. */
  events: Uint8Array[];
}

async function readPast(
  runtime: Runtime,
  channel: Channel,
  wanted: ReturnType<typeof WatchCreate.decode>,
  options: CallOptions,
): Promise<Outcome<Past>> {
  const { key, range_end } = wanted;
  // At this member, which then has everything up to there, and with the token that the watch needs.
  const rangeEnd = range_end.length > 0 ? range_end : null;
  const latest = await channel.call(RANGE, encodeRangeRequest({ key, rangeEnd, countOnly: true }), options);
  if (latest.failure !== undefined) return latest;
  const now = RangeReply.decode(latest.reply).header!.revision;
  const isOpen = wanted.start_revision === "0";
  let start = isOpen ? 1n : BigInt(wanted.start_revision);
  for (let attempt = 0;; attempt++) {
    const history = new History(wanted, start, BigInt(now));
    const failure = await follow(runtime, channel, history, options);
    if (failure !== null) return { failure };
    if (history.state === "REFUSED") return { failure: refusal() };
    if (history.state === "TOO_LARGE") throw tooManyEvents();
    const isWhole = history.state !== "COMPACTED";
    if (!isWhole && isOpen && attempt < ATTEMPTS) {
      start = BigInt(history.compacted) + 1n;
      continue;
    }
    const oldest = isOpen && start > 1n ? String(start - 1n) : "0";
    const compacted = isWhole ? oldest : history.compacted;
    return { reply: { now, compacted, isWhole, events: history.events } };
  }
}

/**
 * All events of a range up to now, as a WatchResponse. `request` is a WatchCreateRequest; start_revision 0 stands for the
 * oldest revision that is kept, which the reply's compact_revision then tells.
 */
export async function pastEvents(
  runtime: Runtime,
  channel: Channel,
  request: Uint8Array,
  options: CallOptions,
): Promise<Outcome> {
  const { reply: past, failure } = await readPast(runtime, channel, WatchCreate.decode(request), options);
  if (failure !== undefined) return { failure };
  const { now, compacted, isWhole, events } = past;
  const head = { header: { revision: now }, compact_revision: compacted, canceled: !isWhole };
  return { reply: concatBytes(WatchReply.encode(head), ...events) };
}

/** The newest of them of each key, as a WatchedPage. Throws EtcdFdwError 22023 when events were compacted away. */
export async function changedKeys(
  runtime: Runtime,
  channel: Channel,
  request: Uint8Array,
  options: CallOptions,
): Promise<Outcome> {
  const wanted = WatchCreate.decode(request);
  const { reply: past, failure } = await readPast(runtime, channel, wanted, options);
  if (failure !== undefined) return { failure };
  if (!past.isWhole) {
    throw new EtcdFdwError("22023", `revision ${wanted.start_revision} of etcd has been compacted`, {
      hint: `The oldest revision that can be read is ${past.compacted}.`,
    });
  }
  const events = await inSlices(runtime, newestEvents(past.events));
  return { reply: encodeWatchedPage({ revision: BigInt(past.now), events, left: 0, upto: 0n, behind: 0 }) };
}

/**
 * A stream for a watch of this range: `open` says what to send first, once it is known that the token is good (not every etcd
 * tells that from a missing right when a watch is made) and up to which revision this member has everything.
 */
export async function watchRange(
  channel: Channel,
  watched: Watched,
  options: CallOptions,
  open: (now: bigint) => Uint8Array[],
  heard: Hear,
): Promise<Outcome> {
  const probe = await channel.call(TXN, encodeProbe(watched), options);
  if (probe.failure !== undefined) return probe;
  const { revision } = decodeTxnOutcome(probe.reply);
  return await channel.converse(WATCH, open(revision), options, heard);
}

/** Lets the history read until its state is final; how the stream failed if it did. */
async function follow(
  runtime: Runtime,
  channel: Channel,
  history: History,
  options: CallOptions,
): Promise<Failure | null> {
  if (history.state !== "READING") return null;
  let timer: Timer | null = null;
  let hears = false;
  const hear = async (reply: Uint8Array, say: (message: Uint8Array) => void) => {
    const tick = () => {
      if (!hears) { for (const message of history.tick()) say(message); }
      timer = runtime.after(TICK_MS, tick);
    };
    timer ??= runtime.after(TICK_MS, tick);
    hears = true;
    for (const message of await inSlices(runtime, history.hear(reply))) say(message);
    hears = false;
    return history.state !== "READING";
  };
  try {
    const { failure } = await channel.converse(WATCH, history.begin(), options, hear);
    return failure ?? null;
  } finally {
    (timer as Timer | null)?.cancel();
  }
}

function tooManyEvents(): EtcdFdwError {
  return new EtcdFdwError("54000", `etcd's events are larger than ${MAX_FRAME_BYTES} bytes`, {
    hint: "Ask for fewer keys, or for those after a later revision.",
  });
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
