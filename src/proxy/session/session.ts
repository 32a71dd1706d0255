// One backend's connection: frames in, calls out, answers back.
//
// Calls run side by side and are answered in the order in which they end. What a slow backend can make the proxy
// hold is bounded: while its replies are not taken, no further call is started, and while too much waits to be
// started, nothing more is read. CANCEL and CLOSE are obeyed even then, up to that point. A call under way counts
// with the size that the session's latest replies had: how large its own will be, nobody knows before it is here.
//
// After CANCEL nothing is sent for the request any more. A lost connection cancels everything.

import type { Socket } from "node:net";
import { decodeUtf8 } from "../../base/bytes.ts";
import { encodeError, EtcdFdwError } from "../../base/errors.ts";
import {
  Ask,
  type Frame,
  FrameDecoder,
  FrameType,
  HEADER_BYTES,
  type OpenPayload,
  ReadFlag,
  writeHeader,
} from "../../ipc/frame.ts";
import { Asks, type ProxyInfo } from "./asks.ts";
import type { ClusterHandle } from "../handle.ts";
import { Budget } from "../memory.ts";
import { type Link, Transactions } from "../txn/driver.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";

export interface SessionOptions {
  /** May throw; then the requests of the channel fail with what it has thrown. */
  open: (payload: OpenPayload) => ClusterHandle;
  log: (message: string) => void;
  info: ProxyInfo;
  /** What all sessions may hold. */
  memory?: Budget;
}

/** What one session's transactions may hold. */
const MAX_SESSION_BYTES = 512 * 1024 * 1024;
/** Calls of one session that run at a time. */
const MAX_RUNNING = 128;
/** Bytes of replies that the backend has not taken, counting those to come, above which no call is started. */
const MAX_UNSENT_BYTES = 32 * 1024 * 1024;
/** What a reply is taken to bring before there was one. */
const FIRST_REPLY_BYTES = 1024 * 1024;
/** How much of the largest reply's size is still expected after a small one. */
const EXPECTATION_KEPT = 0.9;
/** Bytes of requests that wait to be started, above which nothing is read. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;
/** Up to this size a copy is cheaper than a second buffer in the write. */
const COPY_BYTES = 16 * 1024;
/** How long the backend has to take the error that ends its session, in milliseconds. */
const FAREWELL_MS = 1_000;

interface Channel {
  handle?: ClusterHandle;
  /** Why there is none. */
  error?: EtcdFdwError;
  /** Requests that are not answered yet. */
  requests: number;
  closed: boolean;
  /** What the backend's transaction has written, or has to hold for what it has read. */
  transactions?: Transactions;
}

interface Request {
  frame: Frame;
  channel: Channel;
  controller: AbortController;
}

export class Session {
  readonly #socket: Socket;
  readonly #options: SessionOptions;
  readonly #decoder = new FrameDecoder();
  readonly #asks: Asks;
  readonly #memory: Budget;
  readonly #channels = new Map<number, Channel>();
  /** By id, in the order of arrival. */
  readonly #requests = new Map<number, Request>();
  readonly #waiting = new Set<Request>();
  #waitingBytes = 0;
  #running = 0;
  #expectedBytes = FIRST_REPLY_BYTES;
  #over = false;

