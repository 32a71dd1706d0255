// How a transaction is written to etcd, as a machine: events in, effects out. It neither waits nor knows the time.
//
//   PLANNING    what is to be sent is being cut into Txns
//   CHECKING    several Txns are needed: their guards are compared first, nothing is written
//   WRITING     the Txns that write are on their way, a few at a time
//   EXPLAINING  a guard did not hold, nothing was written: reads find out which
//   COMMITTED   all of it took effect
//   REFUSED     nothing of it did
//   UNKNOWN     something may have, or part of it has
//
//   PLANNING -> CHECKING | WRITING | EXPLAINING | COMMITTED | REFUSED
//   CHECKING -> WRITING | PLANNING | REFUSED
//   WRITING -> COMMITTED | PLANNING | REFUSED | UNKNOWN
//   EXPLAINING -> REFUSED
//
// The last three are its outcomes. There is exactly one, told by one reply or one failure; behind it, and behind a cancel or
// the session's end, nothing is sent. What a transaction has granted is revoked only when nothing can have been written.

import { EtcdFdwError } from "../../base/errors.ts";
import { conflict } from "./records.ts";

export type Phase =
  | "PLANNING"
  | "CHECKING"
  | "WRITING"
  | "EXPLAINING"
  | "COMMITTED"
  | "REFUSED"
  | "UNKNOWN";

/** The guards and operations of a Txn. */
export type Size = number;

/** A Txn that is on its way, to etcd or first of all through its making. */
export interface Sent {
  id: number;
  kind: "check" | "write";
  /** Which of its kind in the present form. */
  part: number;
  /** Whether etcd may have it: a write that may have taken effect. */
  out: boolean;
}

export interface Commit {
  phase: Phase;
  /** Of the present form. */
  checks: readonly Size[];
  writes: readonly Size[];
  /** The next one of the phase's Txns to be sent. */
  next: number;
  sent: readonly Sent[];
  lastId: number;
  /** Txns that took effect, and the revision of the last one. */
  applied: number;
  revision: bigint;
  /** Why no further Txn is sent; null: a guard. The worst that was heard: a loss counts more than a refusal. */
  trouble: { lost: boolean; error: EtcdFdwError | null } | null;
  /** Whether a form was sent and refused. */
  again: boolean;
}

export type Event =
  /** The Txns of the next form; null: there is no other. */
  | { type: "planned"; form: { checks: readonly Size[]; writes: readonly Size[] } | null }
  /** A Txn that writes was made, and goes out to etcd now. */
  | { type: "out"; id: number }
  /** The Txn took effect, at this revision; or its guards hold. */
  | { type: "answered"; id: number; revision: bigint }
  /** The Txn did not take effect; null: since a guard did not hold. */
  | { type: "refused"; id: number; error: EtcdFdwError | null }
  /** Whether it took effect is not known. */
  | { type: "lost"; id: number; error: EtcdFdwError }
  /** Planning or explaining did not succeed. */
  | { type: "failed"; error: EtcdFdwError }
  | { type: "explained"; error: EtcdFdwError }
  /** Nobody waits for the outcome any more. */
  | { type: "cancelled" }
  | { type: "ended" };

export type Effect =
  | { do: "plan" }
  | { do: "send"; txn: Sent }
  /** One of several Txns was answered. */
  | { do: "progress" }
  | { do: "explain" }
  | { do: "reply"; revision: bigint; txns: number }
  | { do: "fail"; error: EtcdFdwError }
  | { do: "revoke" };

export interface Step {
  state: Commit;
  effects: Effect[];
}

/** Txns that are on their way at a time. Each may be as large as a request. */
const IN_FLIGHT = 4;
/**
 * What these may come to together, unless it is one. etcd gives up what it has not come to within some seconds: it would do
 * so to the last of several that are all large, though it will do that one too.
 */
export const STEPS_IN_FLIGHT = 16_384;

export function isOver({ phase }: Commit): boolean {
  return phase === "COMMITTED" || phase === "REFUSED" || phase === "UNKNOWN";
}

export function begin(): Step {
  const state: Commit = {
    ...{ phase: "PLANNING", checks: [], writes: [], next: 0, sent: [], lastId: 0 },
    ...{ applied: 0, revision: 0n, trouble: null, again: false },
  };
  return { state, effects: [{ do: "plan" }] };
}

export function step(state: Commit, event: Event): Step {
  if (isOver(state)) return { state, effects: [] };
  switch (event.type) {
    case "planned":
      return state.phase === "PLANNING" ? planned(state, event.form) : ignored(state);
    case "explained":
      return state.phase === "EXPLAINING" ? refuse(state, event.error) : ignored(state);
    case "failed":
      return state.phase === "PLANNING" || state.phase === "EXPLAINING"
        ? refuse(state, event.error)
        : ignored(state);
    case "cancelled":
    case "ended":
      return mayHaveWritten(state) ? unknown(state, undecided()) : refuse(state, cancelled());
    case "out":
      return ignored({
        ...state,
        sent: state.sent.map((one) => one.id === event.id ? { ...one, out: true } : one),
      });
    default:
      return state.sent.some(({ id }) => id === event.id) ? answered(state, event) : ignored(state);
  }
}

