// All events of a range up to a revision, by a watch of the past.
//
// Such a watch does not say when it has arrived in the present: progress answers in 3.4 come too early. What does say it:
//
//  - etcd serves a watch that is behind in parts of BATCH_REVISIONS revisions at most. A smaller part is the last one, and
//    its header tells the revision up to which there is nothing else.
//  - When a part was full and nothing follows, a further watch is opened at the last revision seen: it has that one to
//    tell at least, so an answer is certain, and is as good as the first one's.
//  - When nothing has come at all, other watches mark the present. etcd serves all that are behind in rounds, in no order
//    within a round: when a mark comes that was asked for after another one had come, the other one's round is over, and
//    the watch of the past had its turn in it. A mark is a watch that must have something to tell: of the whole key space
//    from the last revision on or, for a user who may not watch that, of the same range from revision 1 on, which is told
//    of the compaction if of nothing else.
//  - Where nothing was ever compacted and nothing ever written to the range, no mark answers. Then enough turns are waited
//    for, in each of which etcd has answered something after the time of a round.
//
// This is a machine without clock or stream: replies and ticks go in, messages to be sent come out.

import { type WatchCreate, WatchRequest } from "../../etcd/api.ts";
import { readEvents, type WatchPart } from "../../etcd/events.ts";
import type { Decoded } from "../../etcd/schema.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";

/** Revisions after which etcd cuts a watch's way through the past (mvcc's watchBatchMaxRevs). */
export const BATCH_REVISIONS = 1000;
/** The time between two ticks, in milliseconds: etcd's rounds take place every 100. */
export const TICK_MS = 120;
/** Ticks without news after which something is done about it. */
const QUIET_TICKS = 2;
/** Turns that show that there is nothing, where nothing can show it better. */
const SILENT_TURNS = 10;

type Range = Pick<Decoded<typeof WatchCreate.fields>, "key" | "range_end">;

/** What a watch on the stream is for. */
type Purpose = "history" | "markAll" | "markOwn" | "late mark";

/** READING goes on until one of the others, which are final. */
export type HistoryState = "READING" | "COMPLETE" | "COMPACTED" | "REFUSED" | "TOO_LARGE";

const EVERYTHING: Range = { key: Uint8Array.of(0), range_end: Uint8Array.of(0) };

export class History {
  state: HistoryState = "READING";
  /** As in WatchPart. */
  readonly events: Uint8Array[] = [];
  /** Of COMPACTED: the oldest revision that can be read. */
  compacted = "0";
  readonly #range: Range;
  readonly #start: bigint;
  readonly #now: bigint;
  /** Watches that were asked for and not acknowledged, in their order. */
  readonly #asked: Purpose[] = [];
  readonly #watches = new Map<string, Purpose>();
  #seen = 0n;
  #bytes = 0;
  #quiet = 0;
  /** A watch at the last revision seen is under way. */
  #tail = false;
  /** A mark has come. */
  #marked = false;
  #silentTurns = 0;

  constructor(range: Range, start: bigint, now: bigint) {
    this.#range = range;
    this.#start = start;
    this.#now = now;
    if (start > now) this.state = "COMPLETE";
  }

  #watch(purpose: Purpose, range: Range, revision: bigint): Uint8Array {
    this.#asked.push(purpose);
    const { key, range_end } = range;
    const end = range_end.length > 0 ? { range_end } : {};
    return WatchRequest.encode({ create_request: { key, ...end, start_revision: String(revision) } });
  }

  /** What to send first. */
  begin(): Uint8Array[] {
    return [
      this.#watch("history", this.#range, this.#start),
      this.#watch("markAll", EVERYTHING, this.#now),
    ];
  }

  /** Takes a WatchResponse, in pieces, between which there must be no tick; what to send then. */
  *hear(bytes: Uint8Array): Generator<undefined, Uint8Array[], unknown> {
    // Another watch may have told it before.
    const isNews = (revision: bigint) => revision > this.#seen && revision <= this.#now;
    const part = yield* readEvents(bytes, isNews);
    if (part.head.created) return this.#acknowledged(part.head);
    const purpose = this.#watches.get(part.head.watch_id);
    if (purpose === "history") return this.#part(part, bytes.length);
    if (purpose === undefined || purpose === "late mark") return [];
    // Compacted or with events, it is an answer.
    return this.#mark(purpose);
  }

  #acknowledged({ watch_id, canceled }: WatchPart["head"]): Uint8Array[] {
    const purpose = this.#asked.shift();
    if (purpose === undefined) return [];
    if (!canceled) this.#watches.set(watch_id, purpose);
    // A user who may not watch everything may watch the range all the same.
    else if (purpose !== "markAll") this.state = "REFUSED";
    if (purpose === "markOwn" && this.#seen === 0n && ++this.#silentTurns > SILENT_TURNS) {
      this.state = "COMPLETE";
    }
    return [];
  }

  #part({ head, events, revisions, last }: WatchPart, bytes: number): Uint8Array[] {
    if (head.compact_revision !== "0") {
      this.compacted = head.compact_revision;
      this.state = "COMPACTED";
      return [];
    }
    if (head.canceled) this.state = "REFUSED";
    if (revisions === 0) return [];
    this.#bytes += bytes;
    if (this.#bytes > MAX_FRAME_BYTES) this.state = "TOO_LARGE";
    this.#quiet = 0;
    this.#tail = false;
    for (const one of events) this.events.push(one);
    if (last > this.#seen) this.#seen = last;
    const isLast = revisions < BATCH_REVISIONS && BigInt(head.header?.revision ?? 0) >= this.#now;
    if (this.state === "READING" && (isLast || this.#seen >= this.#now)) this.state = "COMPLETE";
    return [];
  }

  #mark(purpose: "markAll" | "markOwn"): Uint8Array[] {
    // What has been seen says more.
    if (this.#seen > 0n) return [];
    if (this.#marked) {
      this.state = "COMPLETE";
      return [];
    }
    this.#marked = true;
    this.#quiet = 0;
    // Marks that were asked for before this one came show nothing more.
    for (const [id, other] of this.#watches) if (other !== "history") this.#watches.set(id, "late mark");
    this.#asked.forEach((other, i) => {
      if (other !== "history") this.#asked[i] = "late mark";
    });
    return [this.#nextMark(purpose)];
  }

  #nextMark(purpose: "markAll" | "markOwn"): Uint8Array {
    return purpose === "markAll"
      ? this.#watch(purpose, EVERYTHING, this.#now)
      : this.#watch(purpose, this.#range, 1n);
  }

  /** Every TICK_MS; what to send then. */
  tick(): Uint8Array[] {
    // As long as etcd has not answered, time passes for nobody.
    if (this.state !== "READING" || this.#asked.length > 0 || ++this.#quiet < QUIET_TICKS || this.#tail) {
      return [];
    }
    if (this.#seen === 0n) return [this.#nextMark("markOwn")];
    this.#tail = true;
    this.#quiet = 0;
    return [this.#watch("history", this.#range, this.#seen)];
  }
}
