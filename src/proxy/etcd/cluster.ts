// A cluster as all sessions see it: unary calls that find a working endpoint, a valid token and an end in time.
//
// The rule for a call that failed: it is made again only when it is read-only or was certainly not seen by etcd,
// only until its deadline, and only so often: each pass over the endpoints asks each of them once. A write whose answer is lost is never made twice; SQL is told that its outcome is
// unknown.

import { setTimeout as sleep } from "node:timers/promises";
import { EtcdFdwError } from "../../base/errors.ts";
import { Method, type TlsPayload } from "../../ipc/frame.ts";
import { Authenticator, type FetchToken } from "./auth.ts";
import type { Counters } from "../stats.ts";
import { type CallOptions, Channel, type Failure, type Metadata, State } from "./channel.ts";
import { compactedError, isCompacted } from "./compaction.ts";
import { Connector, waitFor } from "./connector.ts";
import { type MethodInfo, methodInfo } from "./methods.ts";
import {
  errorOf,
  isConnectionLoss,
  isMemberFailure,
  isStaleToken,
  isTimeout,
  timeoutError,
  wasNeverSent,
} from "./status.ts";

/** Milliseconds. */
export interface Timeouts {
  /** To reach an endpoint. */
  connect: number;
  /** To have the answer, once an endpoint is reached. */
  request: number;
  /** Passes over the endpoints beyond the first; 0 when absent. */
  retries?: number;
  /** The pause before the first of these, which grows by as much with each; 0 when absent. */
  backoff?: number;
  /** It waits for other clients: that it takes long says nothing about the endpoint. */
  waits?: boolean;
}

export interface ClusterOptions {
  endpoints: readonly string[];
  username?: string;
  password?: string;
  tls?: TlsPayload;
  log: (message: string) => void;
  /** For tests. */
  fetchToken?: FetchToken;
}

export class Cluster {
  readonly #connector: Connector;
  readonly #auth: Authenticator;
  readonly #endpoints: number;
  readonly #tls: TlsPayload | undefined;
  #lastEndpoint: string | null = null;

  constructor(options: ClusterOptions) {
    this.#tls = options.tls;
    this.#connector = new Connector(options.endpoints, options.log, options.tls);
    this.#auth = new Authenticator(options.username, options.password, options.fetchToken);
    this.#endpoints = options.endpoints.length;
  }

