// One gRPC channel to one endpoint, and raw unary calls through it: on its connection directly, as wire.ts does, and by the
// library where there is none, or a page of keys is read.
//
// Requests and replies are protobuf bytes that the other parts write and read, so a call is bytes in, bytes out,
// with no codec. How a call ended is a value here, not an exception: what a failure means depends on what was
// asked and on the state of the cluster, which cluster.ts knows.

import { Buffer } from "node:buffer";
import { lookup } from "node:dns/promises";
import http2 from "node:http2";
import { isIP } from "node:net";
import * as grpc from "@grpc/grpc-js";
import { isSingleKeyRange } from "../../etcd/ranges.ts";
import type { TlsPayload } from "../../ipc/frame.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import type { Deadline } from "../deadline.ts";
import type { Room } from "../memory.ts";
import { longTimer } from "../runtime.ts";
import { type Connects, watchConnections } from "./arrivals.ts";
import { certificatesShownBy } from "./certificates.ts";
import { GRACE_MS, Lingering } from "./linger.ts";
import { hostOf, portOf, securityOf } from "./tls.ts";
import type {
  CallOptions,
  Channel,
  Failure,
  Hear,
  Incoming,
  Login,
  Outcome,
  State,
  Transport,
} from "./transport.ts";
import { type Connection, KEEPALIVE_TIME_MS, KEEPALIVE_TIMEOUT_MS, Wire } from "./wire.ts";

const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  // What no frame can carry to a backend need not come here.
  "grpc.max_receive_message_length": MAX_FRAME_BYTES,
  "grpc.max_send_message_length": -1,
  // grpc-js pings only while one of its own streams is open.
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
  // It does not see the calls that pass it by.
  "grpc.client_idle_timeout_ms": 2 ** 31 - 1,
};

// The library wants Buffers; this one shares the memory.
const toBuffer = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const asIs = (bytes: Uint8Array) => bytes;

/** What stands in front of and behind the reason in grpc-js's text for a channel without a connection. */
const NO_CONNECTION = /^No connection established\. Last error: (?:Error: )?/;
const TRAILER = /\s*\(\d{4}-\d\d-\d\dT[^)]*\)|\.? Resolution note:.*$/gs;

/** What goes with a call, for the library and for a wire. */
interface Heads {
  metadata: grpc.Metadata;
  headers: Readonly<Record<string, string>>;
}

/** Headers by login: made once for all its calls. */
class Headers {
  readonly #made = new WeakMap<Login, Heads>();
  readonly #leader: boolean;

  constructor(leader: boolean) {
    this.#leader = leader;
  }

