// One request of a session.
//
//   state      start    park    ready  answer    cancel     late  lose
//   QUEUED     RUNNING  PARKED  -      ANSWERED  CANCELLED  LATE  LOST
//   PARKED     -        -       READY  ANSWERED  CANCELLED  LATE  LOST
//   READY      RUNNING  -       -      ANSWERED  CANCELLED  LATE  LOST
//   RUNNING    -        -       -      ANSWERED  CANCELLED  LATE  LOST
//
// PARKED, it waits for other clients of etcd; READY, it has something to bring, and waits for its turn. The others are final:
// what comes then changes nothing. ANSWERED is a reply or an error; LATE an error, because the
// deadline came first; of a request that is CANCELLED nobody wants to hear; one that is LOST has no connection left that
// could hear.

import type { EtcdFdwError } from "../../base/errors.ts";
import { cancelled, type Deadline } from "../deadline.ts";
import type { Frame } from "../../ipc/frame.ts";
import type { Timer } from "../runtime.ts";
import type { SessionChannel } from "./channel.ts";

export type RequestState =
  | "QUEUED"
  | "PARKED"
  | "READY"
  | "RUNNING"
  | "ANSWERED"
  | "CANCELLED"
  | "LATE"
  | "LOST";
export type RequestEvent = "start" | "park" | "ready" | "answer" | "cancel" | "late" | "lose";

const ENDS = { answer: "ANSWERED", cancel: "CANCELLED", late: "LATE", lose: "LOST" } as const;

const TRANSITIONS: Record<RequestState, Partial<Record<RequestEvent, RequestState>>> = {
  QUEUED: { start: "RUNNING", park: "PARKED", ...ENDS },
  PARKED: { ready: "READY", ...ENDS },
  READY: { start: "RUNNING", ...ENDS },
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
  /** How large its answer will be; null as long as nobody knows. */
  brings: number | null = null;
  /** Ends the waiting to be started. */
  timer: Timer | null = null;
  #turn: { come: () => void; fail: (error: EtcdFdwError) => void } | null = null;

  constructor(frame: Frame, channel: SessionChannel, deadline: Deadline) {
    this.frame = frame;
    this.channel = channel;
    this.deadline = deadline;
  }

  get state(): RequestState {
    return this.#state;
  }

  get isOver(): boolean {
    return Object.keys(TRANSITIONS[this.#state]).length === 0;
  }

  /** Resolves when it is started, for one that is READY. Rejects when it is over before. */
  turn(): Promise<void> {
    return new Promise((resolve, reject) => this.#turn = { come: resolve, fail: reject });
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
    if (next === "RUNNING") this.#turn?.come();
    else this.#turn?.fail(cancelled());
    if (next === "CANCELLED" || next === "LOST") this.#controller.abort();
    return true;
  }
}