function mayHaveWritten({ applied, trouble, sent }: Commit): boolean {
  return applied > 0 || trouble !== null && trouble.lost || sent.some(({ out }) => out);
}

function ignored(state: Commit): Step {
  return { state, effects: [] };
}

function planned(state: Commit, form: Extract<Event, { type: "planned" }>["form"]): Step {
  if (form !== null) {
    return send({ ...state, ...form, phase: form.checks.length > 0 ? "CHECKING" : "WRITING", next: 0 });
  }
  if (state.again) return { state: { ...state, phase: "EXPLAINING" }, effects: [{ do: "explain" }] };
  return reply({ ...state, writes: [] });
}

function answered(
  before: Commit,
  event: Extract<Event, { type: "answered" | "refused" | "lost" }>,
): Step {
  const state = { ...before, sent: before.sent.filter(({ id }) => id !== event.id) };
  if (event.type !== "answered") return heard(state, { lost: event.type === "lost", error: event.error });
  const progress: Effect[] = state.checks.length + state.writes.length > 1 ? [{ do: "progress" }] : [];
  if (state.phase === "WRITING") {
    state.applied++;
    if (event.revision > state.revision) state.revision = event.revision;
  }
  const { state: after, effects } = goOn(state);
  return { state: after, effects: [...progress, ...effects] };
}

function goOn(state: Commit): Step {
  if (state.trouble !== null) return state.sent.length > 0 ? ignored(state) : decide(state);
  if (state.next < partsOf(state).length) return send(state);
  if (state.sent.length > 0) return ignored(state);
  if (state.phase === "CHECKING") return send({ ...state, phase: "WRITING", next: 0 });
  return reply(state);
}

const partsOf = ({ phase, checks, writes }: Commit) => phase === "CHECKING" ? checks : writes;

/** Sends as many as may be on their way. */
function send(before: Commit): Step {
  const state = { ...before, sent: [...before.sent] };
  const kind = state.phase === "CHECKING" ? "check" : "write";
  const parts = partsOf(state);
  const effects: Effect[] = [];
  let steps = state.sent.reduce((sum, { part }) => sum + parts[part], 0);
  while (state.sent.length < IN_FLIGHT && state.next < parts.length) {
    steps += parts[state.next];
    if (steps > STEPS_IN_FLIGHT && state.sent.length > 0) break;
    const txn: Sent = { id: ++state.lastId, kind, part: state.next++, out: false };
    state.sent.push(txn);
    effects.push({ do: "send", txn });
  }
  return { state, effects };
}

/** A Txn did not do what it should: nothing more is sent. */
function heard(before: Commit, trouble: NonNullable<Commit["trouble"]>): Step {
  const worse = before.trouble === null || trouble.lost && !before.trouble.lost ||
    // That a guard failed says less than an error does.
    !before.trouble.lost && before.trouble.error === null;
  const state = { ...before, trouble: worse ? trouble : before.trouble };
  // What is compared changes nothing: its other answers are not waited for.
  return state.sent.length === 0 || state.phase === "CHECKING" ? decide(state) : ignored(state);
}

/** All that was sent has ended, and not all of it well. */
function decide(state: Commit): Step {
  const { lost, error } = state.trouble!;
  if (state.phase === "WRITING" && state.applied > 0) {
    return unknown(state, partial(error ?? conflict(), state));
  }
  if (state.phase === "WRITING" && lost) return unknown(state, error!);
  if (error !== null) return refuse(state, error);
  return {
    state: { ...state, phase: "PLANNING", sent: [], trouble: null, again: true },
    effects: [{ do: "plan" }],
  };
}

function reply(state: Commit): Step {
  const { revision, writes } = state;
  const effects: Effect[] = [{ do: "reply", revision, txns: writes.length }];
  return { state: { ...state, phase: "COMMITTED" }, effects };
}

function refuse(state: Commit, error: EtcdFdwError): Step {
  return { state: { ...state, phase: "REFUSED" }, effects: [{ do: "revoke" }, { do: "fail", error }] };
}

function unknown(state: Commit, error: EtcdFdwError): Step {
  return { state: { ...state, phase: "UNKNOWN" }, effects: [{ do: "fail", error }] };
}

function cancelled(): EtcdFdwError {
  return new EtcdFdwError("57014", "request was cancelled");
}

function undecided(): EtcdFdwError {
  return new EtcdFdwError("08007", "whether the transaction took effect in etcd is not known", {
    detail: "It was cancelled while etcd was committing.",
    hint: "Read the rows concerned before you write them again.",
  });
}

function partial(error: EtcdFdwError, { applied, writes }: Commit): EtcdFdwError {
  return new EtcdFdwError("08007", "a transaction was written to etcd in part", {
    detail: `${applied} of ${writes.length} Txns took effect, then: ${error.message}. ${error.detail}`.trim(),
    hint:
      "Compare the rows concerned with etcd. Option atomic 'require' refuses transactions that need several Txns.",
  });
}