  of(login: Login): Heads {
    let heads = this.#made.get(login);
    if (heads === undefined) {
      const metadata = new grpc.Metadata();
      if (login.token !== null) metadata.set("token", login.token);
      if (this.#leader) metadata.set(HAS_LEADER, "true");
      heads = { metadata, headers: { ...GRPC_HEADERS, ...metadata.getMap() as Record<string, string> } };
      this.#made.set(login, heads);
    }
    return heads;
  }
}

const GRPC_HEADERS = {
  ":method": "POST",
  "content-type": "application/grpc",
  te: "trailers",
  "user-agent": "etcd_fdw",
};

/** A member that has no leader refuses a call with this at once, instead of letting it wait. */
const HAS_LEADER = "hasleader";
const HEADERS = { leader: new Headers(true), any: new Headers(false) };

/** What the library takes for a call. Its deadlines are of the wall clock. */
const timesOf = (deadline: Deadline, graceMs = 0) => ({ deadline: Date.now() + deadline.left() + graceMs });
const timeoutOf = (deadline: Deadline) =>
  deadline.left() === Infinity ? {} : { "grpc-timeout": timeoutHeader(deadline.left() + GRACE_MS) };
const headersOf = ({ login, leaderless }: CallOptions) => HEADERS[leaderless ? "any" : "leader"].of(login);

const CLOCK = {
  now: () => performance.now(),
  after: (ms: number, act: () => void) => longTimer(ms, armed, act),
};

function armed(ms: number, act: () => void): () => void {
  const timer = setTimeout(act, ms);
  return () => clearTimeout(timer);
}

/** The most that gRPC's header for it can say: eight digits. */
const MOST_TIMEOUT = 99_999_999;

/** How long etcd may take, as its header says it. */
function timeoutHeader(ms: number): string {
  if (ms <= MOST_TIMEOUT) return `${Math.ceil(ms)}m`;
  return `${Math.min(Math.ceil(ms / 1_000), MOST_TIMEOUT)}S`;
}

/** How long each address of a host may take to say why it cannot be used, in milliseconds. */
const PROBE_MS = 1_000;

/** The library puts a reply of megabytes together in half the time. */
const bringsMuch = (path: string, payload: Uint8Array) =>
  path === "/etcdserverpb.KV/Range" && !isSingleKeyRange(payload);

/** How unary calls go. */
export type Way = "wire" | "library";

/** Channels by the number that tells their connections; see GrpcChannel.number. */
const channels = new Map<number, GrpcChannel>();
let numbered = 0;

class GrpcChannel implements Channel {
  readonly endpoint: string;
  /**
   * The library hands this on to the making of its connections as the most memory that each may take: so it tells whose they
   * are. Any such number is no bound at all.
   */
  readonly #number = Number.MAX_SAFE_INTEGER - ++numbered;
  readonly #client: grpc.Client;
  readonly #tls: TlsPayload | undefined;
  readonly #lingering = new Lingering(CLOCK);
  readonly #way: Way;
  /** The latest connection, once it is ready. */
  #wire: Wire | null = null;

