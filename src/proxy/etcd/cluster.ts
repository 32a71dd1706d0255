// A cluster as all sessions see it: unary calls that find a working endpoint, a valid token and an end in time.
//
// The rule for a call that failed: it is made again only when it is read-only or was certainly not seen by etcd,
// and only until its deadline. A write whose answer is lost is never made twice; SQL is told that its outcome is
// unknown.

import { EtcdFdwError } from "../../ipc/errors.ts";
import { Method } from "../../ipc/frame.ts";
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
}

export interface ClusterOptions {
  endpoints: readonly string[];
  username?: string;
  password?: string;
  log: (message: string) => void;
  /** For tests. */
  fetchToken?: FetchToken;
}

export class Cluster {
  readonly #connector: Connector;
  readonly #auth: Authenticator;
  readonly #attempts: number;

  constructor(options: ClusterOptions) {
    this.#connector = new Connector(options.endpoints, options.log);
    this.#auth = new Authenticator(options.username, options.password, options.fetchToken);
    // Every endpoint may fail once, and the first may have been restarted.
    this.#attempts = options.endpoints.length + 1;
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
    // Awaiting what is there already would cost every call a turn of the event loop.
    const acquired = this.#connector.acquire(timeouts.connect, signal);
    let channel = acquired instanceof Promise ? await acquired : acquired;
    const deadline = Date.now() + timeouts.request;
    let renewed = false;
    for (let attempt = 1;; attempt++) {
      const context = { endpoint: channel.endpoint, writes: info.writes, requestTimeout: timeouts.request };
      const metadata = await this.#metadata(channel, deadline, () => timeoutError(context), signal);
      const startedAt = performance.now();
      const { reply, failure } = await channel.call(info.path, payload, { metadata, deadline, signal });
      if (reply !== undefined) return reply;
      if (signal?.aborted) throw new EtcdFdwError("57014", "request was cancelled");
      if (isStaleToken(failure) && !renewed && this.#auth.refuse(metadata)) {
        renewed = true;
        continue;
      }
      this.#judge(channel, failure, startedAt);
      if (isCompacted(failure)) {
        throw await compactedError(channel, payload, method === Method.READ_TXN, failure, {
          metadata,
          deadline,
          signal,
        });
      }
      if (attempt >= this.#attempts || !mayRepeat(failure, info)) throw errorOf(failure, context);
      const left = deadline - Date.now();
      if (left <= 0) throw timeoutError(context);
      channel = await this.#connector.acquire(Math.min(timeouts.connect, left), signal);
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
    const metadata = this.#auth.metadata(channel.endpoint, deadline);
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
