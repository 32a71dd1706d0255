// The events of one range as etcd's watch tells them, for all who want to know them: a machine without clock or stream.
// WatchResponses go in; whole revisions in their order come out, each once, to readers that stand at different places.
//
// etcd's watch is not believed where it has been wrong: an event of a revision that was told before, or that is older than
// what was asked for, is dropped (etcd-io/etcd issues 15271 and 20221); progress is not asked for (15220); of a
// response in fragments, a revision counts when all of it is there.
//
//   state     what comes                       becomes
//   OPENING   created                          LIVE
//   OPENING   refused (why is told)            REFUSED
//   LIVE      events                           LIVE
//   LIVE      the stream is lost, reopened     OPENING, behind what is complete
//   any       reopened on another store        RESTORED
//   any       what was asked for is compacted  COMPACTED

import {
  encodeWatch,
  encodeWatchEnd,
  readWatchResponse,
  type Watched,
  type WatchedEvent,
  type WatchResponse,
} from "../../etcd/watch.ts";
import type { Standing } from "../../etcd/ranges.ts";
import { BATCH_REVISIONS, Proof, type Purpose, type Wanted } from "./proof.ts";

export type FeedState = "OPENING" | "LIVE" | "COMPACTED" | "REFUSED" | "RESTORED";

/** A watch on the stream: the feed's own, or one of its proof's, the `nth` of these. */
interface Use {
  purpose: Purpose | "feed";
  nth: number;
  /** Events of the last revision of a fragment, and the revisions of the response under way. */
  fragments: WatchedEvent[];
  revisions: number;
}

const useOf = (purpose: Use["purpose"], nth: number): Use => ({ purpose, nth, fragments: [], revisions: 0 });

const EVERYTHING: Watched = { key: Uint8Array.of(0), rangeEnd: Uint8Array.of(0), prev: false };

interface Held extends WatchedEvent {
  /** Bytes of all events up to the end of this one, since the feed began. */
  end: number;
}

/** What a reader would get now. */
export interface Available {
  count: number;
  bytes: number;
}

/** Part of the window: events of whole revisions, and the revision up to which they are all. */
export interface Part {
  events: WatchedEvent[];
  revision: bigint;
}

/** What an event costs beside its bytes. */
const EVENT_BYTES = 100;
/** Events that are added without a pause. */
const STRIDE = 1024;
/** The window's array is made anew when so many of its first places are empty. */
const SLACK = 1024;

export class Feed {
  state: FeedState = "OPENING";
  readonly watched: Watched;
  /** Of COMPACTED: the oldest revision that can be read. */
  compacted = 0n;
  /** Of REFUSED: etcd's text. */
  reason = "";
  /** Its responses are to come in fragments, since they are too large. */
  inFragments = false;
  /** It is on its way through the past, as far as its last part shows. */
  behind = false;
  /** Events of later revisions, up to `complete`, are here. */
  #floor: bigint;
  /** All events up to this revision have come. */
  #complete: bigint;
  readonly #began: bigint;
  /** Of the member that was asked last, when it was; null before. */
  #standing: Standing | null = null;
  /** Watches that were asked for and not acknowledged, in their order, and the others by id. */
  #asked: Use[] = [];
  readonly #watches = new Map<string, Use>();
  #proof: Proof | null = null;
  /** Watches that the proof has asked for. */
  #nth = 0;
  #held: Held[] = [];
  #first = 0;
  #total = 0;
  /** Bytes of fragments whose revision may go on. */
  #unfinished = 0;

  /** @param after Events of later revisions are wanted. */
  constructor(watched: Watched, after: bigint) {
    this.watched = watched;
    this.#floor = this.#began = after;
    this.#complete = after;
  }

  get floor(): bigint {
    return this.#floor;
  }

  /** All events up to this revision have come. */
  get complete(): bigint {
    return this.#complete;
  }

  /** Of the store that has told what is here; 0 before. */
  get cluster(): bigint {
    return this.#standing?.cluster ?? 0n;
  }

