// Where transactions wait: makes the calls of etcd that they ask for, lets others run when their work takes long, and
// carries out what the commit's machine decides. All else in this folder neither waits nor knows the time.

import { EtcdFdwError } from "../../base/errors.ts";
import { encodeLease } from "../../etcd/lease.ts";
import { FUTURE_REVISION } from "../../etcd/nested.ts";
import { decodeTxnOutcome } from "../../etcd/txn.ts";
import { Method, ReadFlag } from "../../ipc/frame.ts";
import { decodeLevel, encodeStageReply, StageCode, type StageReply } from "../../ipc/stage.ts";
import { type ClusterHandle, undecided } from "../handle.ts";
import type { Budget } from "../memory.ts";
import { Spare } from "./arena.ts";
import { begin, type Commit, type Effect, type Event, isOver, type Sent, step } from "./commit.ts";
import { type Batch, encodePart, explain, firstForm, type Form, nextForm } from "./plan.ts";
import { type Answer, Transaction } from "./transaction.ts";
import type { Work } from "./work.ts";

/** etcd, as a session reaches it. Rejects with EtcdFdwError. */
export type Call = (method: number, payload: Uint8Array) => Promise<Uint8Array>;

/** What a request of the session lends to the work for it. */
export interface Link {
  /** A call within the request's time. Rejects promptly when the request is cancelled. */
  call: Call;
  /** The same with the request's full time from now on, which each Txn of a commit has. */
  callAfresh: Call;
  /** A part of what takes long is done. */
  progress: () => void;
  signal: AbortSignal;
}

/** The time, and the others' turn. */
export interface Pace {
  /** Milliseconds. */
  now(): number;
  /** Resolves when what came meanwhile was taken care of. */
  turn(): Promise<void>;
}

/** How long work goes on before others have their turn, in milliseconds. */
const SLICE_MS = 5;

function cancelled(): EtcdFdwError {
  return new EtcdFdwError("57014", "request was cancelled");
}

/** Does the work with these calls. Rejects with what it throws, or 57014 when `until` says so. */
export async function run<T>(work: Work<T>, call: Call, pace: Pace, until: { aborted: boolean }): Promise<T> {
  // What does not pause does not look at the clock.
  let began: number | null = null;
  let at = work.next([]);
  while (!at.done) {
    if (at.value === undefined) {
      const now = pace.now();
      began ??= now;
      if (now - began >= SLICE_MS) {
        await pace.turn();
        began = null;
      }
    } else {
      const replies = await Promise.all(at.value.map(({ method, payload }) => call(method, payload)))
        .catch((error: unknown) => ({ error }));
      began = null;
      if ("error" in replies) {
        at = work.throw(replies.error);
        continue;
      }
      if (!until.aborted) {
        at = work.next(replies);
        continue;
      }
    }
    if (until.aborted) {
      work.return(undefined as T);
      throw cancelled();
    }
    at = work.next([]);
  }
  return at.value;
}

/** Ended without an outcome that etcd has told: the request's end, or a fault of this program. */
const UNDECIDED = ["08007", "57014", "XX000"];

/** A batch on its way to etcd. */
class Writing {
  readonly #batch: Batch;
  readonly #options: ClusterHandle["staging"];
  readonly #link: Link;
  readonly #pace: Pace;
  #state: Commit;
  #form: Form | null = null;
  /** Ends the work that goes on when it is over, or nobody waits for it. */
  readonly #until: { aborted: boolean };
  #resolve: (written: { revision: bigint; txns: number }) => void = () => {};
  #reject: (error: EtcdFdwError) => void = () => {};

  constructor(batch: Batch, options: ClusterHandle["staging"], link: Link, pace: Pace) {
    this.#batch = batch;
    this.#options = options;
    this.#link = link;
    this.#pace = pace;
    this.#state = begin().state;
    const over = () => isOver(this.#state) || link.signal.aborted;
    this.#until = {
      get aborted() {
        return over();
      },
    };
  }

  get state(): Commit {
    return this.#state;
  }

  /** Rejects with 23505 or 40001 when a guard does not hold, with 08007 when the outcome is unknown, and with 54000. */
  done(): Promise<{ revision: bigint; txns: number }> {
    const done = new Promise<{ revision: bigint; txns: number }>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    for (const effect of begin().effects) this.#perform(effect);
    return done;
  }

  tell(event: Event): void {
    const { state, effects } = step(this.#state, event);
    this.#state = state;
    for (const effect of effects) this.#perform(effect);
  }

  #perform(effect: Effect): void {
    switch (effect.do) {
      case "plan":
        return void this.#plan();
      case "send":
        return void this.#send(effect.txn);
      case "progress":
        return this.#link.progress();
      case "explain":
        return void this.#explain();
      case "reply":
        return this.#resolve(effect);
      case "fail":
        return this.#reject(effect.error);
      case "revoke":
        // The transaction does it by the outcome.
        return;
    }
  }

  #run<T>(work: Work<T>): Promise<T> {
    return run(work, this.#link.callAfresh, this.#pace, this.#until);
  }

