// That a watch of the past has arrived at a revision: that all events of its range up to there have been told.
//
// etcd does not say so; progress answers in 3.4 come too early (etcd-io/etcd issue 15220). What does say it:
//
//  - etcd serves a watch that is behind in parts of BATCH_REVISIONS revisions at most. A smaller part is the last one, and
//    its header tells the revision up to which there is nothing else.
//  - When a part was full and nothing follows, a further watch is opened at the last revision seen: it has that one to
//    tell at least, so an answer is certain, and is as good as the first one's.
//  - When nothing has come at all, other watches mark the present. etcd serves all that are behind in rounds, in no order
//    within a round: when a mark comes that was asked for after another one had come, the other one's round is over, and
//    the watch of the past had its turn in it. A mark is a watch that must have something to tell: of the whole key space
//    from the revision on or, for a user who may not watch that, of the same range from revision 1 on, which is told of the
//    compaction if of nothing else.
//  - Where nothing was ever compacted and nothing ever written to the range, no mark answers. Then enough turns are waited
//    for, in each of which etcd has answered something after the time of a round.
//
// This is a machine without clock or stream: what is heard and ticks go in, watches to be opened come out.

/** Revisions after which etcd cuts a watch's way through the past (mvcc's watchBatchMaxRevs). */
export const BATCH_REVISIONS = 1000;
/** The time between two ticks, in milliseconds: etcd's rounds take place every 100. */
export const TICK_MS = 120;
/** Ticks without news after which something is done about it. */
const QUIET_TICKS = 2;
/** Turns that show that there is nothing, where nothing can show it better. */
const SILENT_TURNS = 10;

/** A watch beside the one whose arrival is in question; `late` shows nothing any more. */
export type Purpose = "markAll" | "markOwn" | "tail";

/** A watch to be opened: of the whole key space, or of the range. */
export interface Wanted {
  purpose: Purpose;
  start: bigint;
  /** Its number on the stream. */
  nth: number;
}

export class Proof {
  /** The revision to arrive at. */
  readonly now: bigint;
  readonly #first: number;
  #isGiven: boolean;
  /** The last revision that was told since the proof began; 0 for none. */
  #seen = 0n;
  #quiet = 0;
  /** A watch at the last revision seen is under way. */
  #tail = false;
  /** A mark has come. */
  #marked = false;
  /** The number of the last watch that was asked for when a mark came: those up to there show nothing more. */
  #since: number;
  /** Watches that were asked for on the stream, and how many of this proof's are not acknowledged. */
  #asked: number;
  #pending = 0;
  #silentTurns = 0;

  /** @param asked Watches that were asked for on the stream before. */
  constructor(complete: bigint, now: bigint, asked: number) {
    this.now = now;
    this.#isGiven = complete >= now;
    this.#asked = this.#since = this.#first = asked;
  }

  get isGiven(): boolean {
    return this.#isGiven;
  }

  #want(purpose: Purpose, start: bigint): Wanted[] {
    this.#asked++;
    this.#pending++;
    return [{ purpose, start, nth: this.#asked }];
  }

  /** What to open first. */
  begin(): Wanted[] {
    return this.#isGiven ? [] : this.#want("markAll", this.now);
  }

  /** The nth watch was acknowledged, or refused. */
  acknowledged(purpose: Purpose, nth: number): void {
    if (nth <= this.#first) return;
    this.#pending--;
    if (purpose === "markOwn" && this.#seen === 0n && ++this.#silentTurns > SILENT_TURNS) {
      this.#isGiven = true;
    }
  }

  /** Events of the range: so many revisions in one part, the last of them, and the store's revision in its header. */
  part(revisions: number, last: bigint, header: bigint): void {
    this.#quiet = 0;
    this.#tail = false;
    if (last > this.#seen) this.#seen = last;
    if (revisions < BATCH_REVISIONS && header >= this.now || last >= this.now) this.#isGiven = true;
  }

  /** The nth watch, a mark, has something to tell; compacted or with events, it is an answer. */
  mark(purpose: "markAll" | "markOwn", nth: number): Wanted[] {
    // What has been seen says more.
    if (this.#isGiven || this.#seen > 0n || nth <= this.#since) return [];
    if (this.#marked) {
      this.#isGiven = true;
      return [];
    }
    this.#marked = true;
    this.#quiet = 0;
    this.#since = this.#asked;
    return this.#next(purpose);
  }

  #next(purpose: "markAll" | "markOwn"): Wanted[] {
    return this.#want(purpose, purpose === "markAll" ? this.now : 1n);
  }

  /** Every TICK_MS. */
  tick(): Wanted[] {
    // As long as etcd has not answered, time passes for nobody.
    const waits = this.#pending > 0 || this.#tail;
    if (this.#isGiven || waits || ++this.#quiet < QUIET_TICKS) return [];
    if (this.#seen === 0n) return this.#next("markOwn");
    this.#tail = true;
    this.#quiet = 0;
    return this.#want("tail", this.#seen);
  }
}