  /**
   * One unary call, `method` as in frame.ts: etcd's answer, untouched. Rejects with EtcdFdwError; with 57014 when
   * the signal was aborted.
   */
  async call(
    method: number,
    payload: Uint8Array,
    timeouts: Timeouts,
    signal?: AbortSignal,
    counters?: Counters,
  ): Promise<Uint8Array> {
    const info = knownMethod(method);
    const passes = new Passes(this.#endpoints, timeouts, signal);
    // Awaiting what is there already would cost every call a turn of the event loop.
    const acquired = this.#acquire(passes, timeouts.connect, signal);
    let channel = acquired instanceof Promise ? await acquired : acquired;
    this.#noteEndpoint(channel, counters);
    const deadline = Date.now() + timeouts.request;
    let renewed = false;
    for (;;) {
      const context = { endpoint: channel.endpoint, writes: info.writes, requestTimeout: timeouts.request };
      const metadata = await this.#metadata(channel, deadline, () => timeoutError(context), signal);
      const startedAt = performance.now();
      const options = { metadata, deadline, signal };
      const outcome = info.stream
        ? await channel.converse(info.path, [payload], options, () => true)
        : await channel.call(info.path, payload, options);
      const { reply, failure } = outcome;
      if (reply !== undefined) return reply;
      if (signal?.aborted) throw cancelled();
      if (isStaleToken(failure) && !renewed && this.#auth.refuse(metadata)) {
        renewed = true;
        continue;
      }
      if (!timeouts.waits || !isTimeout(failure)) this.#judge(channel, failure, startedAt);
      if (isCompacted(failure)) {
        const isTxn = method === Method.READ_TXN;
        throw await compactedError(channel, payload, isTxn, failure, { metadata, deadline, signal });
      }
      if (!mayRepeat(failure, info) || !(await passes.next(isMemberFailure(failure)))) {
        throw errorOf(failure, context);
      }
      const left = deadline - Date.now();
      if (left <= 0) throw timeoutError(context);
      const next = await this.#acquire(passes, Math.min(timeouts.connect, left), signal);
      if (counters !== undefined) counters.retries++;
      this.#noteEndpoint(next, counters);
      channel = next;
    }
  }

  /** Counts a change of the endpoint with the first call that sees it. */
  #noteEndpoint({ endpoint }: Channel, counters: Counters | undefined): void {
    if (endpoint === this.#lastEndpoint) return;
    if (this.#lastEndpoint !== null && counters !== undefined) counters.failovers++;
    this.#lastEndpoint = endpoint;
  }

  /** One unary call of this endpoint, which is not repeated. Rejects as call() does. */
  async callEndpoint(
    endpoint: string,
    method: number,
    payload: Uint8Array,
    timeouts: Timeouts,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    const { path } = knownMethod(method);
    const { channel, options, explain } = await this.borrowEndpoint(endpoint, timeouts, signal);
    try {
      const { reply, failure } = await channel.call(path, payload, options);
      if (reply !== undefined) return reply;
      throw signal?.aborted ? cancelled() : explain(failure);
    } finally {
      channel.close();
    }
  }

  /** For a stream: a channel of an endpoint that answers, and what calls on it need. Rejects as call() does. */
  async borrow(timeouts: Timeouts, signal?: AbortSignal): Promise<Borrowed> {
    const channel = await this.#acquire(
      new Passes(this.#endpoints, timeouts, signal),
      timeouts.connect,
      signal,
    );
    const { options, context } = await this.#prepare(channel, { writes: false }, timeouts, signal);
    const startedAt = performance.now();
    const explain = (failure: Failure) => {
      if (signal?.aborted) return cancelled();
      if (isStaleToken(failure)) this.#auth.refuse(options.metadata);
      this.#judge(channel, failure, startedAt);
      return errorOf(failure, context);
    };
    return { channel, options, explain };
  }

  /** The same of this endpoint; whoever borrows it closes it. */
  async borrowEndpoint(endpoint: string, timeouts: Timeouts, signal?: AbortSignal): Promise<Borrowed> {
    const channel = new Channel(endpoint, this.#tls);
    try {
      await reached(channel, timeouts.connect, signal);
      const { options, context } = await this.#prepare(channel, { writes: false }, timeouts, signal);
      return { channel, options, explain: (failure) => errorOf(failure, context) };
    } catch (error) {
      channel.close();
      throw error;
    }
  }

  async #prepare(channel: Channel, info: { writes: boolean }, timeouts: Timeouts, signal?: AbortSignal) {
    const deadline = Date.now() + timeouts.request;
    const context = { endpoint: channel.endpoint, writes: info.writes, requestTimeout: timeouts.request };
    const metadata = await this.#metadata(channel, deadline, () => timeoutError(context), signal);
    return { options: { metadata, deadline, signal }, context };
  }

  /** Whether there is a connection. */
  get connected(): boolean {
    return this.#connector.connected;
  }

  #acquire(passes: Passes, timeoutMs: number, signal?: AbortSignal): Channel | Promise<Channel> {
    const acquired = this.#connector.acquire(timeoutMs, signal);
    return acquired instanceof Promise ? this.#reach(acquired, passes, timeoutMs, signal) : acquired;
  }

  /** Waits for an endpoint; when none could be reached, tries them all again as often as may be. */
  async #reach(
    attempt: Promise<Channel> | Channel,
    passes: Passes,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<Channel> {
    const end = Date.now() + timeoutMs;
    for (;;) {
      try {
        return await attempt;
      } catch (error) {
        const left = () => end - Date.now();
        const refused = error instanceof EtcdFdwError && error.sqlstate === "08001";
        if (!refused || left() <= 0 || !(await passes.nextPass(left())) || left() <= 0) throw error;
        attempt = this.#connector.acquire(left(), signal);
      }
    }
  }

  /** Frees all connections. Calls under way on them may still end. */
  close(): void {
    this.#connector.close();
  }

  #metadata(
    channel: Channel,
    deadline: number,
    late: () => EtcdFdwError,
    signal?: AbortSignal,
  ): Metadata | Promise<Metadata> {
    const metadata = this.#auth.metadata(channel, deadline);
    if (!(metadata instanceof Promise)) return metadata;
    // The token is fetched for all; this call's end must not be the end of the fetch.
    return waitFor(metadata, deadline - Date.now(), late, signal);
  }

