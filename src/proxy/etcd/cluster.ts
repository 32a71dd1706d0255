// A cluster as all sessions see it: unary calls that find a working endpoint, a valid token and an end in time.
//
// The rule for a call that failed: it is made again only when it is read-only or was certainly not seen by etcd,
// only until its deadline, and only so often: each pass over the endpoints asks each of them once. A write whose answer is lost is never made twice; SQL is told that its outcome is
// unknown.

import { setTimeout as sleep } from "node:timers/promises";
import { EtcdFdwError } from "../../ipc/errors.ts";
import { Method, type TlsPayload } from "../../ipc/frame.ts";
import { Authenticator, type FetchToken } from "./auth.ts";
import type { Channel, Failure, Metadata } from "./channel.ts";
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

  constructor(options: ClusterOptions) {
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
  ): Promise<Uint8Array> {
    const info = methodInfo(method);
    if (info === undefined) throw new EtcdFdwError("0A000", `etcd proxy does not know method ${method}`);
    const passes = new Passes(this.#endpoints, timeouts, signal);
    // Awaiting what is there already would cost every call a turn of the event loop.
    const acquired = this.#acquire(passes, timeouts.connect, signal);
    let channel = acquired instanceof Promise ? await acquired : acquired;
    const deadline = Date.now() + timeouts.request;
    let renewed = false;
    for (;;) {
      const context = { endpoint: channel.endpoint, writes: info.writes, requestTimeout: timeouts.request };
      const metadata = await this.#metadata(channel, deadline, () => timeoutError(context), signal);
      const startedAt = performance.now();
      const { reply, failure } = await channel.call(info.path, payload, { metadata, deadline, signal });
      if (reply !== undefined) return reply;
      if (signal?.aborted) throw cancelled();
      if (isStaleToken(failure) && !renewed && this.#auth.refuse(metadata)) {
        renewed = true;
        continue;
      }
      this.#judge(channel, failure, startedAt);
      if (isCompacted(failure)) {
        const isTxn = method === Method.READ_TXN;
        throw await compactedError(channel, payload, isTxn, failure, { metadata, deadline, signal });
      }
      if (!mayRepeat(failure, info) || !(await passes.next(isMemberFailure(failure)))) {
        throw errorOf(failure, context);
      }
      const left = deadline - Date.now();
      if (left <= 0) throw timeoutError(context);
      channel = await this.#acquire(passes, Math.min(timeouts.connect, left), signal);
    }
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
