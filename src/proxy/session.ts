// One backend's connection: its channels, its requests on their way, and its frames.

import { decodeUtf8 } from "../ipc/bytes.ts";
import { encodeError, EtcdFdwError } from "../ipc/errors.ts";
import { type Frame, FrameDecoder, FrameType, type OpenPayload } from "../ipc/frame.ts";
import { CancelledError, type Cluster } from "./etcd/cluster.ts";
import type { ClusterPool } from "./etcd/pool.ts";
import { FrameWriter, type Sink } from "./writer.ts";

/** With this much unread by the backend, its further requests wait. */
const MAX_QUEUED = 64 * 1024 * 1024;
const READ_BYTES = 64 * 1024;

export interface Connection extends Sink {
  read(into: Uint8Array): Promise<number | null>;
  close(): void;
}

interface Channel {
  cluster: Cluster;
  release: () => void;
  requestTimeout: number;
}

export class Session {
  readonly #decoder = new FrameDecoder();
  readonly #writer: FrameWriter;
  readonly #channels = new Map<number, Channel>();
  readonly #requests = new Map<number, AbortController>();

  constructor(readonly connection: Connection, readonly pool: ClusterPool) {
    this.#writer = new FrameWriter(connection);
  }

  /** Serves the backend until it goes away or breaks the protocol. Never rejects. */
  async run(): Promise<void> {
    try {
      await this.#readFrames();
    } catch (error) {
      // A connection that breaks is the usual end of a backend that was killed.
      if (error instanceof EtcdFdwError) await this.#sendError(0, 0, error);
    } finally {
      for (const request of this.#requests.values()) request.abort();
      for (const channel of this.#channels.values()) channel.release();
      try {
        this.connection.close();
      } catch {
        // Closed already.
      }
    }
  }

  async #readFrames(): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    for (;;) {
      const length = await this.connection.read(buffer);
      if (length === null) return;
      for (const frame of this.#decoder.push(buffer.slice(0, length))) this.#take(frame);
      if (this.#writer.queued > MAX_QUEUED) await this.#writer.drained();
    }
  }

  #take(frame: Frame): void {
    switch (frame.type) {
      case FrameType.OPEN:
        return this.#open(frame);
      case FrameType.UNARY:
        return void this.#unary(frame);
      case FrameType.CANCEL:
        return this.#requests.get(frame.id)?.abort();
      case FrameType.CLOSE:
        this.#channels.get(frame.channel)?.release();
        this.#channels.delete(frame.channel);
        return;
      default:
        throw new EtcdFdwError("08P01", `frame of unknown type ${frame.type}`);
    }
  }

  #open(frame: Frame): void {
    const open = JSON.parse(decodeUtf8(frame.payload)) as OpenPayload;
    this.#channels.get(frame.channel)?.release();
    this.#channels.set(frame.channel, { ...this.pool.acquire(open), requestTimeout: open.requestTimeout });
  }

  /** Answers one request. A cancelled one gets no answer. */
  async #unary({ channel: number, code, id, payload }: Frame): Promise<void> {
    const controller = new AbortController();
    this.#requests.set(id, controller);
    try {
      const channel = this.#channels.get(number);
      if (channel === undefined) {
        throw new EtcdFdwError("08P01", `request on channel ${number}, which is not open`);
      }
      const reply = await channel.cluster.call(code, payload, channel.requestTimeout, controller.signal);
      if (!controller.signal.aborted) {
        await this.#writer.send({ type: FrameType.REPLY, code, channel: number, id, payload: reply });
      }
    } catch (error) {
      if (!(error instanceof CancelledError) && !controller.signal.aborted) {
        await this.#sendError(number, id, EtcdFdwError.from(error));
      }
    } finally {
      this.#requests.delete(id);
    }
  }

  #sendError(channel: number, id: number, error: EtcdFdwError): Promise<void> {
    return this.#writer.send({ type: FrameType.ERROR, code: 0, channel, id, payload: encodeError(error) });
  }
}