  constructor(endpoint: string, tls: TlsPayload | undefined, way: Way) {
    this.endpoint = endpoint;
    this.#tls = tls;
    this.#way = way;
    const { credentials, options } = securityOf(endpoint, tls);
    const own = { ...options, "grpc-node.max_session_memory": this.#number };
    this.#client = new grpc.Client(endpoint, credentials, { ...CHANNEL_OPTIONS, ...own });
    channels.set(this.#number, this);
  }

  /** The library has made a connection. */
  connected(connection: Connection): Wire {
    const wire = new Wire(CLOCK, connection, () => room);
    if (this.#way === "wire") connection.session.once("remoteSettings", () => this.#wire = wire);
    return wire;
  }

  connect(): State {
    return this.#client.getChannel().getConnectivityState(true);
  }

  onChange(from: State, changed: (state: State) => void): void {
    const channel = this.#client.getChannel();
    channel.watchConnectivityState(from as number, Infinity, (error) => {
      changed(error ? grpc.connectivityState.SHUTDOWN : channel.getConnectivityState(false));
    });
  }

  /** The library tells the last address's reason only: those of a host with several are asked one by one. */
  async connectError(): Promise<string> {
    const host = hostOf(this.endpoint);
    const addresses = isIP(host) ? [] : await lookup(host, { all: true }).catch(() => []);
    if (addresses.length < 2) return await this.#lastError();
    const tls = this.#tls && { ...this.#tls, servername: this.#tls.servername ?? host };
    return await reasonsOf(addresses.map(({ address }) => address), portOf(this.endpoint), tls);
  }

  /** The library tells it only to a call, so this makes one that fails. */
  #lastError(): Promise<string> {
    return new Promise((resolve) => {
      const done = (error: grpc.ServiceError | null) =>
        resolve(error ? reasonOf(error.details) : "unknown reason");
      const options = { deadline: Date.now() + 100 };
      const path = "/grpc.health.v1.Health/Check";
      this.#client.makeUnaryRequest(
        path,
        toBuffer,
        asIs,
        new Uint8Array(0),
        new grpc.Metadata(),
        options,
        done,
      );
    });
  }

  /** The caller is answered at his deadline; the call itself has more time, as linger.ts has it. */
  call(path: string, payload: Uint8Array, options: CallOptions): Promise<Outcome> {
    const { deadline, signal } = options;
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve(failed(grpc.status.CANCELLED, "cancelled"));
      let ended: (() => void) | null = null;
      const settle = (outcome: Outcome) => {
        timer.cancel();
        signal?.removeEventListener("abort", cancel);
        resolve(outcome);
      };
      const done = (outcome: Outcome) => {
        if (ended !== null) ended();
        else settle(outcome);
      };
      const abandon = (code: number, text: string) => {
        ended = this.#lingering.add(payload.length, () => reset());
        settle(failed(code, text));
      };
      const cancel = () => abandon(grpc.status.CANCELLED, "cancelled");
      const byLibrary = () => this.#callByLibrary(path, payload, options, done);
      // What etcd has certainly not seen goes the other way, unless nobody waits for it any more.
      const elsewhere = () => {
        if (ended !== null) ended();
        else reset = byLibrary();
      };
      let reset = this.#send(path, payload, options, (outcome) =>
        outcome === null ? elsewhere() : done(outcome)) ??
        byLibrary();
      const timer = CLOCK.after(
        Math.ceil(deadline.left()),
        () => abandon(grpc.status.DEADLINE_EXCEEDED, "Deadline exceeded"),
      );
      signal?.addEventListener("abort", cancel);
    });
  }

  /** What resets the call; null where there is no connection to send it on. */
  #send(
    path: string,
    payload: Uint8Array,
    options: CallOptions,
    done: (outcome: Outcome | null) => void,
  ): (() => void) | null {
    if (this.#wire === null || !this.#wire.isUsable || bringsMuch(path, payload)) return null;
    const headers = { ...headersOf(options).headers, ":path": path, ...timeoutOf(options.deadline) };
    return this.#wire.send(headers, payload, done);
  }

  #callByLibrary(
    path: string,
    payload: Uint8Array,
    options: CallOptions,
    done: (outcome: Outcome) => void,
  ): () => void {
    const { metadata } = headersOf(options);
    const times = timesOf(options.deadline, GRACE_MS);
    const told = (error: grpc.ServiceError | null, reply?: Uint8Array) =>
      done(error ? failed(error.code, error.details) : { reply: reply! });
    const call = this.#client.makeUnaryRequest(path, toBuffer, asIs, payload, metadata, times, told);
    return () => call.cancel();
  }

  converse(path: string, payloads: Uint8Array[], options: CallOptions, heard: Hear): Promise<Outcome> {
    const { deadline, signal } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return resolve(failed(grpc.status.CANCELLED, "cancelled"));
      const { metadata } = headersOf(options);
      const stream = this.#client.makeBidiStreamRequest(path, toBuffer, asIs, metadata, timesOf(deadline));
      const cancel = () => stream.cancel();
      const end = (outcome: Outcome) => {
        signal?.removeEventListener("abort", cancel);
        resolve(outcome);
      };
      signal?.addEventListener("abort", cancel);
      const judge = (reply: Uint8Array, isLast: boolean) => {
        if (!isLast) return;
        end({ reply });
        stream.cancel();
      };
      const fail = (error: unknown) => {
        reject(error);
        stream.cancel();
      };
      stream.on("data", (reply: Uint8Array) => {
        try {
          const isLast = heard(reply, (message) => stream.write(message));
          if (typeof isLast === "boolean") return judge(reply, isLast);
          stream.pause();
          isLast.then((is) => judge(reply, is), fail).finally(() => stream.resume());
        } catch (error) {
          fail(error);
        }
      });
      stream.on("error", (error: grpc.ServiceError) => end(failed(error.code, error.details)));
      stream.on("end", () => end(failed(grpc.status.CANCELLED, "the stream has ended")));
      for (const payload of payloads) stream.write(payload);
    });
  }

  receive(path: string, payload: Uint8Array, options: CallOptions): Incoming {
    const { deadline, signal } = options;
    const { metadata } = headersOf(options);
    const stream = this.#client.makeServerStreamRequest(
      path,
      toBuffer,
      asIs,
      payload,
      metadata,
      timesOf(deadline),
    );
    signal?.addEventListener("abort", () => stream.cancel(), { once: true });
    const replies = stream[Symbol.asyncIterator]();
    return {
      next: () =>
        replies.next().then(
          ({ value, done }) => ({ reply: done ? null : value as Uint8Array }),
          (error: grpc.ServiceError) => failed(error.code, error.details),
        ),
      cancel: () => stream.cancel(),
    };
  }

  /** By etcd3, on this channel; it is loaded only when there is a user, since it takes longer to load than all else here. */
  async login(username: string, password: string, deadline: Deadline): Promise<Outcome<string | null>> {
    const { Etcd3 } = await import("etcd3");
    let status: Failure = { code: grpc.status.UNKNOWN, text: "the login was not sent" };
    // etcd3 offers no metadata for this call, and makes classes of its own of etcd's errors.
    const listening: grpc.Interceptor = (options, nextCall) =>
      new grpc.InterceptingCall(nextCall(options), {
        start(metadata, _listener, next) {
          metadata.set(HAS_LEADER, "true");
          next(metadata, {
            onReceiveStatus(received, next) {
              status = { code: received.code, text: received.details };
              next(received);
            },
          });
        },
      });
    // etcd3 closes what it was given when a call fails; this channel has other users.
    const lent: grpc.Channel = Object.create(this.#client.getChannel(), { close: { value: () => {} } });
    const options: grpc.ClientOptions = {
      channelOverride: lent,
      interceptors: [listening],
    };
    const client = new Etcd3({ hosts: this.endpoint, grpcOptions: options as grpc.ChannelOptions });
    try {
      const { token } = await client.auth.authenticate({ name: username, password }, timesOf(deadline));
      return { reply: token };
    } catch {
      if (status.text.includes("authentication is not enabled")) return { reply: null };
      return { failure: status };
    }
  }

  close(): void {
    channels.delete(this.#number);
    this.#client.close();
  }
}

const reasonOf = (text: string) => text.replace(NO_CONNECTION, "").replace(TRAILER, "").trim();

/** Why there is no connection to each of these addresses; exported for its test. */
export async function reasonsOf(addresses: string[], port: number, tls?: TlsPayload): Promise<string> {
  const reasons = addresses.map(async (address) => {
    const name = isIP(address) === 6 ? `[${address}]` : address;
    return `${name}: ${await probe(new GrpcChannel(`${name}:${port}`, tls, "library"))}`;
  });
  return (await Promise.all(reasons)).join("; ");
}

/** Why this channel, which is closed then, cannot connect. */
async function probe(channel: GrpcChannel): Promise<string> {
  let late: ReturnType<typeof setTimeout>;
  const state = await new Promise<State | null>((resolve) => {
    late = setTimeout(() => resolve(null), PROBE_MS);
    const follow = (state: State) => {
      if (state === grpc.connectivityState.TRANSIENT_FAILURE || state === grpc.connectivityState.READY) {
        return resolve(state);
      }
      channel.onChange(state, follow);
    };
    follow(channel.connect());
  });
  clearTimeout(late!);
  try {
    if (state === null) return "no answer";
    return state === grpc.connectivityState.READY ? "answers" : await channel.connectError();
  } finally {
    channel.close();
  }
}

function failed(code: number, text: string): Outcome<never> {
  return { failure: { code, text } };
}

/** For the replies on all connections of this process. */
let room: Room | null = null;
watchConnections(http2 as Connects, {
  room: () => room,
  made(connection, memory) {
    const wire = channels.get(memory ?? 0)?.connected(connection);
    return wire && ((stream) => wire.streams(stream));
  },
});

/** Connections by gRPC. */
export const transportBy = (way: Way): Transport => ({
  dial: (endpoint, tls) => new GrpcChannel(endpoint, tls, way),
  certificates: certificatesShownBy,
  meter: (given) => void (room = given),
});

export const grpcTransport = transportBy("wire");