  /** Bytes that it holds. */
  get bytes(): number {
    return this.#total - this.#start() + this.#unfinished;
  }

  #start(): number {
    const first = this.#held[this.#first];
    return first === undefined ? this.#total : first.end - cost(first);
  }

  /**
   * What to send on a new stream of a member that stands there: it is found out when all up to its revision is here. Nothing
   * when it is not the store that has told what is here: its numbers mean something else.
   */
  open(standing: Standing): Uint8Array[] {
    const { cluster, revision: now, term } = standing;
    const before = this.#standing;
    // Who begins in the future has not been told anything yet.
    const isOlder = now < this.#complete && this.#complete > this.#began;
    if (before !== null && (cluster !== before.cluster || term < before.term || isOlder)) {
      this.state = "RESTORED";
      return [];
    }
    this.#standing = standing;
    this.state = "OPENING";
    this.#watches.clear();
    this.#unfinished = 0;
    this.#proof = null;
    this.#nth = 0;
    this.#asked = [useOf("feed", 0)];
    return [encodeWatch(this.watched, this.#complete + 1n, this.inFragments), ...this.prove(now)];
  }

  /** What to send now to find out when all up to this revision is here; tick() and hear() say what to send later. */
  prove(now: bigint): Uint8Array[] {
    if (this.#complete >= now || this.#proof !== null && this.#proof.now >= now) return [];
    this.#proof = new Proof(this.#complete, now, this.#nth);
    return this.#send(this.#proof.begin());
  }

  /** Whether ticks are needed. */
  get isProving(): boolean {
    return this.#proof !== null;
  }

  /** What to send every TICK_MS. */
  tick(): Uint8Array[] {
    return this.#send(this.#proof?.tick() ?? []);
  }

  #send(wanted: Wanted[]): Uint8Array[] {
    return wanted.map(({ purpose, start, nth }) => {
      this.#nth = nth;
      this.#asked.push(useOf(purpose, nth));
      return encodeWatch(purpose === "markAll" ? EVERYTHING : this.watched, start, this.inFragments);
    });
  }

  /** Takes a WatchResponse, in pieces, between which there must be no tick; what to send then. Throws EtcdFdwError 08P01. */
  *hear(message: Uint8Array): Generator<undefined, Uint8Array[], unknown> {
    const response = yield* readWatchResponse(message);
    const { id, created, canceled, fragment } = response;
    if (created) {
      this.#acknowledged(response);
      return [];
    }
    const use = this.#watches.get(id);
    if (use === undefined) return [];
    const { purpose, nth } = use;
    if (purpose === "feed" && canceled) this.#end(response);
    if (purpose === "feed" || purpose === "tail") yield* this.#told(response, use);
    const more = purpose === "markAll" || purpose === "markOwn" ? this.#proof?.mark(purpose, nth) ?? [] : [];
    this.#settle();
    const messages = this.#send(more);
    // What has shown its part would tell the present as well.
    if (purpose !== "feed" && !fragment) {
      this.#watches.delete(id);
      if (!canceled) messages.push(encodeWatchEnd(id));
    }
    return messages;
  }

  #acknowledged(response: WatchResponse): void {
    const use = this.#asked.shift();
    if (use === undefined) return;
    const { purpose, nth } = use;
    if (!response.canceled) this.#watches.set(response.id, use);
    // A user who may not watch everything may watch the range all the same.
    if (purpose !== "feed") this.#proof?.acknowledged(purpose, nth);
    else if (response.canceled) this.#end(response);
    else this.state = "LIVE";
    this.#settle();
  }

  #end({ compactRevision, reason }: WatchResponse): void {
    this.state = compactRevision > 0n ? "COMPACTED" : "REFUSED";
    this.compacted = compactRevision;
    this.reason = reason;
  }

  #settle(): void {
    if (this.#proof === null || !this.#proof.isGiven) return;
    if (this.#proof.now > this.#complete) this.#complete = this.#proof.now;
    this.#proof = null;
  }

  /** Events of the range, by the feed's watch or by one that begins again at the last revision. */
  *#told({ fragment, events, revision }: WatchResponse, use: Use): Generator<undefined, void, unknown> {
    const all = use.fragments.length === 0 ? events : [...use.fragments, ...events];
    if (all.length === 0) return;
    // Of a fragment the last revision may go on in the next one.
    const last = all.at(-1)!.revision;
    let end = all.length;
    while (fragment && end > 0 && all[end - 1].revision === last) end--;
    const rest = all.slice(end);
    this.#unfinished += bytesOf(rest) - bytesOf(use.fragments);
    use.fragments = rest;
    use.revisions += yield* this.#add(all, end);
    if (use.purpose === "feed") this.behind = use.revisions >= BATCH_REVISIONS;
    if (fragment) return;
    this.#proof?.part(use.revisions, last, revision);
    use.revisions = 0;
  }

  /** The first `count` of these, in pieces, of which nobody sees anything before all are there. How many revisions they have. */
  *#add(events: readonly WatchedEvent[], count: number): Generator<undefined, number, unknown> {
    const before = this.#complete;
    const added: Held[] = [];
    let last = before;
    let total = this.#total;
    let revisions = 0;
    for (let i = 0; i < count; i++) {
      const { revision, raw } = events[i];
      if (i === 0 || revision !== events[i - 1].revision) revisions++;
      if (i % STRIDE === STRIDE - 1) yield;
      if (revision <= before || revision < last) continue;
      last = revision;
      total += cost(events[i]);
      added.push({ revision, raw, end: total });
    }
    for (const held of added) this.#held.push(held);
    this.#total = total;
    this.#complete = last;
    return revisions;
  }

  /** Whether a reader that has seen everything up to there finds all that it wants here. */
  holds(after: bigint): boolean {
    return after >= this.#floor && (after <= this.#complete || !this.behind);
  }

  /** The place of the first event behind a revision. */
  #after(revision: bigint): number {
    let low = this.#first;
    let high = this.#held.length;
    while (low < high) {
      const middle = low + high >> 1;
      if (this.#held[middle].revision <= revision) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  available(after: bigint): Available {
    const at = this.#after(after);
    if (at === this.#held.length) return { count: 0, bytes: 0 };
    return {
      count: this.#held.length - at,
      bytes: this.#total - (this.#held[at].end - cost(this.#held[at])),
    };
  }

  /**
   * Events behind a revision: whole revisions, until there are `count` events or `bytes` bytes. What one Txn did is not
   * torn, so there may be more. Nothing of later revisions than `upto`.
   */
  part(after: bigint, count: number, bytes: number, upto: bigint | null = null): Part {
    const events: WatchedEvent[] = [];
    let taken = 0;
    let at = this.#after(after);
    for (; at < this.#held.length; at++) {
      const event = this.#held[at];
      if (upto !== null && event.revision > upto) return { events, revision: upto };
      const isNext = events.length > 0 && event.revision !== events.at(-1)!.revision;
      if (isNext && (events.length >= count || taken >= bytes)) break;
      events.push(event);
      taken += event.raw.length;
    }
    const complete = at === this.#held.length;
    const all = this.#complete > after ? this.#complete : after;
    return { events, revision: complete ? all : events.at(-1)!.revision };
  }

  /** Drops the oldest revisions, but none behind `wanted`, until no more than so many bytes are held. */
  trim(bytes: number, wanted: bigint | null): void {
    while (this.#first < this.#held.length && this.bytes > bytes) {
      const { revision } = this.#held[this.#first];
      if (wanted !== null && revision > wanted) break;
      this.#floor = revision;
      while (this.#held[this.#first]?.revision === this.#floor) this.#first++;
    }
    if (this.#first < SLACK && this.#first < this.#held.length) return;
    this.#held = this.#held.slice(this.#first);
    this.#first = 0;
  }
}

const bytesOf = (events: WatchedEvent[]) => events.reduce((sum, event) => sum + cost(event), 0);

const cost = ({ raw }: WatchedEvent) => raw.length + EVENT_BYTES;
