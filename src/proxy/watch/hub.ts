// One watch at etcd for all sessions that watch the same range as the same user.
//
// A source is a feed with its stream. A reader comes, is given what there is behind the revision that it knows, or waits, and
// goes; its place is the revision, so that nothing is kept for it in between but the source's window. Who is slower than the
// window gets a source of its own, which begins where he stands; he never slows the others. A source whose fastest reader
// does not keep up stops reading from etcd, which keeps events for it.

import { EtcdFdwError } from "../../base/errors.ts";
import { encodeProbe, encodeWatchedPage, type Watched } from "../../etcd/watch.ts";
import type { Standing } from "../../etcd/ranges.ts";
import { decodeTxnOutcome } from "../../etcd/txn.ts";
import { toHex } from "../../base/bytes.ts";
import { Method } from "../../ipc/frame.ts";
import { cancelled, Deadline } from "../deadline.ts";
import type { Cluster, Terms } from "../etcd/cluster.ts";
import { refusal, watchRange } from "../etcd/streams.ts";
import type { CallOptions, Channel, Outcome } from "../etcd/transport.ts";
import { LateError, type WatchRequest } from "../handle.ts";
import type { Budget } from "../memory.ts";
import { inSlices, MAX_TIMER_MS, type Runtime, sleep, type Timer } from "../runtime.ts";
import { Feed, type Part } from "./feed.ts";
import { TICK_MS } from "./proof.ts";

/** Bytes of events that a source keeps for readers that come later. */
export const WINDOW_BYTES = 4 * 1024 * 1024;
/** How long a source without a reader goes on, in milliseconds: who reads in a loop comes back. */
const IDLE_MS = 30_000;
/** How long it is believed that a range may be read, in milliseconds: etcd asks only when a watch is made. */
const RIGHTS_MS = 5_000;
/** The pause before a stream is opened again, and the longest one, in milliseconds. */
const REOPEN_MS = 100;
const MAX_REOPEN_MS = 5_000;
/** How long an attempt to reach an endpoint may take, in milliseconds. */
const CONNECT_MS = 5_000;
/** Bytes of a response that takes no time to speak of. */
const SMALL_BYTES = 64 * 1024;
/** Watches that one user has at a time. */
const MAX_SOURCES = 1_000;

/** What the hub needs of a cluster. */
export type WatchableCluster = Pick<Cluster, "call" | "stream">;

/** There is something, and the reader is to come back for it when it is its turn. */
interface Postponed {
  turn: Promise<void>;
}

interface Reader {
  after: bigint;
  enough: number;
  count: number;
  bytes: number;
  upto: bigint | null;
  /** Until when it waits for `enough` events. */
  until: Deadline;
  /** The store's revision when it came, if that was asked for: up to there it waits for all, however long it wanted to. */
  now: bigint | null;
  timer: Timer | null;
  turn: WatchRequest["turn"];
  settle: (part: Part | Postponed) => void;
  fail: (error: EtcdFdwError) => void;
}

class Source {
  readonly feed: Feed;
  readonly readers = new Set<Reader>();
  readonly stop = new AbortController();
  /** Whether there has been a stream. */
  wasOpen = false;
  /** Sends on the stream there is. */
  say: ((message: Uint8Array) => void) | null = null;
  /** Nobody finds it any more: what is heard still counts for nobody. */
  isOver = false;
  /** It hears a long response, and must not tick. */
  hears = false;
  /** The next tick of the feed's. */
  ticking: Timer | null = null;
  /** Until when it is believed that the range may be read. */
  rightsUntil = 0;
  /** Why there is no stream. */
  error: EtcdFdwError | null = null;
  /** Runs while nobody reads. */
  idle: Timer | null = null;
  /** Goes on with the stream that is held up. */
  resume: (() => void) | null = null;
  /** The furthest place of those that have read. */
  furthest: bigint;
  /** What was taken of the budget. */
  taken = 0;

  constructor(feed: Feed) {
    this.feed = feed;
    this.furthest = feed.floor;
  }

  /** Bytes that the fastest of those who wait has not read, or else of those who have read. */
  get unread(): number {
    if (this.readers.size === 0) return this.feed.available(this.furthest).bytes;
    return Math.min(...[...this.readers].map(({ after }) => this.feed.available(after).bytes));
  }

  /** The first place of those who wait: what is behind it must not go. */
  get wanted(): bigint | null {
    let least: bigint | null = null;
    for (const { after } of this.readers) if (least === null || after < least) least = after;
    return least;
  }

  /** Lets all but so many bytes go. */
  trim(bytes: number): void {
    this.feed.trim(bytes, this.wanted);
  }
}

export class Hub {
  readonly #runtime: Runtime;
  readonly #cluster: WatchableCluster;
  readonly #budget: Budget;
  readonly #sources = new Map<string, Set<Source>>();
  #count = 0;

