// A backend's end of the socket, for tests: writes frames, keeps what comes back. Every wait is bounded.

import { connect, type Socket } from "node:net";
import { encodeUtf8 } from "../base/bytes.ts";
import { decodeError, type ErrorFields } from "../base/errors.ts";
import { encodeFrame, type Frame, FrameDecoder, FrameType, type OpenPayload } from "../ipc/frame.ts";

import type { ProxyInfo } from "./session/asks.ts";
import { Stats } from "./stats.ts";

const WAIT_MS = 10_000;

export class TestClient {
  readonly socket: Socket;
  /** All frames that have come, in order. */
  readonly frames: Frame[] = [];
  closed = false;
  #wake = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    const decoder = new FrameDecoder();
    socket.on("data", (chunk) => {
      this.frames.push(...decoder.push(chunk));
      this.#wake();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.closed = true;
      this.#wake();
    });
  }

  static connect(path: string): Promise<TestClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(path, () => resolve(new TestClient(socket)));
      socket.once("error", reject);
    });
  }

  send(frame: Partial<Frame>): void {
    this.socket.write(
      encodeFrame({ type: 0, code: 0, channel: 1, id: 0, payload: new Uint8Array(0), ...frame }),
    );
  }

  open(payload: OpenPayload, channel = 1): void {
    this.send({ type: FrameType.OPEN, channel, payload: encodeUtf8(JSON.stringify(payload)) });
  }

  /** The answer to a request, when it is there. Throws after ten seconds. */
  async answer(id: number): Promise<Frame> {
    await this.until(() => this.frames.some((frame) => frame.id === id));
    return this.frames.find((frame) => frame.id === id)!;
  }

  /** The error that answers a request. Throws when something else does. */
  async error(id: number): Promise<ErrorFields> {
    const frame = await this.answer(id);
    if (frame.type !== FrameType.ERROR) throw new Error(`frame ${id} is of type ${frame.type}`);
    return decodeError(frame.payload);
  }

  /** Waits until the condition holds; it is looked at whenever something has come. Throws after ten seconds. */
  async until(condition: () => boolean): Promise<void> {
    const end = Date.now() + WAIT_MS;
    while (!condition()) {
      if (Date.now() > end) throw new Error("nothing came within ten seconds");
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 20);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): Promise<void> {
    this.socket.destroy();
    return this.until(() => this.closed);
  }
}

/** What sessions report to when nobody looks. */
export const NO_INFO = (): ProxyInfo => ({
  stats: new Stats(() => 0),
  sessions: 0,
  about: () => ({}),
  caches: () => [],
});
