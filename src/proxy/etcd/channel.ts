// One gRPC channel to one endpoint, and raw unary calls through it.
//
// Requests and replies are protobuf bytes that the other parts write and read, so a call is bytes in, bytes out,
// with no codec. How a call ended is a value here, not an exception: what a failure means depends on what was
// asked and on the state of the cluster, which cluster.ts knows.

import { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";
import type { TlsPayload } from "../../ipc/frame.ts";
import { securityOf } from "./tls.ts";

/** A gRPC status other than OK. */
export interface Failure {
  code: number;
  /** etcd's text or the gRPC library's, which only its wording tells apart. */
  text: string;
}

/** How a call ended. */
export type Outcome = { reply: Uint8Array; failure?: undefined } | { reply?: undefined; failure: Failure };

/** A stream of replies. */
export interface Incoming {
  next(): Promise<Outcome | { reply: null; failure?: undefined }>;
  cancel(): void;
}

export interface CallOptions {
  metadata: grpc.Metadata;
  /** Milliseconds since the epoch. */
  deadline: number;
  signal?: AbortSignal;
}

export { connectivityState as State } from "@grpc/grpc-js";
export { Metadata } from "@grpc/grpc-js";

// etcd refuses pings that come more often than every 5 s. grpc-js pings only while a call is under way.
const KEEPALIVE_TIME_MS = 6_000;
const KEEPALIVE_TIMEOUT_MS = 3_000;

const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  "grpc.keepalive_time_ms": KEEPALIVE_TIME_MS,
  "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
  // A page is megabytes: the 64 kB window of HTTP/2's default costs a third of a scan's time.
  "grpc-node.flow_control_window": 4 * 1024 * 1024,
  // A new channel must be a new attempt: shared subchannels would bring their backoff along.
  "grpc.use_local_subchannel_pool": 1,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 500,
  // Which endpoint is asked is this program's own decision; DNS TXT records and proxies have no part in it.
  "grpc.service_config_disable_resolution": 1,
  "grpc.enable_http_proxy": 0,
  "grpc.enable_channelz": 0,
};

// The library wants Buffers; this one shares the memory.
const toBuffer = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const asIs = (bytes: Uint8Array) => bytes;

/** What stands in front of and behind the reason in grpc-js's text for a channel without a connection. */
const NO_CONNECTION = /^No connection established\. Last error: (?:Error: )?/;
const TRAILER = /\s*\(\d{4}-\d\d-\d\dT[^)]*\)|\.? Resolution note:.*$/gs;

export class Channel {
  readonly endpoint: string;
  /** performance.now() of the last answer of any kind: tells a silent peer from a slow request. */
  lastAnswer = 0;
  readonly #client: grpc.Client;

  /** Does not connect before {@linkcode Channel.connect}. */
  constructor(endpoint: string, tls?: TlsPayload) {
    this.endpoint = endpoint;
    const { credentials, options } = securityOf(endpoint, tls);
    this.#client = new grpc.Client(endpoint, credentials, { ...CHANNEL_OPTIONS, ...options });
  }

  /** What a client of etcd3 is made with to use this channel and no other; such a client must not be closed. */
  etcd3Options(): { hosts: string; grpcOptions: grpc.ChannelOptions } {
    const override: grpc.ClientOptions = { channelOverride: this.#client.getChannel() };
    return { hosts: this.endpoint, grpcOptions: override as grpc.ChannelOptions };
  }

  /** Starts to connect if nothing did, and tells the state. */
  connect(): grpc.connectivityState {
    return this.#client.getChannel().getConnectivityState(true);
  }

  /**
   * Calls back once when the state is no longer `from`; not at all when that never happens. A channel that is
   * closed counts as changed.
   */
  onChange(from: grpc.connectivityState, changed: (state: grpc.connectivityState) => void): void {
    const channel = this.#client.getChannel();
    channel.watchConnectivityState(from, Infinity, (error) => {
      changed(error ? grpc.connectivityState.SHUTDOWN : channel.getConnectivityState(false));
    });
  }

  /** Why the last attempt to connect failed. The library tells it only to a call, so this makes one that fails. */
  async connectError(): Promise<string> {
    const { failure } = await this.call("/grpc.health.v1.Health/Check", new Uint8Array(0), {
      metadata: new grpc.Metadata(),
      deadline: Date.now() + 100,
    });
    if (!failure) return "unknown reason";
    return failure.text.replace(NO_CONNECTION, "").replace(TRAILER, "").trim();
  }

  /** One unary call. Never rejects; an aborted signal ends it with CANCELLED. */
  call(path: string, payload: Uint8Array, options: CallOptions): Promise<Outcome> {
    const { metadata, deadline, signal } = options;
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve(failed(grpc.status.CANCELLED, "cancelled"));
      const cancel = () => call.cancel();
      const done = (error: grpc.ServiceError | null, reply?: Uint8Array) => {
        signal?.removeEventListener("abort", cancel);
        if (error) {
          if (error.details.startsWith("etcdserver: ")) this.lastAnswer = performance.now();
          resolve(failed(error.code, error.details));
        } else {
          this.lastAnswer = performance.now();
          resolve({ reply: reply! });
        }
      };
      const call = this.#client.makeUnaryRequest(path, toBuffer, asIs, payload, metadata, { deadline }, done);
      signal?.addEventListener("abort", cancel);
    });
  }

  /**
   * Opens a stream in both directions, sends these messages and waits for a reply for which `heard` says true; bytes that
   * it returns are sent instead. Never rejects; an aborted signal ends it with CANCELLED, and so does a stream that ends
   * before.
   */
  converse(
    path: string,
    payloads: Uint8Array[],
    { metadata, deadline, signal }: CallOptions,
    heard: (reply: Uint8Array) => boolean | Uint8Array,
  ): Promise<Outcome> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve(failed(grpc.status.CANCELLED, "cancelled"));
      const stream = this.#client.makeBidiStreamRequest(path, toBuffer, asIs, metadata, { deadline });
      const cancel = () => stream.cancel();
      const end = (outcome: Outcome) => {
        signal?.removeEventListener("abort", cancel);
        resolve(outcome);
      };
      signal?.addEventListener("abort", cancel);
      stream.on("data", (reply: Uint8Array) => {
        this.lastAnswer = performance.now();
        const next = heard(reply);
        if (next === false) return;
        if (next !== true) return stream.write(next);
        end({ reply });
        stream.cancel();
      });
      stream.on("error", (error: grpc.ServiceError) => end(failed(error.code, error.details)));
      stream.on("end", () => end(failed(grpc.status.CANCELLED, "the stream has ended")));
      for (const payload of payloads) stream.write(payload);
    });
  }

  /** Opens a stream of replies, each of which is read when it is asked for; a null reply is the end. */
  receive(path: string, payload: Uint8Array, { metadata, deadline, signal }: CallOptions): Incoming {
    const stream = this.#client.makeServerStreamRequest(path, toBuffer, asIs, payload, metadata, {
      deadline,
    });
    signal?.addEventListener("abort", () => stream.cancel(), { once: true });
    const replies = stream[Symbol.asyncIterator]();
    return {
      next: () =>
        replies.next().then(
          ({ value, done }) => done ? { reply: null } : { reply: value as Uint8Array },
          (error: grpc.ServiceError) => failed(error.code, error.details),
        ),
      cancel: () => stream.cancel(),
    };
  }

  /** Frees the connection as soon as the calls on it have ended. */
  close(): void {
    this.#client.close();
  }
}

function failed(code: number, text: string): Outcome {
  return { failure: { code, text } };
}