  /** @param budget What the windows of all hubs may hold. */
  constructor(runtime: Runtime, cluster: WatchableCluster, budget: Budget) {
    this.#runtime = runtime;
    this.#cluster = cluster;
    this.#budget = budget;
  }

  /** Watches at etcd. */
  get size(): number {
    return this.#count;
  }

  /**
   * What there is behind `after`, when there is enough of it or the waiting is over: a WatchedPage. Rejects with
   * EtcdFdwError: 22023 when events asked for have been compacted away or etcd has an older state than it had, what a read of the range is refused with, 08006
   * when etcd could not be watched, and 57014 when the signal was aborted.
   */
  async read(request: WatchRequest, terms: Terms): Promise<Uint8Array> {
    const until = Deadline.after(this.#runtime, request.wait);
    const key = keyOf(request);
    let now: bigint | null = null;
    let source = request.after === null ? undefined : this.#find(key, request.after);
    const isAhead = request.known && source !== undefined && request.after! > source.feed.complete;
    if (source === undefined || source.rightsUntil <= this.#runtime.now() || asksNow(request) || isAhead) {
      const reply = await this.#cluster.call(Method.READ_TXN, encodeProbe(request), terms);
      now = decodeTxnOutcome(reply).revision;
      if (request.known && request.after !== null && request.after > now) {
        throw restoredError(request.after, now);
      }
      const after = request.after ?? now;
      source = this.#find(key, after) ?? this.#open(key, new Feed(watchedOf(request), after));
      source.rightsUntil = this.#runtime.now() + RIGHTS_MS;
    }
    const { enough, count, bytes, upto, turn } = request;
    const after = request.after ?? now!;
    const part = await this.#wait(source, terms, {
      ...{ after, now, enough, count, bytes, upto, until, turn },
    });
    if ("turn" in part) {
      // Meanwhile it holds nothing here: what the window lets go is told by a source of its own.
      await part.turn;
      return await this.read({ ...request, after, wait: until.left(), turn: undefined }, terms);
    }
    const { events, revision } = part;
    const isOver = until.over || upto !== null;
    const left = events.length >= count || isOver ? 0 : Math.ceil(Math.min(until.left(), MAX_TIMER_MS));
    const last = upto ?? (now !== null && now > source.feed.complete ? now : source.feed.complete);
    const rest = isOver && events.length < count && revision < last ? last : 0n;
    const behind = source.feed.available(revision).count;
    const page = { revision, events, left, upto: rest, behind, cluster: source.feed.cluster };
    return await inSlices(this.#runtime, encodeWatchedPage(page));
  }

