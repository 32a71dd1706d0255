// What etcd tells on streams: past events, the leader of an election, a snapshot.

import { concatBytes } from "../../base/bytes.ts";
import { type EtcdFdwError, GrpcStatus } from "../../base/errors.ts";
import {
  LeaderReply,
  LeaderRequest,
  SnapshotReply,
  WatchCreate,
  WatchReply,
  WatchRequest,
} from "../../etcd/api.ts";
import type { Decoded } from "../../etcd/schema.ts";
import type { PartedAnswer } from "../handle.ts";
import type { CallOptions, Channel, Failure } from "./channel.ts";

const WATCH = "/etcdserverpb.Watch/Watch";
const OBSERVE = "/v3electionpb.Election/Observe";
const SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot";

type WatchReplyMessage = Decoded<typeof WatchReply.fields>;

/** Turns how a stream ended into an error. */
type ErrorOf = (failure: Failure) => EtcdFdwError;

/** Revisions after which etcd cuts a watch's way through the past into further replies (mvcc's watchBatchMaxRevs). */
const BATCH_REVISIONS = 1000;
const HISTORY = "1";
const FIRST_MARK = 1;
/** How long nothing comes when a watch without a mark has arrived, in milliseconds: etcd's rounds take place every 100. */
const QUIET_MS = 1_000;

/**
 * The events of a range up to a revision. A watch of the past does not say when it has arrived in the present, so others,
 * on the whole key space from the last revision on, mark it. etcd serves those that are behind in rounds, in no order within
 * a round: when the second mark comes, which is asked for when the first has come, the first one's round is over. Long
 * histories are served in parts, one each round: then it takes a round without a part that was cut off. An etcd user who may
 * not watch everything has to wait until nothing more comes instead.
 *
 * `request` is a WatchCreateRequest; start_revision 0 stands for the oldest revision that is kept, which the reply's
 * compact_revision then tells.
 */
export async function pastEvents(
  channel: Channel,
  request: Uint8Array,
  now: string,
  options: CallOptions,
  errorOf: ErrorOf,
): Promise<Uint8Array> {
  const wanted = WatchCreate.decode(request);
  const open = wanted.start_revision === "0";
  let start = open ? "1" : wanted.start_revision;
  for (let attempt = 0;; attempt++) {
    const reply = await collect(channel, wanted, start, now, options, errorOf);
    if (reply.compact_revision === "0" || !open || attempt > 10) {
      return WatchReply.encode({
        header: { revision: now },
        compact_revision: reply.compact_revision !== "0"
          ? reply.compact_revision
          : open && start !== "1"
          ? String(BigInt(start) - 1n)
          : "0",
        canceled: reply.compact_revision !== "0",
        events: reply.events.map(({ type, kv }) => ({ type, kv: kv! })),
      });
    }
    start = String(BigInt(reply.compact_revision) + 1n);
  }
}

async function collect(
  channel: Channel,
  wanted: Decoded<typeof WatchCreate.fields>,
  start: string,
  now: string,
  options: CallOptions,
  errorOf: ErrorOf,
  marked = true,
): Promise<{ compact_revision: string; events: WatchReplyMessage["events"] }> {
  const events: WatchReplyMessage["events"] = [];
  if (BigInt(start) > BigInt(now)) return { compact_revision: "0", events };
  const everything = { key: Uint8Array.of(0), range_end: Uint8Array.of(0) };
  let marks = 0;
  const mark = () =>
    WatchRequest.encode({
      create_request: { ...everything, start_revision: now, watch_id: String(FIRST_MARK + ++marks) },
    });
  const { key, range_end } = wanted;
  const range = range_end.length > 0 ? { range_end } : {};
  const history = WatchRequest.encode({
    create_request: { key, ...range, start_revision: start, watch_id: HISTORY },
  });
  let compacted = "0";
  /** The last mark by which the history may have been in the middle. */
  let behind = 0;
  let seen = 0n;
  let refused = false;
  const requests = marked ? [history, mark()] : [history];
  const limited = marked ? options : { ...options, deadline: Date.now() + QUIET_MS };
  const { failure } = await channel.converse(WATCH, requests, limited, (bytes) => {
    const reply = WatchReply.decode(bytes);
    if (reply.compact_revision !== "0") compacted = reply.compact_revision;
    if (reply.canceled && reply.compact_revision === "0") refused = true;
    if (reply.canceled) return true;
    if (reply.watch_id === HISTORY) {
      const revisions = new Set(reply.events.map(({ kv }) => kv!.mod_revision));
      // The next part comes in the next round, whose mark is the one under way or the one behind that.
      if (revisions.size >= BATCH_REVISIONS) behind = marks + 1;
      for (const event of reply.events) {
        if (BigInt(event.kv!.mod_revision) > BigInt(now)) continue;
        seen = BigInt(event.kv!.mod_revision);
        events.push(event);
      }
      return seen >= BigInt(now);
    }
    if (reply.watch_id !== String(FIRST_MARK + marks) || reply.events.length === 0) return false;
    return marks > Math.max(behind, 1) || mark();
  });
  const quiet = !marked && failure?.code === GrpcStatus.DEADLINE_EXCEEDED;
  if (failure !== undefined && !quiet) throw errorOf(failure);
  if (!refused) return { compact_revision: compacted, events };
  if (marked) return await collect(channel, wanted, start, now, options, errorOf, false);
  throw errorOf({ code: GrpcStatus.PERMISSION_DENIED, text: "etcdserver: permission denied" });
}

/** The first leader whose key is newer than the revision, as a LeaderResponse; null when the deadline comes first. */
export async function newLeader(
  channel: Channel,
  election: Uint8Array,
  revision: bigint,
  options: CallOptions,
  errorOf: ErrorOf,
): Promise<Uint8Array | null> {
  const request = LeaderRequest.encode({ name: election });
  const { reply, failure } = await channel.converse(OBSERVE, [request], options, (bytes) => {
    const { kv } = LeaderReply.decode(bytes);
    return kv !== null && BigInt(kv.mod_revision) > revision;
  });
  if (reply !== undefined) return reply;
  if (Date.now() >= options.deadline) return null;
  throw errorOf(failure);
}

/** Bytes of a snapshot that are handed on at a time; etcd sends 32 kB. */
const PART_BYTES = 1024 * 1024;

/** A snapshot under way. Nothing is read ahead of what is asked for. */
export function takeSnapshot(channel: Channel, options: CallOptions, errorOf: ErrorOf): PartedAnswer {
  const stream = channel.receive(SNAPSHOT, new Uint8Array(0), options);
  return {
    async next() {
      const parts: Uint8Array[] = [];
      let bytes = 0;
      while (bytes < PART_BYTES) {
        const { reply, failure } = await stream.next();
        if (failure !== undefined) throw errorOf(failure);
        if (reply === null) break;
        const { blob } = SnapshotReply.decode(reply);
        parts.push(blob);
        bytes += blob.length;
      }
      return parts.length === 0 ? null : concatBytes(...parts);
    },
    close: () => stream.cancel(),
  };
}
