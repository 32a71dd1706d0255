// The past of a range: all events up to now, by a feed of its own that ends when it has arrived there.

import { EtcdFdwError } from "../../base/errors.ts";
import { concatBytes } from "../../base/bytes.ts";
import { WatchCreate, WatchReply } from "../../etcd/api.ts";
import {
  encodeEvents,
  encodeWatchedPage,
  newestEvents,
  type Watched,
  type WatchedEvent,
} from "../../etcd/watch.ts";
import type { Standing } from "../../etcd/ranges.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import { refusal, watchRange } from "../etcd/streams.ts";
import type { CallOptions, Channel, Failure, Outcome } from "../etcd/transport.ts";
import { inSlices, type Runtime, type Timer } from "../runtime.ts";
import { Feed } from "./feed.ts";
import { TICK_MS } from "./proof.ts";

/** A compaction may come while the oldest revision is looked for; so often it is looked for again. */
const ATTEMPTS = 10;

/** The past of a range up to now, or that a part of it was compacted away. */
interface Past {
  now: bigint;
  /** A revision before which nothing is kept, 0 where nothing was compacted; of a past that is not whole, the oldest that is. */
  compacted: bigint;
  isWhole: boolean;
  events: WatchedEvent[];
}

/** As a WatchCreateRequest asks for it. */
function wantedBy(request: Uint8Array): { watched: Watched; start: bigint } {
  const { key, range_end, start_revision } = WatchCreate.decode(request);
  const rangeEnd = range_end.length > 0 ? range_end : null;
  return { watched: { key, rangeEnd, prev: false }, start: BigInt(start_revision) };
}

async function readPast(
  runtime: Runtime,
  channel: Channel,
  { watched, start }: ReturnType<typeof wantedBy>,
  options: CallOptions,
): Promise<Outcome<Past>> {
  const isOpen = start === 0n;
  let after = isOpen ? 0n : start - 1n;
  for (let attempt = 0;; attempt++) {
    const feed = new Feed(watched, after);
    const { reply: now, failure } = await arrive(runtime, channel, feed, options);
    if (failure !== undefined) return { failure };
    const isWhole = feed.state !== "COMPACTED";
    if (!isWhole && isOpen && attempt < ATTEMPTS) {
      after = feed.compacted;
      continue;
    }
    const oldest = isOpen ? after : 0n;
    const { events } = feed.part(after, Infinity, Infinity, now);
    return { reply: { now: now!, compacted: isWhole ? oldest : feed.compacted, isWhole, events } };
  }
}

/** Lets the feed hear until all up to the revision that this member is at has come: that revision. */
async function arrive(
  runtime: Runtime,
  channel: Channel,
  feed: Feed,
  options: CallOptions,
): Promise<Outcome<bigint>> {
  let now = 0n;
  let timer: Timer | null = null;
  let hears = false;
  const isOver = () => feed.complete >= now || feed.state === "COMPACTED" || feed.state === "REFUSED";
  const open = (standing: Standing) => {
    now = standing.revision;
    return isOver() ? [] : feed.open(standing);
  };
  const heard = async (message: Uint8Array, say: (message: Uint8Array) => void) => {
    const tick = () => {
      if (!hears) { for (const one of feed.tick()) say(one); }
      timer = runtime.after(TICK_MS, tick);
    };
    timer ??= runtime.after(TICK_MS, tick);
    hears = true;
    for (const one of await inSlices(runtime, feed.hear(message))) say(one);
    hears = false;
    if (feed.bytes > MAX_FRAME_BYTES) throw tooManyEvents();
    return isOver();
  };
  let failure: Failure | undefined;
  try {
    failure = (await watchRange(channel, feed.watched, options, open, heard)).failure;
  } finally {
    (timer as Timer | null)?.cancel();
  }
  if (feed.state === "REFUSED") return { failure: refusal(feed.reason) };
  return failure === undefined ? { reply: now } : { failure };
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
  const { reply: past, failure } = await readPast(runtime, channel, wantedBy(request), options);
  if (failure !== undefined) return { failure };
  const { now, compacted, isWhole, events } = past;
  const header = { revision: String(now) };
  const head = WatchReply.encode({ header, compact_revision: String(compacted), canceled: !isWhole });
  return { reply: concatBytes(head, await inSlices(runtime, encodeEvents(events))) };
}

/** The newest of them of each key, as a WatchedPage. Throws EtcdFdwError 22023 when events were compacted away. */
export async function changedKeys(
  runtime: Runtime,
  channel: Channel,
  request: Uint8Array,
  options: CallOptions,
): Promise<Outcome> {
  const wanted = wantedBy(request);
  const { reply: past, failure } = await readPast(runtime, channel, wanted, options);
  if (failure !== undefined) return { failure };
  if (!past.isWhole) {
    throw new EtcdFdwError("22023", `revision ${wanted.start} of etcd has been compacted`, {
      hint: `The oldest revision that can be read is ${past.compacted}.`,
    });
  }
  const events = await inSlices(runtime, newestEvents(past.events));
  const page = { revision: past.now, events, left: 0, upto: 0n, behind: 0, cluster: 0n };
  return { reply: await inSlices(runtime, encodeWatchedPage(page)) };
}

function tooManyEvents(): EtcdFdwError {
  return new EtcdFdwError("54000", `etcd's events are larger than ${MAX_FRAME_BYTES} bytes`, {
    hint: "Ask for fewer keys, or for those after a later revision.",
  });
}