  #find(key: string, after: bigint): Source | undefined {
    for (const source of this.#sources.get(key) ?? []) {
      if (!source.stop.signal.aborted && source.feed.holds(after)) return source;
    }
  }

  #open(key: string, feed: Feed): Source {
    if (this.#count >= MAX_SOURCES && !this.#endIdle()) {
      throw new EtcdFdwError("53400", `more than ${MAX_SOURCES} ranges of etcd would be watched at a time`, {
        hint: "Watch a prefix that holds several of them.",
      });
    }
    const source = new Source(feed);
    const all = this.#sources.get(key) ?? new Set();
    this.#sources.set(key, all.add(source));
    this.#count++;
    this.#follow(source).catch((error) => EtcdFdwError.from(error)).then((error) => {
      all.delete(source);
      source.isOver = true;
      if (all.size === 0) this.#sources.delete(key);
      this.#count--;
      source.idle?.cancel();
      this.#budget.give(source.taken);
      source.taken = 0;
      for (const reader of source.readers) reader.fail(error);
    });
    return source;
  }

  /** Ends a watch that nobody reads, other than this one; false when there is none. */
  #endIdle(but?: Source): boolean {
    const found = this.#all().find((one) => one !== but && one.idle !== null && !one.stop.signal.aborted);
    found?.stop.abort();
    return found !== undefined;
  }

  #wait(
    source: Source,
    { deadline, signal }: Terms,
    wanted: Pick<Reader, "after" | "now" | "enough" | "count" | "bytes" | "upto" | "until" | "turn">,
  ): Promise<Part | Postponed> {
    source.idle?.cancel();
    source.idle = null;
    return new Promise<Part | Postponed>((resolve, reject) => {
      const over = () => {
        reader.timer?.cancel();
        late.cancel();
        signal?.removeEventListener("abort", aborted);
        source.readers.delete(reader);
        if (source.readers.size === 0) {
          source.idle = this.#runtime.after(IDLE_MS, () => source.stop.abort());
        }
      };
      const reader: Reader = {
        ...wanted,
        timer: null,
        settle: (part) => {
          over();
          resolve(part);
        },
        fail: (error) => {
          over();
          reject(error);
        },
      };
      const aborted = () => reader.fail(cancelled());
      const late = this.#runtime.after(
        deadline.left(),
        () => reader.fail(source.error ?? lateError(deadline, source)),
      );
      signal?.addEventListener("abort", aborted);
      source.readers.add(reader);
      if (signal?.aborted) aborted();
      else this.#lookAll(source, [reader]);
      this.#seek(source);
    });
  }

  /** Has it found out when all is here that readers wait for: they may have come before the stream, or later than its own proof. */
  #seek(source: Source): void {
    const { feed, readers, say, hears } = source;
    // Who hears seeks again.
    if (say === null || hears) return;
    let wanted = feed.complete;
    for (const { after, upto, now } of readers) {
      const target = upto ?? now;
      if (target !== null && target > after && target > wanted) wanted = target;
    }
    this.#say(source, feed.prove(wanted));
  }

  /** Gives the reader what there is if it is time for it; sees to it otherwise that it is looked at in time. */
  #look(source: Source, reader: Reader): void {
    const { feed } = source;
    // Whether what is here still is what etcd has is known again when there is a stream.
    if (source.say === null) return;
    const { after, enough: least, bytes, upto, until, now } = reader;
    const available = feed.available(after);
    const reached = (revision: bigint) => feed.complete >= revision;
    const enough = available.count >= least || available.bytes >= bytes || upto !== null && reached(upto);
    if (!enough) {
      const left = until.left();
      if (left > 0) return this.#lookIn(source, reader, left);
      const target = upto ?? now;
      if (target !== null && after < target && !reached(target)) return;
      if (available.count === 0 && feed.state !== "LIVE") return;
    }
    this.#give(source, reader);
  }

  /** Gives the reader what there is, though it may be less than it waits for: it comes back. */
  #give(source: Source, reader: Reader): void {
    const part = source.feed.part(reader.after, reader.count, reader.bytes, reader.upto);
    const turn = reader.turn?.(part.events.reduce((sum, { raw }) => sum + raw.length, 0)) ?? null;
    if (turn !== null) return reader.settle({ turn });
    if (part.revision > source.furthest) source.furthest = part.revision;
    reader.settle(part);
  }

  /** Looks at these readers; what nobody needs any more goes when all of them have what they need. */
  #lookAll(source: Source, readers: Reader[]): void {
    for (const reader of readers) this.#look(source, reader);
    this.#makeRoom(source);
    if (source.resume !== null && !this.#isFull(source)) source.resume();
  }

  #lookIn(source: Source, reader: Reader, ms: number): void {
    if (ms === Infinity || reader.timer !== null) return;
    reader.timer = this.#runtime.after(ms, () => {
      reader.timer = null;
      this.#lookAll(source, [reader]);
    });
  }

  /** Sends, and lets the feed know that time passes as long as it wants to find out something. */
  #say(source: Source, messages: Uint8Array[]): void {
    for (const message of messages) source.say!(message);
    if (!source.feed.isProving || source.ticking !== null) return;
    source.ticking = this.#runtime.after(TICK_MS, () => {
      source.ticking = null;
      if (source.say !== null) this.#say(source, source.hears ? [] : source.feed.tick());
    });
  }

  /** Keeps a window of what was read, and all that was not. */
  #makeRoom(source: Source): void {
    source.trim(Math.max(WINDOW_BYTES, source.unread));
    if (this.#account(source)) return;
    // Who waits for more than there is memory for takes what there is.
    if (source.say !== null) {
      for (const reader of [...source.readers]) {
        if (source.feed.available(reader.after).count > 0) this.#give(source, reader);
      }
    }
    // Windows are for those who come later: they are the first to go.
    for (const one of this.#all()) {
      one.trim(one.unread);
      this.#account(one);
    }
    // Then what nobody reads: its memory is free as soon as its stream has ended.
    if (!this.#account(source)) this.#endIdle(source);
  }

  #all(): Source[] {
    return [...this.#sources.values()].flatMap((all) => [...all]);
  }

  /** Takes from the budget what the source holds; false when there is too little. */
  #account(source: Source): boolean {
    const more = source.feed.bytes - source.taken;
    if (more <= 0) this.#budget.give(-more);
    else {
      try {
        this.#budget.take(more);
      } catch {
        return false;
      }
    }
    source.taken += more;
    return true;
  }

  #isFull(source: Source): boolean {
    return source.taken < source.feed.bytes || source.unread > WINDOW_BYTES;
  }

  /** Lets etcd wait until somebody has read, or there is memory. */
  #hold(source: Source): Promise<false> | false {
    if (!this.#isFull(source)) return false;
    return new Promise((resolve) => {
      source.resume = () => {
        source.resume = null;
        resolve(false);
      };
      if (source.taken < source.feed.bytes) this.#retryWhenGiven(source);
    });
  }

  #retryWhenGiven(source: Source): void {
    this.#budget.whenGiven(() => {
      if (source.resume === null || source.stop.signal.aborted) return;
      this.#makeRoom(source);
      if (!this.#isFull(source)) source.resume();
      else if (source.taken < source.feed.bytes) this.#retryWhenGiven(source);
    });
  }

  /** Keeps the source's stream open. Why it ended; rejects only for faults of this program. */
  async #follow(source: Source): Promise<EtcdFdwError> {
    const { feed, stop: { signal } } = source;
    // It is nobody's own: a reader with little patience must not make it everybody's.
    const deadline = Deadline.after(this.#runtime, Infinity);
    const own: Terms = { connect: CONNECT_MS, signal, waits: true, deadline };
    for (let pause = REOPEN_MS;; pause = Math.min(2 * pause, MAX_REOPEN_MS)) {
      try {
        await this.#cluster.stream((channel, options) => this.#watch(source, channel, options), own);
      } catch (thrown) {
        const error = EtcdFdwError.from(thrown);
        if (signal.aborted) return cancelled();
        // What a message cannot hold comes in fragments.
        if (error.sqlstate === "54000" && !feed.inFragments) {
          feed.inFragments = true;
          continue;
        }
        if (!error.sqlstate.startsWith("08") || error.sqlstate === "08P01") return error;
        source.error = error;
        if (!source.wasOpen) return error;
      }
      if (feed.state === "COMPACTED") return compactedError(feed);
      if (feed.state === "RESTORED") return restoredError(feed.complete, null);
      await sleep(this.#runtime, pause, signal);
    }
  }

  /** One stream, until it ends or nothing more can come. */
  async #watch(source: Source, channel: Channel, options: CallOptions): Promise<Outcome<null>> {
    const { feed } = source;
    let isOver = false;
    const open = (standing: Standing) => feed.open(standing);
    try {
      const { failure } = await watchRange(channel, feed.watched, options, open, (message, say) => {
        // What a stream has brought before it broke is told again by the next one.
        if (isOver) return true;
        source.say = say;
        // Most are small, and are heard at once.
        if (message.length > SMALL_BYTES) return this.#hearLong(source, message);
        for (const hearing = feed.hear(message);;) {
          const { done, value } = hearing.next();
          if (done) return this.#heard(source, value);
        }
      });
      if (feed.state === "REFUSED") return { failure: refusal(feed.reason) };
      return failure === undefined ? { reply: null } : { failure };
    } finally {
      isOver = true;
      source.say = null;
      source.hears = false;
      source.ticking?.cancel();
      source.ticking = null;
    }
  }

  async #hearLong(source: Source, message: Uint8Array): Promise<boolean> {
    source.hears = true;
    const messages = await inSlices(this.#runtime, source.feed.hear(message));
    source.hears = false;
    return await this.#heard(source, messages);
  }

  /** Whether nothing more can come; a promise holds the stream up. */
  #heard(source: Source, messages: Uint8Array[]): boolean | Promise<false> {
    const { feed } = source;
    if (source.isOver) return true;
    this.#say(source, messages);
    if (feed.state === "COMPACTED" || feed.state === "REFUSED") return true;
    source.error = null;
    source.wasOpen = true;
    this.#lookAll(source, [...source.readers]);
    this.#seek(source);
    return this.#hold(source);
  }

  /** Ends all watches. */
  close(): void {
    for (const all of this.#sources.values()) for (const source of all) source.stop.abort();
  }
}