  constructor(socket: Socket, options: SessionOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#asks = new Asks(options.info);
    this.#memory = new Budget(MAX_SESSION_BYTES, options.memory, "a session");
    options.info.sessions++;
    socket.on("data", (chunk) => this.#receive(chunk));
    socket.on("drain", () => this.#startWaiting());
    // "close" follows; a backend that is gone is nothing to report.
    socket.on("error", () => {});
    socket.on("close", () => this.#end());
  }

  #receive(chunk: Uint8Array): void {
    if (this.#over) return;
    try {
      for (const frame of this.#decoder.push(chunk)) this.#handle(frame);
    } catch (thrown) {
      this.#fail(EtcdFdwError.from(thrown));
    }
    if (this.#waitingBytes > MAX_WAITING_BYTES) this.#socket.pause();
  }

  #handle(frame: Frame): void {
    switch (frame.type) {
      case FrameType.OPEN:
        return this.#openChannel(frame);
      case FrameType.UNARY:
        return this.#accept(frame);
      case FrameType.STAGE:
        return frame.id === 0 ? this.#stage(frame) : this.#accept(frame);
      case FrameType.CANCEL:
        return this.#cancel(frame.id);
      case FrameType.CLOSE:
        return this.#closeChannel(frame.channel);
      default:
        throw new EtcdFdwError("08P01", `unexpected frame type ${frame.type}`);
    }
  }

  #openChannel({ channel, payload }: Frame): void {
    if (this.#channels.has(channel)) {
      throw new EtcdFdwError("08P01", `channel ${channel} is open already`);
    }
    const opened: Channel = { requests: 0, closed: false };
    try {
      opened.handle = this.#options.open(parseOpen(payload));
    } catch (thrown) {
      opened.error = EtcdFdwError.from(thrown);
    }
    this.#channels.set(channel, opened);
  }

  #accept(frame: Frame): void {
    if (frame.id === 0 || this.#requests.has(frame.id)) {
      throw new EtcdFdwError("08P01", `request id ${frame.id} is not free`);
    }
    const channel = this.#channels.get(frame.channel) ??
      (frame.channel === 0 ? SERVERLESS : notOpen(frame.channel));
    const request = { frame, channel, controller: new AbortController() };
    this.#requests.set(frame.id, request);
    channel.requests++;
    if (this.#waiting.size === 0 && this.#mayStart()) this.#start(request);
    else {
      this.#waiting.add(request);
      this.#waitingBytes += frame.payload.length;
    }
  }

  #mayStart(): boolean {
    // One call at a time goes on whatever its size; "drain" comes where this says no.
    if (this.#running === 0) return !this.#socket.writableNeedDrain;
    const toCome = (this.#running + 1) * this.#expectedBytes;
    return this.#running < MAX_RUNNING && this.#socket.writableLength + toCome <= MAX_UNSENT_BYTES;
  }

  #startWaiting(): void {
    for (const request of this.#waiting) {
      if (!this.#mayStart()) break;
      this.#stopWaiting(request);
      this.#start(request);
    }
  }

  #stopWaiting(request: Request): void {
    if (!this.#waiting.delete(request)) return;
    this.#waitingBytes -= request.frame.payload.length;
    if (this.#waitingBytes <= MAX_WAITING_BYTES && this.#socket.isPaused()) this.#socket.resume();
  }

  #start(request: Request): void {
    this.#running++;
    const reply = this.#run(request);
    reply.then(
      (reply) => this.#finish(request, FrameType.REPLY, reply),
      (thrown) => this.#finish(request, FrameType.ERROR, encodeError(this.#reportable(thrown))),
    );
  }

  #run({ frame, channel, controller }: Request): Promise<Uint8Array> {
    const { handle } = channel;
    const { signal } = controller;
    const flags = frame.flags ?? 0;
    if (handle === undefined && channel !== SERVERLESS) return Promise.reject(channel.error);
    if (frame.type === FrameType.UNARY && frame.code >= Ask.ENDPOINTS) {
      return this.#asks.answer(frame.code, frame.payload, handle ?? null, signal);
    }
    if (handle === undefined) return Promise.reject(notOpen(0).error);
    if (flags & ReadFlag.ENDPOINT) return callEndpoint(handle, frame, signal);
    const staged = frame.type === FrameType.STAGE || (flags & ReadFlag.STAGED) !== 0;
    if (!staged) return handle.call(frame.code, frame.payload, { signal });
    const call: Link["call"] = (method, payload) => handle.call(method, payload, { signal });
    const link = { call, callAfresh: call, progress: () => {}, signal };
    const transactions = this.#transactionsOf(channel, handle);
    return frame.type === FrameType.STAGE
      ? transactions.answer(frame.code, frame.payload, link)
      : transactions.read(frame.code, flags, frame.payload, link);
  }

  #transactionsOf(channel: Channel, handle: ClusterHandle): Transactions {
    return channel.transactions ??= new Transactions(handle, this.#memory);
  }

  /** What nobody waits for is done at once, so that whatever comes next finds it done. */
  #stage({ code, channel: number, payload }: Frame): void {
    const channel = this.#channels.get(number);
    if (channel?.handle !== undefined) this.#transactionsOf(channel, channel.handle).stage(code, payload);
  }

  /** A fault of this program is the administrator's business too. */
  #reportable(thrown: unknown): EtcdFdwError {
    const error = EtcdFdwError.from(thrown);
    if (error.sqlstate === "XX000") this.#options.log(`${error.message}\n${error.detail}`);
    return error;
  }

  #finish(request: Request, type: number, payload: Uint8Array): void {
    this.#running--;
    this.#expectedBytes = Math.max(payload.length, this.#expectedBytes * EXPECTATION_KEPT);
    const { id, channel } = request.frame;
    // A cancelled request is not known any more; its id may be in use again.
    if (this.#requests.get(id) === request) {
      this.#forget(request);
      if (payload.length > MAX_FRAME_BYTES) {
        type = FrameType.ERROR;
        payload = encodeError(replyTooLarge(payload.length));
      }
      this.#send(type, channel, id, payload);
    }
    if (!this.#over) this.#startWaiting();
  }

  #send(type: number, channel: number, id: number, payload: Uint8Array): void {
    const header = { type, code: 0, channel, id };
    if (payload.length <= COPY_BYTES) {
      const frame = new Uint8Array(HEADER_BYTES + payload.length);
      writeHeader(frame, header, payload.length);
      frame.set(payload, HEADER_BYTES);
      this.#socket.write(frame);
      return;
    }
    const head = new Uint8Array(HEADER_BYTES);
    writeHeader(head, header, payload.length);
    this.#socket.cork();
    this.#socket.write(head);
    this.#socket.write(payload);
    this.#socket.uncork();
  }

