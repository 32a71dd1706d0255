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
//   any       what was asked for is compacted  COMPACTED

import { decodeWatchResponse, encodeWatch, type Watched, type WatchedEvent } from "../../etcd/watch.ts";

export type FeedState = "OPENING" | "LIVE" | "COMPACTED" | "REFUSED";

/** Revisions after which etcd cuts a watch's way through the past (mvcc's watchBatchMaxRevs). */
const BATCH_REVISIONS = 1000;

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
/** The window's array is made anew when so many of its first places are empty. */
const SLACK = 1024;

export class Feed {
  state: FeedState = "OPENING";
  readonly watched: Watched;
  /** Of COMPACTED: the oldest revision that can be read. */
  compacted = 0n;
  /** Of REFUSED: etcd's text. */
  reason = "";
  /** It is on its way through the past, as far as its last part shows. */
  behind = false;
  /** Events of later revisions, up to `seen`, are here. */
  #floor: bigint;
  /** All events up to this revision have come. */
  #seen: bigint;
  #held: Held[] = [];
  #first = 0;
  #end = 0;
  /** Of the last revision of a fragment. */
  #fragments: WatchedEvent[] = [];
  /** Bytes of these. */
  #unfinished = 0;
  /** Revisions of the response under way. */
  #part = 0;

  /** @param after Events of later revisions are wanted. */
  constructor(watched: Watched, after: bigint) {
    this.watched = watched;
    this.#floor = after;
    this.#seen = after;
  }

  get floor(): bigint {
    return this.#floor;
  }

  get seen(): bigint {
    return this.#seen;
  }

  /** Bytes that it holds. */
  get bytes(): number {
    return this.#end - this.#start() + this.#unfinished;
  }

  #start(): number {
    const first = this.#held[this.#first];
    return first === undefined ? this.#end : first.end - cost(first);
  }

  /** What to send on a new stream. */
  open(): Uint8Array {
    this.state = "OPENING";
    this.#fragments = [];
    this.#unfinished = 0;
    this.#part = 0;
    return encodeWatch(this.watched, this.#seen + 1n);
  }

  /** Takes a WatchResponse; whether there are new events, or a state that is final. Throws EtcdFdwError 08P01. */
  hear(message: Uint8Array): boolean {
    const { canceled, compactRevision, reason, created, fragment, events } = decodeWatchResponse(message);
    if (canceled) {
      this.state = compactRevision > 0n ? "COMPACTED" : "REFUSED";
      this.compacted = compactRevision;
      this.reason = reason;
      return true;
    }
    if (created) this.state = "LIVE";
    if (events.length === 0 && (fragment || this.#fragments.length === 0)) return false;
    const all = this.#fragments.length === 0 ? events : [...this.#fragments, ...events];
    // Of a fragment the last revision may go on in the next one.
    const last = all.at(-1)!.revision;
    const whole = fragment ? all.filter(({ revision }) => revision !== last) : all;
    this.#fragments = fragment ? all.filter(({ revision }) => revision === last) : [];
    this.#unfinished = this.#fragments.reduce((sum, event) => sum + cost(event), 0);
    return this.#add(whole, !fragment);
  }

  #add(events: WatchedEvent[], isLast: boolean): boolean {
    const before = this.#seen;
    let revisions = 0;
    let last = before;
    for (const event of events) {
      if (event.revision <= before || event.revision < last) continue;
      if (event.revision > last) revisions++;
      last = event.revision;
      this.#end += cost(event);
      this.#held.push({ ...event, end: this.#end });
    }
    this.#seen = last;
    this.#part += revisions;
    this.behind = this.#part >= BATCH_REVISIONS;
    if (isLast) this.#part = 0;
    return revisions > 0;
  }

  /** Whether a reader that has seen everything up to there finds all that it wants here. */
  holds(after: bigint): boolean {
    return after >= this.#floor && (after <= this.#seen || !this.behind);
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
    return { count: this.#held.length - at, bytes: this.#end - (this.#held[at].end - cost(this.#held[at])) };
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
    const seen = this.#seen > after ? this.#seen : after;
    return { events, revision: complete ? seen : events.at(-1)!.revision };
  }

  /** Drops the oldest revisions until no more than so many bytes are held. */
  trim(bytes: number): void {
    while (this.#first < this.#held.length && this.bytes > bytes) {
      this.#floor = this.#held[this.#first].revision;
      while (this.#held[this.#first]?.revision === this.#floor) this.#first++;
    }
    if (this.#first < SLACK && this.#first < this.#held.length) return;
    this.#held = this.#held.slice(this.#first);
    this.#first = 0;
  }
}

const cost = ({ raw }: WatchedEvent) => raw.length + EVENT_BYTES;