/** Whether it is for what there is, rather than for what will come. */
const asksNow = ({ wait, upto }: WatchRequest) => wait === 0 && upto === null;

const watchedOf = ({ key, rangeEnd, prev }: Watched): Watched => ({ key, rangeEnd, prev });

const keyOf = ({ key, rangeEnd, prev }: Watched) =>
  JSON.stringify([toHex(key), rangeEnd && toHex(rangeEnd), prev]);

function lateError({ ms }: Deadline, { wasOpen, feed }: Source): EtcdFdwError {
  const missing = wasOpen ? "tell what has happened" : "open a watch";
  return new LateError("08006", `etcd did not ${missing} within ${Math.round(ms)} ms`, {
    hint: feed.watched.prev ? "Without prev it has less to do." : "",
  });
}

function restoredError(after: bigint, now: bigint | null): EtcdFdwError {
  const there = now === null ? "is another store now" : `now is at ${now}`;
  return new EtcdFdwError("22023", `etcd has been at revision ${after}, and ${there}`, {
    hint: "It was restored from a backup, or the server leads to another cluster. Read anew what is there.",
  });
}

function compactedError({ complete, compacted }: Feed): EtcdFdwError {
  return new EtcdFdwError("22023", `events of etcd behind revision ${complete} have been compacted`, {
    hint: `The oldest revision whose events can be read is ${compacted}.`,
  });
}
