// Unary calls straight on a connection that the gRPC library has made: that keeps its state, TLS and streams, but for a
// single call its layers cost more than the call does.
//
// The library's pings are for its own streams. Here a connection that is silent while calls wait for it is pinged too, and
// given up when no answer comes; the library sees that, and connects anew.

import type { ClientHttp2Session, ClientHttp2Stream, OutgoingHttpHeaders } from "node:http2";
import { constants } from "node:http2";
import type { Room } from "../memory.ts";
import type { Runtime, Timer } from "../runtime.ts";
import { LARGE_BYTES, PREFIX_BYTES, REFUSED, Reply } from "./reply.ts";
import type { Outcome } from "./transport.ts";

// etcd refuses pings that come more often than every 5 s.
export const KEEPALIVE_TIME_MS = 6_000;
export const KEEPALIVE_TIMEOUT_MS = 3_000;

/** A larger request is not copied behind its prefix. */
const COPIED_BYTES = 16 * 1024;

/** A connection, and how the library itself makes streams on it. */
export interface Connection {
  session: ClientHttp2Session;
  request(headers: OutgoingHttpHeaders): ClientHttp2Stream;
}

type Clock = Pick<Runtime, "now" | "after">;

export class Wire {
  readonly #clock: Clock;
  readonly #connection: Connection;
  readonly #room: () => Room | null;
  #calls = 0;
  /** Streams of the library's, which pings for them. */
  #streams = 0;
  #heardAt = 0;
  #timer: Timer | null = null;

  constructor(clock: Clock, connection: Connection, room: () => Room | null) {
    this.#clock = clock;
    this.#connection = connection;
    this.#room = room;
  }

  get isUsable(): boolean {
    const { session } = this.#connection;
    return !session.closed && !session.destroyed && !session.connecting;
  }

  /** The library makes a stream by itself. */
  streams(stream: ClientHttp2Stream): void {
    this.#streams++;
    stream.once("close", () => this.#streams--);
  }

  /**
   * Sends a request. `done` is told once how it ended, later; null: etcd has not seen it, and another way is to be taken.
   * Returns what resets the call; null when it was not sent.
   */
  send(
    headers: OutgoingHttpHeaders,
    payload: Uint8Array,
    done: (outcome: Outcome | null) => void,
  ): (() => void) | null {
    let stream: ClientHttp2Stream;
    try {
      stream = this.#connection.request(headers);
    } catch {
      return null;
    }
    this.#begin();
    const reply = new Reply();
    let gone: (() => void) | null = null;
    let isMeasured = false;
    let isOver = false;
    const take = (outcome: Outcome | null) => {
      this.#heardAt = this.#clock.now();
      if (!isMeasured && !isOver && reply.length >= LARGE_BYTES) {
        isMeasured = true;
        if (outcome === null) gone = this.#room()?.arrive(reply.length, stream) ?? null;
      }
      if (outcome === null || isOver) return;
      isOver = true;
      this.#calls--;
      gone?.();
      // What follows a failure nobody reads.
      if (outcome.failure !== undefined) stream.close(constants.NGHTTP2_CANCEL);
      done(outcome === REFUSED ? null : outcome);
    };
    stream.on(
      "response",
      (headers, flags) => take(reply.headers(headers, (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0)),
    );
    stream.on("data", (chunk: Uint8Array) => take(reply.data(chunk)));
    stream.on("trailers", (headers) => take(reply.trailers(headers)));
    // What it says, "close" says too.
    stream.on("error", () => {});
    stream.on("close", () => take(reply.closed(stream.rstCode ?? 0, !this.isUsable)));
    if (payload.length > COPIED_BYTES) stream.write(framed(payload.length, EMPTY));
    stream.end(payload.length > COPIED_BYTES ? payload : framed(payload.length, payload));
    return () => stream.close(constants.NGHTTP2_CANCEL);
  }

  #begin(): void {
    if (this.#calls++ > 0) return;
    this.#heardAt = this.#clock.now();
    this.#timer ??= this.#clock.after(KEEPALIVE_TIME_MS, () => this.#look());
  }

  /** Pings a connection that has been silent for as long as there were calls on it. */
  #look(): void {
    this.#timer = null;
    if (this.#calls === 0 || !this.isUsable) return;
    const left = this.#heardAt + KEEPALIVE_TIME_MS - this.#clock.now();
    if (left > 0 || this.#streams > 0) {
      this.#timer = this.#clock.after(left > 0 ? left : KEEPALIVE_TIME_MS, () => this.#look());
      return;
    }
    this.#ping();
  }

  #ping(): void {
    const { session } = this.#connection;
    this.#timer = this.#clock.after(KEEPALIVE_TIMEOUT_MS, () => session.destroy());
    const sent = session.ping((error) => {
      this.#timer?.cancel();
      this.#timer = null;
      if (error !== null || this.#calls === 0) return;
      this.#timer = this.#clock.after(KEEPALIVE_TIME_MS, () => this.#look());
    });
    if (sent) return;
    this.#timer.cancel();
    this.#timer = null;
  }
}

const EMPTY = new Uint8Array(0);

/** The message behind its prefix; without one, the prefix alone. */
function framed(length: number, payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(PREFIX_BYTES + payload.length);
  new DataView(frame.buffer).setUint32(1, length);
  frame.set(payload, PREFIX_BYTES);
  return frame;
}
