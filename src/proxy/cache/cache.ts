// One range of etcd's keys, held in the proxy and kept in step: the driver of versions.ts.
//
//   state     what happens                                    becomes
//   LOADING   all pages of one revision are here              LIVE
//   LIVE      nothing is heard of the range any more          LOST
//   LOST      events, or that there are none, are told again  LIVE
//   any       what is held is not in step, or compacted away  LOADING
//   any       it may not be read, or does not fit             WAITING
//   WAITING   some time has passed, and it is wanted still    LOADING
//   any       nobody has wanted it for long, or it is closed  ENDED
//
// Only what is LIVE answers; all else is read from etcd. Before a linearizable answer etcd is asked, once for all that wait:
// who comes while that is on its way waits for the next time, since he may know of something newer. What etcd says is its
// revision, as of a linearizable read, and whether the user may read the range. If all events up to that revision are here,
// that is enough; of a range that is silent while others are written to, it cannot be known. So etcd counts the keys of a
// range that is not large too, unless one of them is newer than what is held: as many keys, none of them newer, are the
// same keys (`encodeUnchanged`). A large range catches up by the watch, in the background.

import { compareBytes, printable } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { type KeyRange, successor, toEtcd } from "../../etcd/keyrange.ts";
import { encodeRangeRequest, type RangeRequest } from "../../etcd/messages.ts";
import {
  answerHeader,
  decodeKeyRow,
  decodePage,
  decodeRangeResponse,
  keyOf,
  type Page,
} from "../../etcd/ranges.ts";
import { decodeTxn } from "../../etcd/txn.ts";
import { decodeWatchedPage, encodeProbe, encodeUnchanged, type WatchedEvent } from "../../etcd/watch.ts";
import { FUTURE_REVISION } from "../../etcd/nested.ts";
import { Method } from "../../ipc/frame.ts";
import { cancelled, Deadline, waitFor } from "../deadline.ts";
import type { Cluster, Terms } from "../etcd/cluster.ts";
import { LateError } from "../handle.ts";
import type { Budget } from "../memory.ts";
import { inSlices, type Runtime, sleep } from "../runtime.ts";
import type { Hub } from "../watch/hub.ts";
import { keyRangeOf, revisionOf } from "../txn/overlay.ts";
import { answerRange, answerReads, type State } from "./answer.ts";
import { Shared } from "./shared.ts";
import { ROW_BYTES, type Version, Versions } from "./versions.ts";

export type CacheState = "LOADING" | "LIVE" | "LOST" | "WAITING" | "ENDED";

/** What a read asks for. */
export interface Asked {
  requests: RangeRequest[];
  /** Whether the answer is a TxnResponse. */
  isTxn: boolean;
  /** What the session must see, since it has written that; null when it has written at a revision that is not known. */
  floor: bigint | null;
  /** Of serializable reads, in milliseconds; 0 for any. */
  maxStaleness: number;
  deadline: Deadline;
  signal?: AbortSignal;
}

export interface Answer {
  reply: Uint8Array;
  /** Whether it is as new as etcd was when the read began. */
  isNewest: boolean;
}

/** What a cache is made of. */
export interface CacheWorld {
  runtime: Runtime;
  cluster: Pick<Cluster, "call">;
  hub: Pick<Hub, "read">;
  budget: Budget;
  log: (message: string) => void;
  /** Frees what nobody has read for a while. */
  makeRoom: () => void;
}

/** Keys of a range that etcd looks at for a linearizable answer, and their bytes: that takes it about a millisecond. */
const PROVEN_KEYS = 1000;
const PROVEN_BYTES = 1024 * 1024;
/** Bytes of a page while loading, and what none should be larger than. */
const LOAD_BYTES = 1024 * 1024;
const MOST_LOAD_BYTES = 8 * LOAD_BYTES;
/** Keys of the first one: nobody knows yet how large their values are. */
const FIRST_LOAD_KEYS = 16;
/** Keys of a page while comparing. */
const VERIFY_KEYS = 5000;
/** The pause between two of these, in milliseconds. */
const VERIFY_PAUSE_MS = 20;
/** A cache that nobody has read for so long is dropped, in milliseconds. */
const IDLE_MS = 300_000;
/** How long the watch is given to tell that there is nothing, and to answer at all. */
const FOLLOW_MS = 3_000;
const SILENT_MS = 6_000;
/** The time of a call of the cache's own. */
const CALL_MS = 30_000;
const PROBE_MS = 5_000;
const CONNECT_MS = 5_000;
/** Before a cache that could not be loaded is tried again, and one that is too large. */
const RETRY_MS = 10_000;
const TOO_LARGE_MS = 60_000;
/** Between two loadings. */
const RELOAD_MS = 1_000;
/** Between two times that the watch of a large range is made to catch up. */
const CATCH_UP_MS = 200;

