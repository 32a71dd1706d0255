// The keys of one range as they were at the revisions that somebody may still name: a machine without clock or stream.
// What was loaded goes in, and events in their order; the rows of a revision come out.
//
// A version is known to be the range's state from one revision up to another, and at single later ones for which that was
// proven. Who has read a version may name its revision again: then the next event goes into a copy, which shares with it
// what has not changed. Versions that nobody has read are changed in place, unless that takes long: then others have their
// turn, and must not see a revision in part.
//
// An event that does not follow from what is held (a version that is not the next one, the deletion of a key that is not
// there) says that another one was lost, which etcd's watch has been seen to do: then nothing here is believed any more.

import { printable } from "../../base/bytes.ts";
import { decodeKeyRow, keyOf } from "../../etcd/ranges.ts";
import { changeOf, type WatchedEvent } from "../../etcd/watch.ts";
import { noRows, type Rows } from "./answer.ts";

/** What a row costs beside its bytes: its place, and the objects that name its bytes. */
export const ROW_BYTES = 300;
/** What a change costs while an older version is kept: the nodes on the way to it. */
const CHANGE_BYTES = 2048;
/** Versions that are kept, and revisions that are known beyond what the events show. */
const MAX_KEPT = 64;
const MAX_POINTS = 1024;
/** How long a version is kept after it was read, in milliseconds. */
const KEPT_MS = 10_000;
/** What older versions may cost at least, and in parts of what is held. */
const LEAST_CHURN_BYTES = 1024 * 1024;
const CHURN_SHARE = 0.25;
/** Events that are taken in without a pause, and their bytes. */
const STRIDE = 256;
const STRIDE_BYTES = 1024 * 1024;
/** Bytes of pages that are worth loading anew when most of them are dead. */
const WASTE_BYTES = 4 * 1024 * 1024;

export interface Version {
  readonly rows: Rows;
  /** The range's state from here... */
  from: bigint;
  /** ...up to here... */
  upto: bigint;
  /** ...and at these later revisions. */
  readonly points: Set<bigint>;
  /** The last of all these. */
  newest: bigint;
  /** When it was last read, in milliseconds; null for never. */
  readAt: number | null;
  /** What keeping it costs. */
  cost: number;
}

const version = (rows: Rows, from: bigint, upto: bigint): Version => ({
  ...{ rows, from, upto, newest: upto, readAt: null, cost: 0 },
  points: new Set(),
});

export class Versions {
  #current: Version = version(noRows(), 0n, 0n);
  /** The oldest first. */
  #older: Version[] = [];
  /** Of pages, and how much of that is of no use any more; of events. */
  #loaded = 0;
  #dead = 0;
  #live = 0;
  #churn = 0;
  /** Rows that came with events, not with pages. */
  readonly #own = new WeakSet<Uint8Array>();

  get current(): Version {
    return this.#current;
  }

  /** How many older versions are kept. */
  get kept(): number {
    return this.#older.length;
  }

  /** What etcd reads when it looks at all rows, or somewhat more. */
  get weight(): number {
    return this.#loaded - this.#dead + this.#live;
  }

  /** What all of it takes in memory. */
  get bytes(): number {
    return this.#loaded + this.#live + this.#churn + this.#current.rows.size * ROW_BYTES;
  }

  /** Whether most of what the pages hold is dead, so that loading them anew would free it. */
  get isWasteful(): boolean {
    return this.#dead > WASTE_BYTES && this.#dead * 2 > this.#loaded;
  }

  /** Adds rows of a page, in pieces. */
  *load(rows: Uint8Array[], bytes: number): Generator<undefined, void, unknown> {
    this.#loaded += bytes;
    for (const [i, raw] of rows.entries()) {
      this.#current.rows.set(keyOf(raw), raw);
      if (i % 256 === 255) yield;
    }
  }

  /** All pages are here, and they are of this revision. */
  loaded(revision: bigint): void {
    this.#current = { ...this.#current, from: revision, upto: revision, newest: revision };
  }

  /**
   * Events of the range, all of them up to this revision; those that are known already are passed over. Why they cannot
   * follow what is held, or null. In pieces, between which what is held is whole; nothing else may be told meanwhile.
   */
  *tell(
    events: readonly WatchedEvent[],
    revision: bigint,
  ): Generator<undefined, string | null, unknown> {
    const known = this.#current.upto;
    let done = 0;
    for (let at = 0, end = 0; at < events.length; at = end) {
      const { revision } = events[at];
      while (end < events.length && events[end].revision === revision) end++;
      if (revision <= known) continue;
      const wrong = end - at > STRIDE
        ? yield* this.#reviseSlowly(events.slice(at, end))
        : this.#revise(events.slice(at, end));
      if (wrong !== null) return wrong;
      done += end - at;
      if (done >= STRIDE) {
        done = 0;
        yield;
      }
    }
    const current = this.#current;
    if (revision > current.upto) current.upto = revision;
    if (revision >= current.newest) {
      current.newest = current.upto;
      current.points.clear();
    }
    return null;
  }

