// One backend's connection: frames in, calls out, answers back. UP -> ENDING -> DOWN; ENDING is the time that a backend
// which broke the protocol has to read what it is told about that.
//
// Calls run side by side and are answered in the order in which they end. What a slow backend can make the proxy
// hold is bounded: while its replies are not taken, no further call is started, and what it sends beyond its budget is
// refused, request by request. It is always read, so that CANCEL, CLOSE and PING are obeyed whatever waits. A call under way
// counts with the size that the session's latest replies had, for the session and for the whole proxy: how large its own
// will be, nobody knows before it begins to arrive, and then it counts with that. Those for which there is no room wait.
//
// A call that waits for other clients of etcd (PARKED) counts with none of that, only in number: there may be thousands,
// for hours. Once a watch has something to bring, its size is known, and it waits for its turn like all others; what the
// rest of them bring is small.
//
// After CANCEL nothing is sent for the request any more. A lost connection cancels everything.

import { decodeUtf8 } from "../../base/bytes.ts";
import { encodeError, EtcdFdwError } from "../../base/errors.ts";
import {
  Ask,
  FrameDecoder,
  type FrameHeader,
  FrameType,
  HEADER_BYTES,
  Method,
  type OpenPayload,
  ReadFlag,
  type ReceivedFrame,
  writeHeader,
} from "../../ipc/frame.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import { StageCode } from "../../ipc/stage.ts";
import { Deadline } from "../deadline.ts";
import { Written } from "../cache/written.ts";
import { GrantedLeases } from "../fence.ts";
import { type ClusterHandle, LateError } from "../handle.ts";
import { Budget, type Expectations } from "../memory.ts";
import type { Connection, ConnectionEvents, Runtime } from "../runtime.ts";
import { Asks, type ProxyInfo } from "./asks.ts";
import { SessionChannel } from "./channel.ts";
import { Request } from "./request.ts";
import { paceOf, work } from "./work.ts";

export interface SessionOptions {
  runtime: Runtime;
  /** May throw; then the requests of the channel fail with what it has thrown. */
  open: (payload: OpenPayload, granted: GrantedLeases, written: Written) => ClusterHandle;
  log: (message: string) => void;
  info: ProxyInfo;
  /** Of the whole proxy. */
  budget: Budget;
  /** The part of it that is for all transactions. */
  transactions: Budget;
  /** Of all sessions. */
  expectations: Expectations;
}

export type SessionState = "UP" | "ENDING" | "DOWN";

/** Calls of one session that run at a time. */
const MAX_RUNNING = 128;
/** Bytes of replies that the backend has not taken, counting those to come, above which no call is started. */
const MAX_UNSENT_BYTES = 32 * 1024 * 1024;
/** What a reply is taken to bring before there was one. */
const FIRST_REPLY_BYTES = 1024 * 1024;
/** How much of the largest reply's size is still expected after a small one. */
const EXPECTATION_KEPT = 0.9;
/** Bytes of requests that wait to be started and of replies that were not taken: room for one frame of any size either way. */
const SESSION_BYTES = 2 * MAX_FRAME_BYTES;
/** Requests that wait to be started, or for other clients. */
const MAX_QUEUED = 10_000;
/** What one session's transactions may hold. */
const SESSION_TRANSACTIONS_BYTES = 512 * 1024 * 1024;
/** Up to this size a copy is cheaper than a second buffer in the write. */
const COPY_BYTES = 16 * 1024;
/** From this size on a reply is freed as soon as it was taken. */
const FREED_BYTES = 1024 * 1024;
/** What OPEN may bring: connection options, certificates among them. */
const MAX_OPEN_BYTES = 1024 * 1024;
/** How long the backend has to take the error that ends its session, in milliseconds. */
const FAREWELL_MS = 1_000;

export class Session implements ConnectionEvents {
  readonly #connection: Connection;
  readonly #options: SessionOptions;
  readonly #runtime: Runtime;
  readonly #budget: Budget;
  readonly #transactionsBudget: Budget;
  readonly #decoder: FrameDecoder;
  readonly #asks: Asks;
  readonly #granted = new GrantedLeases();
  readonly #written = new Written();
  readonly #channels = new Map<number, SessionChannel>();
  /** For what is asked of the proxy alone. */
  readonly #serverless = new SessionChannel(null);
  /** By id, in the order of arrival: all that are not over. */
  readonly #requests = new Map<number, Request>();
  /** QUEUED and READY. */
  readonly #queue = new Set<Request>();
  /** Also those that were cancelled since. */
  readonly #running = new Set<Request>();
  readonly #parked = new Set<Request>();
  #unsent = 0;
  #expectedBytes = FIRST_REPLY_BYTES;
  #state: SessionState = "UP";