/** A revision that a version was found to be of. */
interface Found {
  version: Version;
  revision: bigint;
}

/** Counters of one cache, since it was made. */
export interface CacheCounts {
  verifications: number;
  repairs: number;
}

export class Cache {
  readonly range: KeyRange;
  readonly counts: CacheCounts = { verifications: 0, repairs: 0 };
  readonly #world: CacheWorld;
  readonly #runtime: Runtime;
  readonly #stop = new AbortController();
  #state: CacheState = "LOADING";
  #versions = new Versions();
  #taken = 0;
  #header = new Uint8Array(0);
  #clusterId = 0n;
  /** Ends what goes on for the present versions. */
  #life = new AbortController();
  /** When etcd was asked last, in milliseconds, and its revision at that time, or a later one. */
  #freshAt = 0;
  #freshRevision = 0n;
  #usedAt: number;
  readonly #probes: Shared<Found | null>;
  /** Other keys of the cluster are written to more often than those of the range. */
  #isBusy = false;
  #catchesUp = false;
  /** Ends when all that was told is taken in. */
  #telling: Promise<void> = Promise.resolve();
  #caughtUpAt = 0;
  #verifyEvery = 0;
  #verifiedAt: number;
  #verifies = false;

  constructor(world: CacheWorld, range: KeyRange) {
    this.#world = world;
    this.#runtime = world.runtime;
    this.range = range;
    this.#usedAt = this.#verifiedAt = this.#runtime.now();
    this.#probes = new Shared(
      () => this.#probe().catch((thrown) => this.#refused(EtcdFdwError.from(thrown))),
      this.#runtime,
    );
  }

  get state(): CacheState {
    return this.#state;
  }

  /** The revision that it is known to be of, its keys, and what it takes. */
  get held(): { revision: bigint; keys: number; bytes: number } {
    const { newest, rows } = this.#versions.current;
    return { revision: newest, keys: rows.size, bytes: this.#taken };
  }

  get clusterId(): bigint {
    return this.#clusterId;
  }

  get idleFor(): number {
    return this.#runtime.now() - this.#usedAt;
  }

  set verifyEvery(seconds: number) {
    this.#verifyEvery = seconds;
  }

  close(): void {
    this.#stop.abort();
    this.#life.abort();
  }

  /** The answer; null when etcd must be asked. Rejects only with 57014. */
  async read(asked: Asked): Promise<Answer | null> {
    this.#usedAt = this.#runtime.now();
    if (this.#state !== "LIVE" || !asked.requests.every((one) => this.#covers(one))) return null;
    const versions = this.#versions;
    const atOnce = this.#atOnce(asked);
    const found = atOnce ?? await this.#proven(asked);
    if (found === null || versions !== this.#versions) return null;
    const state: State = {
      ...{ rows: found.version.rows, range: this.range, revision: found.revision, header: this.#header },
    };
    const { requests, isTxn } = asked;
    const reply = await inSlices(
      this.#runtime,
      isTxn ? answerReads(requests, state) : answerRange(requests[0], state),
    );
    return { reply, isNewest: atOnce === null && revisionIn(requests) === null };
  }

  #covers(request: RangeRequest): boolean {
    const { start, end } = keyRangeOf(request);
    const all = this.range;
    return compareBytes(start, all.start) >= 0 &&
      (all.end === null || end !== null && compareBytes(end, all.end) <= 0);
  }

  /** What needs no question to etcd. */
  #atOnce({ requests, floor, maxStaleness }: Asked): Found | null {
    const named = revisionIn(requests);
    if (named !== null) {
      const version = this.#versions.at(named);
      return version && this.#found(version, named);
    }
    if (!requests.every(({ serializable }) => serializable)) return null;
    const { current } = this.#versions;
    if (floor === null || current.newest < floor) return null;
    const isFresh = current.newest >= this.#freshRevision &&
      this.#runtime.now() - this.#freshAt <= maxStaleness;
    if (maxStaleness > 0 && !isFresh) return null;
    return this.#found(current, current.newest);
  }

  /** What etcd has been asked for behind this read. */
  async #proven({ requests, deadline, signal }: Asked): Promise<Found | null> {
    const named = revisionIn(requests);
    // What nobody holds any more, etcd does.
    if (named !== null && named <= this.#versions.current.upto) return null;
    const late = () => new LateError("08006", "late");
    const found = await waitFor(this.#runtime, this.#probes.answer(), deadline.left(), late, signal).catch(
      (error) => {
        if (signal?.aborted) throw error;
        return null;
      },
    );
    if (named === null || found === null) return found;
    const version = this.#versions.at(named);
    return version && this.#found(version, named);
  }

  /** What is read is not changed from now on: those who have waited hear of it a little later. */
  #found(version: Version, revision: bigint): Found {
    this.#versions.read(version, this.#runtime.now());
    return { version, revision };
  }

  async #probe(): Promise<Found | null> {
    const found = await this.#ask(this.#isBusy && this.#isSmall);
    // Others are written to: from now on the keys are looked at without asking first.
    if (found !== "SILENT") return found;
    this.#isBusy = true;
    const again = this.#isSmall ? await this.#ask(true) : null;
    return again === "SILENT" ? null : again;
  }

  get #isSmall(): boolean {
    const { current: { rows }, weight } = this.#versions;
    return rows.size <= PROVEN_KEYS && weight <= PROVEN_BYTES;
  }

  /** What etcd's answer shows; SILENT when the watch has told nothing up to etcd's revision. */
  async #ask(asksKeys: boolean): Promise<Found | null | "SILENT"> {
    const versions = this.#versions;
    const { current } = versions;
    const { upto, rows } = current;
    // What is compared must not change meanwhile.
    versions.read(current, this.#runtime.now());
    const sentAt = this.#runtime.now();
    const range = toEtcd(this.range);
    const probe = asksKeys ? encodeUnchanged(range, upto) : encodeProbe(range);
    const reply = await this.#world.cluster.call(Method.READ_TXN, probe, this.#terms(PROBE_MS));
    if (versions !== this.#versions || this.#state !== "LIVE") return null;
    const { revision, succeeded, responses } = decodeTxn(reply);
    if (revision < upto || answerHeader(reply).cluster !== this.#clusterId) {
      this.#restart(`etcd is at revision ${revision}, the cache was at ${upto}`);
      return null;
    }
    const isSame = asksKeys && succeeded && responses[0] !== null &&
      decodeRangeResponse(responses[0]).count === BigInt(rows.size);
    if (isSame) versions.prove(current, revision);
    const newer = versions.current;
    if (newer.upto >= revision) this.#isBusy = false;
    const version = newer.upto >= revision ? newer : versions.at(revision);
    if (version === null) {
      if (!this.#isSmall) this.#catchUp(revision, sentAt);
      return asksKeys ? null : "SILENT";
    }
    this.#fresh(revision, sentAt);
    return this.#found(version, version === newer ? newer.newest : revision);
  }

  /** All up to this revision is here, which etcd had when it was asked. */
  #fresh(revision: bigint, sentAt: number): void {
    if (sentAt > this.#freshAt) [this.#freshAt, this.#freshRevision] = [sentAt, revision];
  }

  /** Who may not read the range any more is told so by etcd. */
  #refused(error: EtcdFdwError): null {
    if (error.sqlstate === "42501") {
      this.#state = "WAITING";
      this.#life.abort(error);
    }
    return null;
  }

  /** Lets the watch find out that all up to this revision is here, which takes a while. */
  #catchUp(revision: bigint, sentAt: number): void {
    if (this.#catchesUp || this.#runtime.now() - this.#caughtUpAt < CATCH_UP_MS) return;
    this.#catchesUp = true;
    const versions = this.#versions;
    const told = this.#told(versions, revision).then(() => {
      if (versions === this.#versions && versions.current.upto >= revision) this.#fresh(revision, sentAt);
    });
    told.catch(() => {}).then(() => {
      this.#catchesUp = false;
      this.#caughtUpAt = this.#runtime.now();
    });
  }

  #terms(ms: number): Terms {
    return {
      deadline: Deadline.after(this.#runtime, ms),
      connect: CONNECT_MS,
      signal: this.#life.signal,
    };
  }

  /** Takes what the watch tells: as it comes, or all up to a revision. */
  async #told(versions: Versions, upto: bigint | null): Promise<void> {
    const reply = await this.#world.hub.read({
      ...{ ...toEtcd(this.range), prev: false, after: versions.current.upto, upto },
      ...(upto === null ? { enough: 1, wait: FOLLOW_MS } : { enough: Infinity, wait: 0 }),
      ...{ count: Infinity, bytes: LOAD_BYTES, known: true },
    }, this.#terms(SILENT_MS));
    const { events, revision } = await inSlices(this.#runtime, decodeWatchedPage(reply));
    // One after the other, since each takes its time.
    const told = this.#telling.then(() => this.#takeIn(versions, events, revision));
    this.#telling = told.catch(() => {});
    await told;
  }

  async #takeIn(versions: Versions, events: readonly WatchedEvent[], revision: bigint): Promise<void> {
    if (versions !== this.#versions) return;
    const wrong = await inSlices(this.#runtime, versions.tell(events, revision));
    if (wrong !== null && versions === this.#versions) this.#restart(wrong);
  }

  /** What is held is of no use: it is loaded anew. */
  #restart(reason: string): void {
    if (this.#life.signal.aborted) return;
    this.#state = "LOADING";
    this.counts.repairs++;
    this.#world.log(`the cache of ${this.#name()} is loaded anew: ${reason}`);
    this.#life.abort();
  }

  #name(): string {
    const { start, end } = this.range;
    return `etcd's keys from "${printable(start)}" to ${end === null ? "the end" : `"${printable(end)}"`}`;
  }

  /** Keeps it in step until it is closed or nobody wants it. */
  async run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      this.#life = new AbortController();
      const began = this.#runtime.now();
      const pause = await this.#live().then(() => 0, (thrown) => this.#pauseAfter(thrown));
      this.#state = "WAITING";
      this.#versions = new Versions();
      this.#account();
      if (pause === null) break;
      // Another life begins, but not in a loop without a pause.
      const left = Math.max(pause, began + RELOAD_MS - this.#runtime.now());
      await sleep(this.#runtime, left, this.#stop.signal);
      if (this.idleFor > IDLE_MS) break;
      this.#state = "LOADING";
    }
    this.#state = "ENDED";
  }

  /** How long to wait after what has ended a life, in milliseconds; null for ever. */
  #pauseAfter(thrown: unknown): number | null {
    const reason: unknown = this.#life.signal.reason;
    const isOver = this.#stop.signal.aborted || thrown === IDLE;
    if (isOver) return null;
    const error = EtcdFdwError.from(thrown);
    if (this.#life.signal.aborted && !(reason instanceof EtcdFdwError)) return 0;
    // Events of a silent range may have been compacted away before it was known that there were none.
    if (error.sqlstate === "22023") return 0;
    if (error.sqlstate === "XX000") {
      this.#world.log(`the cache of ${this.#name()}: ${error.message}\n${error.detail}`);
    }
    return TOO_LARGE.includes(error.sqlstate) ? TOO_LARGE_MS : RETRY_MS;
  }

  /** One life: loads, and follows. Resolves when it is to be loaded anew. */
  async #live(): Promise<void> {
    const versions = new Versions();
    this.#versions = versions;
    const revision = await this.#load(versions);
    versions.loaded(revision);
    this.#verifiedAt = this.#runtime.now();
    this.#state = "LIVE";
    const { signal } = this.#life;
    for (;;) {
      if (this.idleFor > IDLE_MS) throw IDLE;
      try {
        await this.#told(versions, null);
        if (!signal.aborted) this.#state = "LIVE";
      } catch (thrown) {
        const { sqlstate } = EtcdFdwError.from(thrown);
        if (signal.aborted || !sqlstate.startsWith("08") || sqlstate === "08P01") throw thrown;
        this.#state = "LOST";
        await sleep(this.#runtime, RELOAD_MS, signal);
      }
      if (signal.aborted) throw cancelled();
      this.#account();
      if (versions.isWasteful) return;
      this.#verifyInTime(versions);
    }
  }

  /** Takes from the budget what is held, and what certainly comes. Throws EtcdFdwError 53200. */
  #account(toCome = 0): void {
    const { budget, makeRoom } = this.#world;
    const more = this.#versions.bytes + toCome - this.#taken;
    if (more > budget.free) makeRoom();
    if (more <= 0) budget.give(-more);
    else budget.take(more);
    this.#taken += more;
  }

  /**
   * All pages, of the revision that the first one shows. Rejects with 53200 as soon as there is no room. etcd bounds a page in
   * keys alone, and counts the rest of the range for each: so pages grow while they are small.
   */
  async #load(versions: Versions): Promise<bigint> {
    let revision = 0n;
    let count = 0;
    let request: RangeRequest = { ...toEtcd(this.range), limit: FIRST_LOAD_KEYS };
    /** Of a row, where a page was too large: there are runs of such rows, and more of them may come. */
    let largest = 1;
    const sentAt = this.#runtime.now();
    for (;;) {
      const payload = encodeRangeRequest(request);
      // A copy: what came with it on the connection is not to be held as long as this.
      const reply = new Uint8Array(
        await this.#world.cluster.call(Method.RANGE, payload, this.#terms(CALL_MS)),
      );
      const page: Page = await inSlices(this.#runtime, decodePage(reply, revisionOf(request)));
      const { rows } = page;
      if (revision === 0n) {
        revision = page.revision;
        this.#header = new Uint8Array(page.header);
        this.#clusterId = answerHeader(reply).cluster;
        [this.#freshAt, this.#freshRevision] = [sentAt, revision];
        count = Number(page.count);
      }
      await inSlices(this.#runtime, versions.load(rows, reply.length));
      this.#account((count - versions.current.rows.size) * ROW_BYTES);
      if (!page.more || rows.length === 0 || request.rangeEnd === null) break;
      if (reply.length > MOST_LOAD_BYTES) { for (const raw of rows) largest = Math.max(largest, raw.length); }
      const wanted = Math.min(
        rows.length * Math.min(2, LOAD_BYTES / reply.length),
        MOST_LOAD_BYTES / largest,
      );
      request = {
        ...request,
        key: successor(keyOf(rows[rows.length - 1])),
        limit: Math.max(1, Math.floor(wanted)),
        revision: String(revision),
      };
    }
    this.#account();
    return revision;
  }

  #verifyInTime(versions: Versions): void {
    const now = this.#runtime.now();
    if (this.#verifies || this.#verifyEvery === 0 || now - this.#verifiedAt < this.#verifyEvery * 1000) {
      return;
    }
    this.#verifies = true;
    this.verify(versions).catch(() => {}).then((isDone) => {
      this.#verifies = false;
      // What a compaction has cut off is begun again soon, with what is newer then.
      const passed = isDone ? 0 : Math.max(0, this.#verifyEvery * 1000 - RETRY_MS);
      this.#verifiedAt = this.#runtime.now() - passed;
    });
  }

  /** Compares what is held with what etcd has at the same revision; a difference is repaired. Whether it came to an end. */
  async verify(versions = this.#versions): Promise<boolean> {
    const { current } = versions;
    versions.read(current, this.#runtime.now());
    const revision = String(current.upto);
    const held = current.rows.entries();
    let request: RangeRequest = { ...toEtcd(this.range), keysOnly: true, limit: VERIFY_KEYS, revision };
    for (;;) {
      let reply: Uint8Array;
      try {
        reply = await this.#world.cluster.call(
          Method.RANGE,
          encodeRangeRequest(request),
          this.#terms(CALL_MS),
        );
      } catch (thrown) {
        const error = EtcdFdwError.from(thrown);
        if (error.message === FUTURE_REVISION) this.#restart(error.message);
        throw error;
      }
      const page = await inSlices(this.#runtime, decodePage(reply, revision));
      const wrong = await inSlices(this.#runtime, difference(page.rows, held, !page.more));
      if (versions !== this.#versions) return false;
      if (wrong !== null) {
        this.#restart(wrong);
        return true;
      }
      if (!page.more || page.rows.length === 0 || request.rangeEnd === null) break;
      request = { ...request, key: successor(keyOf(page.rows[page.rows.length - 1])) };
      await sleep(this.#runtime, VERIFY_PAUSE_MS, this.#life.signal);
    }
    this.counts.verifications++;
    return true;
  }
}

/** There is no room for it, or etcd's answer is larger than any may be. */
const TOO_LARGE = ["53200", "54000"];

/** Nobody wants the cache any more. */
const IDLE = new EtcdFdwError("57014", "the cache is not used");

/** The one revision that all requests name; null when they name none. */
export function revisionIn([{ revision }]: RangeRequest[]): bigint | null {
  return revision === undefined || revision === "0" ? null : BigInt(revision);
}

/** In what etcd's keys and revisions differ from the next ones that are held, or null; `isEnd` when none may follow. */
function* difference(
  rows: Uint8Array[],
  held: Iterator<[Uint8Array, Uint8Array]>,
  isEnd: boolean,
): Generator<undefined, string | null, unknown> {
  for (const [i, raw] of rows.entries()) {
    if (i % 256 === 255) yield;
    const own = held.next();
    const theirs = decodeKeyRow(raw);
    const name = `key "${printable(theirs.key)}"`;
    if (own.done) return `it lacks ${name}`;
    const { key, modRevision } = decodeKeyRow(own.value[1]);
    if (compareBytes(key, theirs.key) !== 0) return `it holds key "${printable(key)}" where etcd has ${name}`;
    if (modRevision !== theirs.modRevision) {
      return `it holds ${name} as of revision ${modRevision}, etcd as of ${theirs.modRevision}`;
    }
  }
  if (!isEnd) return null;
  const more = held.next();
  return more.done ? null : `it holds key "${printable(more.value[0])}", which etcd has not`;
}
