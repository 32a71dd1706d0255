// One etcd member: a gRPC client of raw bytes.

import { Client, credentials, type Metadata } from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import { isServiceError } from "./status.ts";

/** gRPC's bytes in and out are etcd's protobuf messages, which nobody here decodes. */
const toBuffer = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const asBytes = (bytes: Uint8Array) => bytes;

const CHANNEL_OPTIONS = {
  "grpc.max_receive_message_length": MAX_FRAME_BYTES,
  "grpc.max_send_message_length": -1,
  // A peer that vanished without a word is noticed by its silence.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
  // A shared subchannel would keep its back-off from an earlier failure; here every attempt is a fresh one.
  "grpc.use_local_subchannel_pool": 1,
  "grpc.enable_retries": 0,
};

const STATUS_PATH = "/etcdserverpb.Maintenance/Status";

/** What a call needs beside its bytes. `deadline` in milliseconds since the epoch. */
export interface CallContext {
  metadata: Metadata;
  deadline: number;
  signal: AbortSignal;
}

export class Endpoint {
  #client: Client | null = null;

  /** @param address host:port */
  constructor(readonly address: string) {}

  /** One unary call. Rejects with gRPC's ServiceError, also when the signal aborts it (status CANCELLED). */
  call(path: string, request: Uint8Array, context: CallContext): Promise<Uint8Array> {
    const { metadata, deadline, signal } = context;
    this.#client ??= new Client(this.address, credentials.createInsecure(), CHANNEL_OPTIONS);
    const client = this.#client;
    return new Promise((resolve, reject) => {
      const call = client.makeUnaryRequest(
        path,
        toBuffer,
        asBytes,
        request,
        metadata,
        { deadline },
        (error, reply) => {
          signal.removeEventListener("abort", abort);
          if (error) reject(error);
          else resolve(reply!);
        },
      );
      const abort = () => call.cancel();
      if (signal.aborted) abort();
      else signal.addEventListener("abort", abort, { once: true });
    });
  }

  /** Connects and lets the member say something; rejects with a sentence on why it did not. */
  async probe(metadata: Metadata, timeout: number): Promise<void> {
    const signal = new AbortController().signal;
    try {
      await this.call(STATUS_PATH, new Uint8Array(0), { metadata, deadline: Date.now() + timeout, signal });
    } catch (error) {
      if (!isServiceError(error)) throw error;
      // Whatever else a member answers, it is there.
      if (error.code !== 14 && error.code !== 4) return;
      this.reset();
      throw new Error(error.code === 4 ? `no answer within ${timeout} ms` : lastReason(error.details));
    }
  }

  /** Drops the connection; the next call makes a new one at once. */
  reset(): void {
    this.#client?.close();
    this.#client = null;
  }
}

/** The operating system's reason out of gRPC's report. */
export function lastReason(details: string): string {
  const match =
    /(?:Last error: )?(?:Error: )?(connect E[A-Z]+|getaddrinfo [A-Z_]+|E[A-Z]{4,}|[Cc]onnection refused)/
      .exec(details);
  if (match === null) return details;
  return /REFUSED|refused/.test(match[1]) ? "connection refused" : match[1];
}
