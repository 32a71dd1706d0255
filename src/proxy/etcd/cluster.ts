// One etcd cluster as all sessions with the same endpoints and login share it: one connection, one token, and one decision
// which member to talk to.

import { Metadata } from "@grpc/grpc-js";
import { EtcdFdwError, GrpcStatus } from "../../ipc/errors.ts";
import { Method, type OpenPayload } from "../../ipc/frame.ts";
import { Authenticator } from "./auth.ts";
import { Endpoint } from "./endpoint.ts";
import { fromServiceError, isInvalidToken, isServiceError, unreachable } from "./status.ts";

const PATHS: Record<number, string> = {
  [Method.RANGE]: "/etcdserverpb.KV/Range",
  [Method.PUT]: "/etcdserverpb.KV/Put",
  [Method.DELETE_RANGE]: "/etcdserverpb.KV/DeleteRange",
  [Method.TXN]: "/etcdserverpb.KV/Txn",
  [Method.COMPACT]: "/etcdserverpb.KV/Compact",
};

/** A read whose member went away, or lost its leader, is asked again so often, after pauses that double. */
const READ_ATTEMPTS = 6;
const FIRST_PAUSE_MS = 50;

/** What an aborted call rejects with; nobody waits for it any more. */
export class CancelledError extends Error {
  override name = "CancelledError";
}

const abortion = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => {
    if (signal.aborted) reject(new CancelledError());
    signal.addEventListener("abort", () => reject(new CancelledError()), { once: true });
  });

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

export class Cluster {
  readonly #endpoints: Endpoint[];
  readonly #auth: Authenticator;
  readonly #connectTimeout: number;
  #active: Endpoint | null = null;
  #connecting: Promise<Endpoint> | null = null;

  constructor({ endpoints, connectTimeout, username, password }: OpenPayload) {
    this.#endpoints = endpoints.map((address) => new Endpoint(address));
    this.#connectTimeout = connectTimeout;
    const login = username === undefined ? null : { username, password: password ?? "" };
    this.#auth = new Authenticator(endpoints, login, connectTimeout);
  }

  /**
   * One of etcd's unary calls, bytes in and bytes out.
   *
   * @param method One of Method
   * @param timeout Milliseconds from now
   * @throws EtcdFdwError; CancelledError when the signal aborts it
   */
  async call(method: number, request: Uint8Array, timeout: number, signal: AbortSignal): Promise<Uint8Array> {
    const path = PATHS[method];
    if (path === undefined) throw new EtcdFdwError("08P01", `unknown method ${method}`);
    const deadline = Date.now() + timeout;
    let newToken = false;
    for (let attempt = 1;; attempt++) {
      const endpoint = this.#active ?? await this.#connect(signal);
      try {
        return await endpoint.call(path, request, {
          metadata: await this.#auth.metadata(),
          deadline,
          signal,
        });
      } catch (error) {
        if (signal.aborted) throw new CancelledError();
        if (!isServiceError(error)) throw error;
        if (isInvalidToken(error) && !newToken) {
          newToken = true;
          this.#auth.invalidate();
          continue;
        }
        this.#note(endpoint, error.code);
        const wait = FIRST_PAUSE_MS * 2 ** (attempt - 1);
        const again = error.code === GrpcStatus.UNAVAILABLE && method === Method.RANGE &&
          attempt < READ_ATTEMPTS;
        if (!again || Date.now() + wait >= deadline) {
          throw this.#failure(method, fromServiceError(error, endpoint.address, timeout), error.code);
        }
        if (attempt > 1) await pause(wait);
      }
    }
  }

  /** A member that went away or does not answer is not asked first any more. */
  #note(endpoint: Endpoint, code: number): void {
    if (code !== GrpcStatus.UNAVAILABLE && code !== GrpcStatus.DEADLINE_EXCEEDED) return;
    if (code === GrpcStatus.UNAVAILABLE) endpoint.reset();
    if (this.#active === endpoint) this.#active = null;
  }

  /** A write that was sent and not answered may have happened. */
  #failure(method: number, error: EtcdFdwError, code: number): EtcdFdwError {
    const lost = code === GrpcStatus.UNAVAILABLE || code === GrpcStatus.DEADLINE_EXCEEDED;
    if (!lost || method === Method.RANGE || method === Method.COMPACT) return error;
    return new EtcdFdwError("08007", `the outcome of the write is not known: ${error.message}`, {
      detail: error.detail,
      hint: "Read the keys to see whether it happened before writing again.",
    });
  }

  /** Connects to all members at once; the first that answers serves everybody until it fails. */
  async #connect(signal: AbortSignal): Promise<Endpoint> {
    this.#connecting ??= this.#firstReady().finally(() => this.#connecting = null);
    const connecting = this.#connecting;
    return await Promise.race([connecting, abortion(signal)]);
  }

  async #firstReady(): Promise<Endpoint> {
    const reasons = this.#endpoints.map(() => "");
    // Without a token: whether the login is good is the call's question, not the connection's.
    const metadata = new Metadata();
    const ready = this.#endpoints.map(async (endpoint, i) => {
      await endpoint.probe(metadata, this.#connectTimeout).catch((error: Error) => {
        reasons[i] = error.message;
        throw error;
      });
      return endpoint;
    });
    try {
      return this.#active = await Promise.any(ready);
    } catch {
      throw unreachable(this.#endpoints.map((endpoint) => endpoint.address), reasons);
    }
  }

  close(): void {
    for (const endpoint of this.#endpoints) endpoint.reset();
    this.#active = null;
  }
}
