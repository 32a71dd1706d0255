// One request of a session.
//
//   state      start    answer    cancel     late  lose
//   QUEUED     RUNNING  ANSWERED  CANCELLED  LATE  LOST
//   RUNNING    -        ANSWERED  CANCELLED  LATE  LOST
//
// The others are final: what comes then changes nothing. ANSWERED is a reply or an error; LATE an error, because the
// deadline came first; of a request that is CANCELLED nobody wants to hear; one that is LOST has no connection left that
// could hear.

import type { Deadline } from "../deadline.ts";
import type { Frame } from "../../ipc/frame.ts";
import type { Timer } from "../runtime.ts";
import type { SessionChannel } from "./channel.ts";

export type RequestState = "QUEUED" | "RUNNING" | "ANSWERED" | "CANCELLED" | "LATE" | "LOST";
export type RequestEvent = "start" | "answer" | "cancel" | "late" | "lose";

const ENDS = { answer: "ANSWERED", cancel: "CANCELLED", late: "LATE", lose: "LOST" } as const;

const TRANSITIONS: Record<RequestState, Partial<Record<RequestEvent, RequestState>>> = {
  QUEUED: { start: "RUNNING", ...ENDS },
  RUNNING: ENDS,
  ANSWERED: {},
  CANCELLED: {},
  LATE: {},
  LOST: {},
};

/** The state after the event; null where the event means nothing. */
export function nextState(state: RequestState, event: RequestEvent): RequestState | null {
  return TRANSITIONS[state][event] ?? null;
}

export class Request {
  readonly frame: Frame;
  readonly channel: SessionChannel;
  readonly deadline: Deadline;
  readonly #controller = new AbortController();
  #state: RequestState = "QUEUED";
  /** What its answer was expected to bring when it was started, and how much of that was set aside. */
  expected = { bytes: 0, taken: 0 };
  /** Ends the waiting to be started. */
  timer: Timer | null = null;

  constructor(frame: Frame, channel: SessionChannel, deadline: Deadline) {
    this.frame = frame;
    this.channel = channel;
    this.deadline = deadline;
  }

  get state(): RequestState {
    return this.#state;
  }

  /** Aborted when nobody wants the answer any more. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Whether the event meant something. */
  take(event: RequestEvent): boolean {
    const next = nextState(this.#state, event);
    if (next === null) return false;
    this.#state = next;
    this.timer?.cancel();
    this.timer = null;
    if (next === "CANCELLED" || next === "LOST") this.#controller.abort();
    return true;
  }
}