  async #plan(): Promise<void> {
    const work = this.#form === null
      ? firstForm(this.#batch, this.#options)
      : nextForm(this.#form, this.#options);
    try {
      const form = await this.#run(work);
      this.#form = form ?? this.#form;
      const sizes = (parts: Form["writes"]) => parts.map(({ from, to }) => to - from);
      this.tell({
        type: "planned",
        form: form === null ? null : { checks: sizes(form.checks), writes: sizes(form.writes) },
      });
    } catch (thrown) {
      this.#failed(thrown);
    }
  }

  /** A request that is cancelled makes its calls fail: that is how it is heard of. */
  #failed(thrown: unknown): void {
    if (this.#link.signal.aborted) this.tell({ type: "cancelled" });
    else this.tell({ type: "failed", error: EtcdFdwError.from(thrown) });
  }

  async #explain(): Promise<void> {
    try {
      this.tell({ type: "explained", error: await this.#run(explain(this.#form!, this.#options)) });
    } catch (thrown) {
      this.#failed(thrown);
    }
  }

  async #send({ id, kind, part }: Sent): Promise<void> {
    const form = this.#form!;
    const writes = kind === "write" && form.writes[part].writes;
    let sent = false;
    try {
      const request = await this.#run(encodePart(form, kind, part, this.#options));
      // It may have ended while the request was made.
      if (this.#link.signal.aborted) this.tell({ type: "cancelled" });
      if (isOver(this.#state)) return;
      sent = true;
      if (writes) this.tell({ type: "out", id });
      const reply = await this.#link.callAfresh(writes ? Method.TXN : Method.READ_TXN, request);
      const { revision, succeeded } = decodeTxnOutcome(reply);
      this.tell(succeeded ? { type: "answered", id, revision } : { type: "refused", id, error: null });
    } catch (thrown) {
      const error = undecided(EtcdFdwError.from(thrown));
      if (this.#link.signal.aborted) this.tell({ type: "cancelled" });
      else if (error.message === FUTURE_REVISION) this.tell({ type: "refused", id, error: null });
      else if (sent && writes && UNDECIDED.includes(error.sqlstate)) this.tell({ type: "lost", id, error });
      else this.tell({ type: "refused", id, error });
    }
  }
}

/** The transactions of one channel, one after the other. */
export class Transactions {
  readonly #handle: ClusterHandle;
  readonly #budget: Budget;
  readonly #pace: Pace;
  readonly #spare = new Spare();
  #current: Transaction | null = null;
  /** What is being written: the commit, or several batches that are written at once. */
  readonly #writing = new Set<Writing>();

  /** @param budget The session's. */
  constructor(handle: ClusterHandle, budget: Budget, pace: Pace) {
    this.#handle = handle;
    this.#budget = budget;
    this.#pace = pace;
  }

  #transaction(): Transaction {
    return this.#current ??= new Transaction(this.#handle.staging, this.#budget, (lease) => {
      this.#handle.call(Method.LEASE_REVOKE, encodeLease(lease)).catch(() => {});
    }, this.#spare);
  }

  /** A STAGE frame that nobody waits for: it is done at once, so that whatever comes next finds it done. */
  stage(code: number, payload: Uint8Array): void {
    if (code === StageCode.END) return this.end();
    const transaction = this.#transaction();
    if (code === StageCode.WRITE) transaction.stage(payload);
    else if (code === StageCode.ROLLBACK) transaction.rollback(decodeLevel(payload));
    else if (code === StageCode.RELEASE) transaction.release(decodeLevel(payload));
    else throw new EtcdFdwError("08P01", `unexpected stage code ${code}`);
  }

  /** The backend has ended its transaction, or is gone. */
  end(): void {
    const transaction = this.#current;
    this.#current = null;
    for (const writing of this.#writing) writing.tell({ type: "ended" });
    transaction?.end();
  }

  /** The answer to a STAGE frame. */
  async answer(code: number, payload: Uint8Array, link: Link): Promise<Uint8Array> {
    const transaction = this.#transaction();
    if (code === StageCode.COMMIT) return encodeStageReply(await this.#commit(transaction, link));
    const work = this.#work(transaction, code, payload);
    const answer = await run(work, link.call, this.#pace, link.signal);
    return encodeStageReply("reply" in answer ? answer.reply : await this.#writeNow(answer, link));
  }

  #work(transaction: Transaction, code: number, payload: Uint8Array): Work<Answer> {
    if (code === StageCode.WRITE) return transaction.write(payload);
    if (code === StageCode.DELETE_RANGE) return transaction.deleteRange(payload);
    if (code === StageCode.GRANT) return transaction.grant(payload, this.#pace.now());
    throw new EtcdFdwError("08P01", `unexpected stage code ${code}`);
  }

  /** The answer to a UNARY frame that reads behind what is staged. */
  async read(method: number, flags: number, payload: Uint8Array, link: Link): Promise<Uint8Array> {
    if (payload.length < 4) throw new EtcdFdwError("08P01", "malformed read frame");
    const command = new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0);
    const recorded = (flags & ReadFlag.RECORDED) !== 0;
    const work = this.#transaction().read(method, payload.subarray(4), command, recorded);
    return await run(work, link.call, this.#pace, link.signal);
  }

  async #write(batch: Batch, link: Link, settle: (commit: Commit) => void): Promise<StageReply> {
    const writing = new Writing(batch, this.#handle.staging, link, this.#pace);
    this.#writing.add(writing);
    try {
      const { revision, txns } = await writing.done();
      return { revision, count: txns, refused: [] };
    } finally {
      this.#writing.delete(writing);
      settle(writing.state);
    }
  }

  async #writeNow(
    { write, count, refused }: Extract<Answer, { write: Batch }>,
    link: Link,
  ): Promise<StageReply> {
    const { revision } = await this.#write(write, link, () => write.records.clear());
    return { revision, count, refused };
  }

  async #commit(transaction: Transaction, link: Link): Promise<StageReply> {
    const reply = await this.#write(transaction.commit(), link, ({ phase }) => {
      transaction.settle(phase === "COMMITTED" || phase === "REFUSED" ? phase : "UNKNOWN");
    });
    this.#handle.noteTransaction();
    // The backend ends a transaction whose commit has failed.
    if (this.#current === transaction) this.#current = null;
    return reply;
  }
}