  /** Leaves an endpoint that the failure speaks against. */
  #judge(channel: Channel, failure: Failure, startedAt: number): void {
    if (isConnectionLoss(failure) || isMemberFailure(failure)) {
      this.#connector.drop(channel, failure.text);
    } else if (isTimeout(failure) && channel.lastAnswer < startedAt) {
      // It answered nobody else either. A peer that is stopped, not dead, keeps its connections open.
      this.#connector.drop(channel, "it does not answer");
    }
  }
}

/** A channel and how to use it. */
export interface Borrowed {
  channel: Channel;
  options: CallOptions;
  /** What a failure means, which counts against the endpoint too. */
  explain: (failure: Failure) => EtcdFdwError;
}

function knownMethod(method: number): MethodInfo {
  const info = methodInfo(method);
  if (info === undefined) throw new EtcdFdwError("0A000", `etcd proxy does not know method ${method}`);
  return info;
}

/** Waits until the channel is connected. Rejects with 08001. */
async function reached(channel: Channel, timeoutMs: number, signal?: AbortSignal): Promise<void> {
  let giveUp = () => {};
  const late = new Promise<"late">((resolve) => {
    giveUp = () => resolve("late");
    signal?.addEventListener("abort", giveUp, { once: true });
  });
  const timer = setTimeout(giveUp, timeoutMs);
  try {
    for (let state: State | "late" = channel.connect(); state !== State.READY;) {
      if (state === "late" || state === State.TRANSIENT_FAILURE || state === State.SHUTDOWN) {
        if (signal?.aborted) throw cancelled();
        const reason = state === "late"
          ? `no connection within ${timeoutMs} ms`
          : await channel.connectError();
        throw new EtcdFdwError("08001", `could not connect to etcd at "${channel.endpoint}"`, {
          detail: `The cause is: ${reason}.`,
        });
      }
      const from = state === State.IDLE ? channel.connect() : state;
      state = await Promise.race([new Promise<State>((resolve) => channel.onChange(from, resolve)), late]);
    }
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", giveUp);
  }
}

function mayRepeat(failure: Failure, info: MethodInfo): boolean {
  return wasNeverSent(failure) || info.readonly && (isConnectionLoss(failure) || isMemberFailure(failure));
}

function cancelled(): EtcdFdwError {
  return new EtcdFdwError("57014", "request was cancelled");
}

/** How often a call may be made again: each pass asks every endpoint once. */
class Passes {
  readonly #endpoints: number;
  readonly #timeouts: Timeouts;
  readonly #signal: AbortSignal | undefined;
  #failures = 0;
  #pass = 0;

  constructor(endpoints: number, timeouts: Timeouts, signal: AbortSignal | undefined) {
    this.#endpoints = endpoints;
    this.#timeouts = timeouts;
    this.#signal = signal;
  }

  /** After a call that failed: false when there is no further one. Waits between passes only if waiting may help. */
  async next(waits: boolean): Promise<boolean> {
    if (++this.#failures % this.#endpoints !== 0) return true;
    return await this.nextPass(waits ? this.#timeouts.request : 0);
  }

  /** After all endpoints have failed: false when there is no further pass. Waits, but not longer than this. */
  async nextPass(longestMs: number): Promise<boolean> {
    if (++this.#pass > (this.#timeouts.retries ?? 0)) return false;
    const pause = Math.min((this.#timeouts.backoff ?? 0) * this.#pass, longestMs);
    if (pause > 0) await sleep(pause, undefined, { signal: this.#signal }).catch(() => {});
    if (this.#signal?.aborted) throw cancelled();
    return true;
  }
}
