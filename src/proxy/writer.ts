// Writes frames to a backend, one after the other, and knows how much waits.

import { type Frame, HEADER_BYTES, writeHeader } from "../ipc/frame.ts";

/** What a frame is written to: a connection, or a stand-in in tests. */
export interface Sink {
  write(bytes: Uint8Array): Promise<number>;
}

/** A payload up to this size is copied behind its header and sent in one write. */
const COPY_BYTES = 32 * 1024;

export class FrameWriter {
  #tail: Promise<void> = Promise.resolve();
  #queued = 0;
  #failed = false;

  constructor(readonly sink: Sink) {}

  /** Bytes of payload that are not written yet. */
  get queued(): number {
    return this.#queued;
  }

  /** Queues a frame; resolves when it is written, or never will be since the backend is gone. */
  send(frame: Frame): Promise<void> {
    this.#queued += frame.payload.length;
    this.#tail = this.#tail.then(() => this.#write(frame)).finally(() =>
      this.#queued -= frame.payload.length
    );
    return this.#tail;
  }

  /** Resolves when all that was queued until now is written. */
  drained(): Promise<void> {
    return this.#tail;
  }

  async #write(frame: Frame): Promise<void> {
    if (this.#failed) return;
    const { payload } = frame;
    const whole = payload.length <= COPY_BYTES;
    const head = new Uint8Array(whole ? HEADER_BYTES + payload.length : HEADER_BYTES);
    writeHeader(head, frame, payload.length);
    if (whole) head.set(payload, HEADER_BYTES);
    try {
      await this.#writeAll(head);
      if (!whole) await this.#writeAll(payload);
    } catch {
      // The backend went away; its session ends when it reads that.
      this.#failed = true;
    }
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.sink.write(bytes.subarray(at));
  }
}