  #cancel(id: number): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    this.#forget(request);
    this.#stopWaiting(request);
    request.controller.abort();
  }

  #forget({ frame, channel }: Request): void {
    this.#requests.delete(frame.id);
    channel.requests--;
    if (channel.closed && channel.requests === 0) channel.handle?.close();
  }

  /** Its requests are still answered: a cursor may read on while the server's options change. */
  #closeChannel(number: number): void {
    const channel = this.#channels.get(number);
    if (channel === undefined) return;
    this.#channels.delete(number);
    channel.transactions?.end();
    channel.closed = true;
    if (channel.requests === 0) channel.handle?.close();
  }

  /** Ends the session with an error that belongs to no request. */
  #fail(error: EtcdFdwError): void {
    this.#options.log(`closing a backend's connection: ${error.message}`);
    this.#end();
    this.#send(FrameType.ERROR, 0, 0, encodeError(error));
    this.#socket.end();
    setTimeout(() => this.#socket.destroy(), FAREWELL_MS);
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#options.info.sessions--;
    for (const id of [...this.#requests.keys()]) this.#cancel(id);
    for (const channel of [...this.#channels.keys()]) this.#closeChannel(channel);
    this.#asks.end();
  }
}

/** For what is asked of the proxy alone. */
const SERVERLESS: Channel = { requests: 0, closed: false };

/** The payload begins with the endpoint's name. */
async function callEndpoint(handle: ClusterHandle, frame: Frame, signal: AbortSignal): Promise<Uint8Array> {
  const { code, payload } = frame;
  const length = payload.length < 2 ? Infinity : payload[0] << 8 | payload[1];
  if (payload.length < 2 + length) throw new EtcdFdwError("08P01", "malformed frame for an endpoint");
  const endpoint = decodeUtf8(payload.subarray(2, 2 + length));
  if (!handle.endpoints.includes(endpoint)) {
    throw new EtcdFdwError("22023", `"${endpoint}" is no endpoint of the server`, {
      hint: `Its endpoints are: ${handle.endpoints.join(", ")}.`,
    });
  }
  return await handle.call(code, payload.subarray(2 + length), { signal, endpoint });
}

/** What stands for a channel that was never opened. */
function notOpen(number: number): Channel {
  const error = new EtcdFdwError("08003", `channel ${number} of the etcd proxy is not open`);
  return { error, requests: 0, closed: true };
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

function replyTooLarge(length: number): EtcdFdwError {
  return new EtcdFdwError(
    "54000",
    `etcd's answer of ${length} bytes is larger than ${MAX_FRAME_BYTES} bytes`,
    {
      hint: "Read fewer keys at a time.",
    },
  );
}