  /** The range changes with this revision, of which these are all events. */
  #revise(events: readonly WatchedEvent[]): string | null {
    const { rows, readAt } = this.#current;
    const next = readAt === null ? rows : rows.clone();
    const cost = this.#changeAll(next, events);
    if (typeof cost === "string") return cost;
    this.#advance(next, events[0].revision, cost);
    return null;
  }

  /** The same in pieces: until all is there, the present version stays. */
  *#reviseSlowly(events: readonly WatchedEvent[]): Generator<undefined, string | null, unknown> {
    const next = this.#current.rows.clone();
    let cost = 0;
    for (let at = 0, end = 0; at < events.length; at = end) {
      for (let bytes = 0; end < events.length && end - at < STRIDE && bytes < STRIDE_BYTES; end++) {
        bytes += events[end].raw.length;
      }
      const more = this.#changeAll(next, events.slice(at, end));
      if (typeof more === "string") return more;
      cost += more;
      yield;
    }
    this.#advance(next, events[0].revision, cost);
    return null;
  }

  /** These rows are the range's from this revision on. What was there before is kept if it may be named, and is worth that. */
  #advance(rows: Rows, revision: bigint, cost: number): void {
    const current = this.#current;
    if (current.readAt !== null) {
      current.upto = revision - 1n;
      this.#older.push(current);
    }
    this.#current = version(rows, revision, revision);
    const last = this.#older.at(-1);
    if (last === undefined) return;
    last.cost += cost;
    this.#churn += cost;
    const bound = Math.max(LEAST_CHURN_BYTES, this.bytes * CHURN_SHARE);
    while (this.#older.length > MAX_KEPT || this.#older.length > 0 && this.#churn > bound) this.#dropOldest();
  }

  #dropOldest(): void {
    this.#churn -= this.#older.shift()!.cost;
  }

  /** What keeping the rows as they were before would cost, or why the events cannot follow them. */
  #changeAll(rows: Rows, events: readonly WatchedEvent[]): number | string {
    let cost = 0;
    for (const event of events) {
      const more = this.#change(rows, event);
      if (typeof more === "string") return more;
      cost += more;
    }
    return cost;
  }

  #change(rows: Rows, event: WatchedEvent): number | string {
    const { deleted, kv } = changeOf(event);
    // The event is a part of a longer message.
    const raw = new Uint8Array(kv);
    const { key, version, createRevision } = decodeKeyRow(raw);
    const old = rows.get(key);
    const held = old === undefined ? null : decodeKeyRow(old);
    const follows = deleted
      ? held !== null
      : held === null
      ? version === 1n
      : version === held.version + 1n && createRevision === held.createRevision;
    if (!follows) {
      const what = deleted ? "deletion" : `version ${version}`;
      return `the ${what} of key "${
        printable(key)
      }" at revision ${event.revision} follows no event that was told`;
    }
    if (old !== undefined) {
      if (this.#own.has(old)) this.#live -= old.length;
      else this.#dead += old.length;
    }
    if (deleted) rows.delete(key);
    else {
      rows.set(keyOf(raw), raw, true);
      this.#own.add(raw);
      this.#live += raw.length;
    }
    return old === undefined ? 0 : CHANGE_BYTES + old.length;
  }

  /** The version that is the range's state at this revision; null when that is not known. */
  at(revision: bigint): Version | null {
    const isOf = ({ from, upto, points }: Version) =>
      revision >= from && revision <= upto || points.has(revision);
    if (isOf(this.#current)) return this.#current;
    for (let i = this.#older.length - 1; i >= 0; i--) if (isOf(this.#older[i])) return this.#older[i];
    return null;
  }

  /** The version is read now: its revision may be named again. */
  read(one: Version, now: number): void {
    one.readAt = now;
    while (this.#older.length > 0 && this.#older[0].readAt! < now - KEPT_MS) this.#dropOldest();
  }

  /** The version has been shown to be the range's state at this revision too. */
  prove(one: Version, revision: bigint): void {
    if (revision <= one.upto) return;
    one.points.add(revision);
    if (revision > one.newest) one.newest = revision;
    if (one.points.size > MAX_POINTS) one.points.delete(one.points.values().next().value!);
  }
}
