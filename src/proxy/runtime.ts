// What the proxy's code takes from the world outside of it: time, timers, chance, sockets and connections to etcd. It
// reaches them through this interface alone, so that a simulator can run the proxy in virtual time, with faults that it
// decides on.

import { chmodSync, renameSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import type { Transport } from "./etcd/transport.ts";

export interface Clock {
  /** Milliseconds since some moment; never goes back. */
  now(): number;
}

export interface Timer {
  cancel(): void;
}

/** A backend's end of the socket. */
export interface Connection {
  /** Sends the parts in this order; `taken` is called when the system has taken them all, or never will. */
  write(parts: Uint8Array[], taken: () => void): void;
  /** Whether the system takes no more at present; ConnectionEvents.drained tells when that is over. */
  readonly congested: boolean;
  /** Closes it when all that was written has been taken. */
  end(): void;
  destroy(): void;
}

export interface ConnectionEvents {
  data(chunk: Uint8Array): void;
  drained(): void;
  closed(): void;
}

export interface Listener {
  close(done?: () => void): void;
}

export interface Runtime extends Clock {
  /** Milliseconds since the epoch. */
  wallClock(): number;
  /** Calls back once after so many milliseconds, however many these are; never for Infinity. */
  after(ms: number, act: () => void): Timer;
  /** At least 0 and less than 1. */
  random(): number;
  /**
   * Listens at `path`, which only this user can connect to; replaces what a dead proxy has left there. Rejects with the
   * system's error when it cannot; `failed` hears of what goes wrong later.
   */
  listen(
    path: string,
    accept: (connection: Connection) => ConnectionEvents,
    failed: (error: Error) => void,
  ): Promise<Listener>;
  readonly etcd: Transport;
}

/** Resolves after so many milliseconds, or when the signal is aborted. */
export function sleep(runtime: Runtime, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const over = () => {
      timer.cancel();
      signal?.removeEventListener("abort", over);
      resolve();
    };
    const timer = runtime.after(ms, over);
    if (signal?.aborted) over();
    signal?.addEventListener("abort", over);
  });
}

/** How long work goes on before others have their turn, in milliseconds. */
const SLICE_MS = 5;

/** Does work that pauses where others may run. */
export async function inSlices<T>(runtime: Runtime, work: Generator<undefined, T, unknown>): Promise<T> {
  for (let began = runtime.now();;) {
    const { done, value } = work.next();
    if (done) return value;
    if (runtime.now() - began < SLICE_MS) continue;
    await sleep(runtime, 0);
    began = runtime.now();
  }
}

/** The longest time that a timer of the system takes; a longer one fires at once. */
export const MAX_TIMER_MS = 0x7fffffff;

/**
 * A timer of any length from one that takes MAX_TIMER_MS at most: it is set again as often as it must. What `arm` returns
 * stops it.
 */
export function longTimer(
  ms: number,
  arm: (ms: number, act: () => void) => () => void,
  act: () => void,
): Timer {
  let left = Math.max(ms, 0);
  let stop = () => {};
  const next = () => {
    if (left === Infinity) return;
    const turn = Math.min(left, MAX_TIMER_MS);
    left -= turn;
    stop = arm(turn, left > 0 ? next : act);
  };
  next();
  return { cancel: () => stop() };
}

const realTimer = (ms: number, act: () => void) => {
  const timer = setTimeout(act, ms);
  return () => clearTimeout(timer);
};

function connectionOn(socket: Socket): Connection {
  return {
    write(parts, taken) {
      // A socket that is closed calls back with an error, and one that is destroyed meanwhile too.
      if (parts.length > 1) socket.cork();
      parts.forEach((part, i) => socket.write(part, i === parts.length - 1 ? () => taken() : undefined));
      if (parts.length > 1) socket.uncork();
    },
    get congested() {
      return socket.writableNeedDrain;
    },
    end: () => socket.end(),
    destroy: () => socket.destroy(),
  };
}

// node:net rather than Deno.listen: three times the throughput for megabytes, and it takes the path as it is
// given, where Deno.listen makes it absolute, which a deep data directory makes too long for a socket's address.
const listen: Runtime["listen"] = (path, accept, failed) => {
  // Bound under another name first: the socket has its mode when it appears, and there is no moment without one.
  const unfinished = `${path}.new`;
  rmSync(unfinished, { force: true });
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      const events = accept(connectionOn(socket));
      socket.on("data", (chunk) => events.data(chunk));
      socket.on("drain", () => events.drained());
      // "close" follows; a backend that is gone is nothing to report.
      socket.on("error", () => {});
      socket.on("close", () => events.closed());
    });
    server.once("error", reject);
    server.listen(unfinished, () => {
      try {
        chmodSync(unfinished, 0o600);
        renameSync(unfinished, path);
      } catch (error) {
        server.close();
        return reject(error);
      }
      server.off("error", reject);
      server.on("error", failed);
      resolve({ close: (done) => void server.close(done && (() => done())) });
    });
  });
};

/** The world as it is. */
export function realRuntime(etcd: Transport): Runtime {
  return {
    now: () => performance.now(),
    wallClock: () => Date.now(),
    after: (ms, act) => longTimer(ms, realTimer, act),
    random: () => Math.random(),
    listen,
    etcd,
  };
}