  constructor(connection: Connection, options: SessionOptions) {
    this.#connection = connection;
    this.#options = options;
    this.#runtime = options.runtime;
    this.#budget = new Budget(SESSION_BYTES, options.budget, "a session's requests and replies");
    this.#transactionsBudget = new Budget(SESSION_TRANSACTIONS_BYTES, options.transactions, "a session");
    this.#decoder = new FrameDecoder((header, length) => this.#admit(header, length));
    this.#asks = new Asks(options.runtime, options.info, {
      take: (bytes) => this.#budget.take(bytes),
      give: (bytes) => this.#give(bytes),
    });
    options.info.sessions++;
  }

  data(chunk: Uint8Array): void {
    if (this.#state !== "UP") return;
    try {
      for (const frame of this.#decoder.push(chunk)) {
        this.#handle(frame);
        // An offender's further frames are not looked at.
        if (this.#state !== "UP") return;
      }
    } catch (thrown) {
      this.#fail(EtcdFdwError.from(thrown));
    }
  }

  drained(): void {
    this.#startQueued();
  }

  closed(): void {
    this.#end();
    this.#state = "DOWN";
    // Also for a frame that came in part, and for replies that nobody took.
    this.#budget.give(this.#budget.used);
  }

  /**
   * OPEN needs no budget, and is small: its refusal would be the channel's for good, and a shortage of memory passes. Throws
   * EtcdFdwError for what there is no room for.
   */
  #admit({ type }: FrameHeader, length: number): void {
    if (type !== FrameType.OPEN) this.#budget.take(length);
    else if (length > MAX_OPEN_BYTES) throw openTooLarge(length);
  }

  #give(bytes: number): void {
    if (this.#state !== "DOWN") this.#budget.give(bytes);
  }

  /** The frame's bytes are in the budget until its request is over, or here. */
  #handle(frame: ReceivedFrame): void {
    const isRequest = frame.type === FrameType.UNARY || frame.type === FrameType.STAGE && frame.id !== 0;
    if (isRequest) return this.#accept(frame);
    try {
      this.#obey(frame);
    } finally {
      if (frame.type !== FrameType.OPEN) this.#give(frame.payload.length);
    }
  }

  #obey(frame: ReceivedFrame): void {
    switch (frame.type) {
      case FrameType.OPEN:
        return this.#openChannel(frame);
      case FrameType.STAGE:
        return this.#stage(frame);
      case FrameType.PING:
        return this.#send({ type: FrameType.PONG, code: 0, channel: 0, id: frame.id }, new Uint8Array(0));
      case FrameType.CANCEL:
        return this.#cancel(frame.id);
      case FrameType.CLOSE:
        return this.#closeChannel(frame.channel);
      default:
        throw new EtcdFdwError("08P01", `unexpected frame type ${frame.type}`);
    }
  }

  #openChannel({ channel, payload, refusal }: ReceivedFrame): void {
    if (this.#channels.has(channel)) {
      throw new EtcdFdwError("08P01", `channel ${channel} is open already`);
    }
    try {
      if (refusal !== undefined) throw refusal;
      const handle = this.#options.open(parseOpen(payload), this.#granted, this.#written);
      const pace = paceOf(this.#runtime);
      this.#channels.set(
        channel,
        new SessionChannel(handle, null, { budget: this.#transactionsBudget, pace }),
      );
    } catch (thrown) {
      this.#channels.set(channel, new SessionChannel(null, EtcdFdwError.from(thrown)));
    }
  }

  #accept(frame: ReceivedFrame): void {
    if (frame.id === 0 || this.#requests.has(frame.id)) {
      throw new EtcdFdwError("08P01", `request id ${frame.id} is not free`);
    }
    const channel = this.#channels.get(frame.channel) ??
      (frame.channel === 0 ? this.#serverless : notOpen(frame.channel));
    const deadline = Deadline.after(this.#runtime, frame.deadline === 0 ? Infinity : frame.deadline!);
    const request = new Request(frame, channel, deadline);
    this.#requests.set(frame.id, request);
    channel.begin();
    if (frame.refusal !== undefined) return this.#answerError(request, frame.refusal);
    const isPatient = waitsForOthers(frame);
    if (!isPatient && this.#startAtOnce(request)) return;
    if (this.#queue.size + this.#parked.size >= MAX_QUEUED) {
      return this.#answerError(request, tooManyRequests());
    }
    if (isPatient) this.#park(request);
    else this.#enqueue(request);
  }

  #startAtOnce(request: Request): boolean {
    if (this.#queue.size > 0 || !this.#mayStart(request)) return false;
    this.#start(request);
    return true;
  }

  #enqueue(request: Request): void {
    const { deadline } = request;
    this.#queue.add(request);
    request.timer = this.#runtime.after(
      deadline.left(),
      () => this.#answerError(request, lateInQueue(deadline)),
    );
  }

  #park(request: Request): void {
    request.take("park");
    this.#parked.add(request);
    this.#work(request);
  }

  /** A parked request has so much to bring: null when that may come at once, or what resolves when it may. */
  #turn(request: Request, bytes: number): Promise<void> | null {
    if (!request.take("ready")) return null;
    this.#parked.delete(request);
    request.brings = bytes;
    if (this.#startAtOnce(request)) return null;
    this.#enqueue(request);
    return request.turn();
  }

  /** Whether it is the request's turn and there is room for its answer; then that is set aside. */
  #mayStart(request: Request): boolean {
    if (!this.#hasTurn(request)) return false;
    const bytes = request.brings ?? (bringsMuch(request.frame) ? Math.ceil(this.#expectedBytes) : 0);
    const taken = this.#options.expectations.take(bytes, this.#retry);
    if (taken !== null) request.expected = { bytes, taken };
    return taken !== null;
  }

  #hasTurn(request: Request): boolean {
    // One call at a time goes on whatever its size; drained() comes where this says no.
    if (this.#running.size === 0) return !this.#connection.congested;
    if (this.#running.size >= MAX_RUNNING) return false;
    let toCome = 0;
    for (const { brings } of [...this.#running, request]) toCome += brings ?? this.#expectedBytes;
    return this.#unsent + toCome <= MAX_UNSENT_BYTES;
  }

  readonly #retry = () => {
    if (this.#state === "UP") this.#startQueued();
  };

  #startQueued(): void {
    for (const request of this.#queue) {
      if (!this.#mayStart(request)) break;
      this.#queue.delete(request);
      this.#start(request);
    }
  }

  #start(request: Request): void {
    this.#running.add(request);
    const isUnderWay = request.state === "READY";
    request.take("start");
    if (!isUnderWay) this.#work(request);
  }

  #work(request: Request): void {
    const turn = (bytes: number) => this.#turn(request, bytes);
    const progress = () => {
      if (request.state !== "RUNNING") return;
      const { channel, id } = request.frame;
      this.#send({ type: FrameType.PROGRESS, code: 0, channel, id }, new Uint8Array(0));
    };
    work(request, this.#asks, { runtime: this.#runtime, progress, turn }).then(
      (reply) => this.#ran(request, reply.length, () => this.#answer(request, reply)),
      (thrown) => this.#ran(request, 0, () => this.#answerError(request, this.#reportable(thrown))),
    );
  }

  /** A call has ended, whether or not anybody wants its answer still. */
  #ran(request: Request, bytes: number, answer: () => void): void {
    this.#parked.delete(request);
    if (this.#running.delete(request)) {
      const { expected, brings } = request;
      this.#options.expectations.give(expected.bytes, expected.taken);
      // From what was known before it came there is nothing to learn.
      if (brings === null) this.#expectedBytes = Math.max(bytes, this.#expectedBytes * EXPECTATION_KEPT);
    }
    answer();
    if (this.#state === "UP") this.#startQueued();
  }

  /** A fault of this program is the administrator's business too. */
  #reportable(thrown: unknown): EtcdFdwError {
    const error = EtcdFdwError.from(thrown);
    if (error.sqlstate === "XX000") this.#options.log(`${error.message}\n${error.detail}`);
    return error;
  }

  #answer(request: Request, reply: Uint8Array): void {
    if (reply.length > MAX_FRAME_BYTES) return this.#answerError(request, replyTooLarge(reply.length));
    if (request.isOver) return;
    try {
      this.#budget.take(reply.length);
    } catch (thrown) {
      return this.#answerError(request, EtcdFdwError.from(thrown));
    }
    if (!this.#over(request, "answer")) return;
    const { type, flags = 0, channel, id } = request.frame;
    const { length } = reply;
    // Where a transaction has read, it may keep parts of it.
    const isOurs = type === FrameType.UNARY && (flags & ReadFlag.STAGED) === 0;
    this.#send({ type: FrameType.REPLY, code: 0, channel, id }, reply, () => {
      this.#give(length);
      if (isOurs) free(reply);
    });
  }

  /** Errors are small: they are sent whatever the budget says. */
  #answerError(request: Request, error: EtcdFdwError): void {
    if (!this.#over(request, error instanceof LateError ? "late" : "answer")) return;
    const { channel, id } = request.frame;
    this.#send({ type: FrameType.ERROR, code: 0, channel, id }, encodeError(error));
  }

  /** The end of a request; false when it was over before. Its id is free again. */
  #over(request: Request, event: "answer" | "late" | "cancel" | "lose"): boolean {
    if (!request.take(event)) return false;
    const { frame, channel } = request;
    this.#requests.delete(frame.id);
    this.#queue.delete(request);
    this.#give(frame.payload.length);
    channel.over();
    return true;
  }

  #send(header: FrameHeader, payload: Uint8Array, taken = () => {}): void {
    const size = HEADER_BYTES + payload.length;
    const isSmall = payload.length <= COPY_BYTES;
    const head = new Uint8Array(isSmall ? size : HEADER_BYTES);
    writeHeader(head, header, payload.length);
    if (isSmall) head.set(payload, HEADER_BYTES);
    this.#unsent += size;
    this.#connection.write(isSmall ? [head] : [head, payload], () => {
      this.#unsent -= size;
      taken();
    });
  }

  #cancel(id: number): void {
    const request = this.#requests.get(id);
    if (request !== undefined) this.#over(request, "cancel");
  }

  /** What nobody waits for is done at once, so that whatever comes next finds it done. */
  #stage({ code, channel: number, payload, refusal }: ReceivedFrame): void {
    const channel = this.#channels.get(number);
    if (channel === undefined || channel.handle === null) return;
    if (code === StageCode.END) return channel.endTransaction();
    try {
      if (refusal !== undefined) throw refusal;
      channel.transactions().stage(code, payload);
    } catch (thrown) {
      channel.refuse(EtcdFdwError.from(thrown));
    }
  }

  #closeChannel(number: number): void {
    this.#channels.get(number)?.close();
    this.#channels.delete(number);
  }

  /** Ends the session with an error that belongs to no request. */
  #fail(error: EtcdFdwError): void {
    this.#options.log(`closing a backend's connection: ${error.message}`);
    this.#end();
    this.#send({ type: FrameType.ERROR, code: 0, channel: 0, id: 0 }, encodeError(error));
    this.#connection.end();
    this.#runtime.after(FAREWELL_MS, () => this.#connection.destroy());
  }

  #end(): void {
    if (this.#state !== "UP") return;
    this.#state = "ENDING";
    this.#options.info.sessions--;
    for (const request of [...this.#requests.values()]) this.#over(request, "lose");
    for (const number of [...this.#channels.keys()]) this.#closeChannel(number);
    this.#asks.end();
  }
}

/** The calls that read; what others are answered is small, and some of them take long. */
const READS: ReadonlySet<number> = new Set([
  Method.RANGE,
  Method.TXN,
  Method.READ_TXN,
  Ask.EVENTS,
  Ask.CHANGES,
  Ask.SNAPSHOT,
]);

/** The calls that are answered when another client of etcd does something. */
const PATIENT: ReadonlySet<number> = new Set([Ask.WATCH, Ask.OBSERVE, Ask.LOCK, Ask.CAMPAIGN]);

function waitsForOthers({ type, code }: FrameHeader): boolean {
  return type === FrameType.UNARY && PATIENT.has(code);
}

function bringsMuch({ type, code }: FrameHeader): boolean {
  return type === FrameType.UNARY && READS.has(code);
}

/** At once: the engine, which sees a small heap, may take its time to find that nobody has it any more. */
function free({ buffer, length }: Uint8Array): void {
  const isWhole = length >= FREED_BYTES && buffer.byteLength - length < COPY_BYTES;
  if (isWhole && buffer instanceof ArrayBuffer) buffer.transfer(0);
}

/** What stands for a channel that was never opened. */
function notOpen(number: number): SessionChannel {
  return new SessionChannel(
    null,
    new EtcdFdwError("08003", `channel ${number} of the etcd proxy is not open`),
  );
}

function parseOpen(payload: Uint8Array): OpenPayload {
  try {
    const open = JSON.parse(decodeUtf8(payload));
    if (typeof open === "object" && open !== null) return open;
  } catch {
    // JSON.parse quotes what it cannot read, and that may be a password.
  }
  throw new EtcdFdwError("08P01", "malformed open frame");
}

function lateInQueue({ ms }: Deadline): LateError {
  return new LateError("08006", `the etcd proxy did not begin with the request within ${ms} ms`, {
    hint: "The session has many requests under way, or does not read their answers.",
  });
}

function tooManyRequests(): EtcdFdwError {
  return new EtcdFdwError("53200", `more than ${MAX_QUEUED} requests of a session wait in the etcd proxy`);
}

function openTooLarge(length: number): EtcdFdwError {
  return new EtcdFdwError(
    "54000",
    `connection options of ${length} bytes are larger than ${MAX_OPEN_BYTES} bytes`,
  );
}

function replyTooLarge(length: number): EtcdFdwError {
  return new EtcdFdwError(
    "54000",
    `etcd's answer of ${length} bytes is larger than ${MAX_FRAME_BYTES} bytes`,
    { hint: "Read fewer keys at a time." },
  );
}
