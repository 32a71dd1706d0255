// Which endpoint of a cluster is asked: one decision, shared by every session.
//
// All endpoints are tried at once; the first that is ready becomes the active one and stays it until it fails.
// Nothing is tried while nobody asks, and there is no backoff between two askers: an etcd that has come back is
// found by the very next request. Losers of the race are closed at once: a spare connection would have to be
// watched, and connecting anew takes a millisecond.

import { EtcdFdwError } from "../../base/errors.ts";
import type { TlsPayload } from "../../ipc/frame.ts";
import { Channel, State } from "./channel.ts";

/** How long an endpoint that failed a moment ago waits for another one to become ready first, in milliseconds. */
const SECOND_CHOICE_MS = 200;

/** One race of all endpoints. */
class Race {
  readonly startedAt = performance.now();
  /** Rejects with EtcdFdwError 08001. */
  readonly winner: Promise<Channel>;
  readonly #channels: Channel[];
  readonly #reasons = new Map<Channel, string>();
  readonly #avoid: string | null;
  readonly #timers: ReturnType<typeof setTimeout>[] = [];
  #over = false;
  #resolve!: (channel: Channel) => void;
  #reject!: (error: EtcdFdwError) => void;

  constructor(
    endpoints: readonly string[],
    tls: TlsPayload | undefined,
    avoid: string | null,
    timeoutMs: number,
  ) {
    this.#avoid = avoid;
    this.winner = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever waits sees it; that nobody may be waiting any more is no fault.
    this.winner.catch(() => {});
    this.#channels = endpoints.map((endpoint) => new Channel(endpoint, tls));
    this.#timers.push(setTimeout(() => this.#lose(timeoutMs), timeoutMs));
    for (const channel of this.#channels) this.#follow(channel, channel.connect());
  }

  #follow(channel: Channel, state: State): void {
    if (this.#over) return;
    if (state === State.IDLE) state = channel.connect();
    if (state === State.READY) {
      if (channel.endpoint !== this.#avoid) return this.#win(channel);
      this.#timers.push(setTimeout(() => this.#win(channel), SECOND_CHOICE_MS));
      if (this.#othersFailed(channel)) return this.#win(channel);
    } else if (state === State.TRANSIENT_FAILURE) {
      this.#noteFailure(channel);
    }
    channel.onChange(state, (next) => this.#follow(channel, next));
  }

  async #noteFailure(channel: Channel): Promise<void> {
    const reason = await channel.connectError();
    if (this.#over) return;
    this.#reasons.set(channel, reason);
    if (this.#reasons.size === this.#channels.length) return this.#lose(0);
    const last = this.#channels.find((other) => !this.#reasons.has(other))!;
    if (this.#othersFailed(last) && last.connect() === State.READY) this.#win(last);
  }

  #othersFailed(channel: Channel): boolean {
    return this.#channels.every((other) => other === channel || this.#reasons.has(other));
  }

  #win(channel: Channel): void {
    if (this.#over) return;
    // It may have gone again while it waited as second choice.
    if (channel.connect() !== State.READY) return;
    this.#end(channel);
    this.#resolve(channel);
  }

  #lose(waitedMs: number): void {
    if (this.#over) return;
    const error = this.error(waitedMs);
    this.#end(null);
    this.#reject(error);
  }

  /** Ends the race without a winner. */
  abandon(): void {
    this.#lose(Math.round(performance.now() - this.startedAt));
  }

  #end(winner: Channel | null): void {
    this.#over = true;
    for (const timer of this.#timers) clearTimeout(timer);
    for (const channel of this.#channels) if (channel !== winner) channel.close();
  }

  /** What to say to one who has waited so long in vain. */
  error(waitedMs: number): EtcdFdwError {
    const endpoints = this.#channels.map((channel) => channel.endpoint).join(",");
    const detail = this.#channels.map((channel) =>
      `${channel.endpoint}: ${this.#reasons.get(channel) ?? `no answer within ${waitedMs} ms`}.`
    ).join("\n");
    return new EtcdFdwError("08001", `could not connect to etcd at "${endpoints}"`, {
      detail,
      hint: "Check that etcd is running and that the server's connstr names its client endpoints.",
    });
  }
}

export class Connector {
  readonly #endpoints: readonly string[];
  readonly #log: (message: string) => void;
  readonly #tls: TlsPayload | undefined;
  #active: Channel | null = null;
  #race: Race | null = null;
  #avoid: string | null = null;
  /** The endpoint whose loss was logged; null when no news is due. */
  #lost: string | null = null;
  #closed = false;

  constructor(endpoints: readonly string[], log: (message: string) => void, tls?: TlsPayload) {
    this.#endpoints = endpoints;
    this.#log = log;
    this.#tls = tls;
  }

  /**
   * The channel to use, at once when there is one. Rejects with EtcdFdwError 08001 when no endpoint could be
   * reached: at once when all refuse, after `timeoutMs` when one is silent.
   */
  acquire(timeoutMs: number, signal?: AbortSignal): Channel | Promise<Channel> {
    return this.#active ?? this.#connect(timeoutMs, signal);
  }

  async #connect(timeoutMs: number, signal?: AbortSignal): Promise<Channel> {
    const askedAt = performance.now();
    while (true) {
      if (this.#active) return this.#active;
      const left = timeoutMs - (performance.now() - askedAt);
      const race = this.#race ??= this.#startRace(Math.max(Math.round(left), 1));
      try {
        return await waitFor(race.winner, left, () => race.error(timeoutMs), signal);
      } catch (error) {
        // A race that began before this request was made proves nothing about now: etcd may have come back.
        const stale = race.startedAt < askedAt && performance.now() - askedAt < timeoutMs;
        if (!stale || signal?.aborted || this.#closed) throw error;
      }
    }
  }

  #startRace(timeoutMs: number): Race {
    const race = new Race(this.#endpoints, this.#tls, this.#avoid, timeoutMs);
    const over = () => {
      if (this.#race === race) this.#race = null;
    };
    // Registered before anybody waits, so that a waiter finds the state as the race left it.
    race.winner.then((channel) => {
      over();
      if (this.#closed) channel.close();
      else this.#activate(channel);
    }, over);
    return race;
  }

  #activate(channel: Channel): void {
    this.#active = channel;
    this.#avoid = null;
    if (this.#lost !== null) this.#log(`connected to etcd at "${channel.endpoint}"`);
    this.#lost = null;
    channel.onChange(State.READY, () => this.drop(channel));
  }

  /**
   * Leaves a channel that has failed; calls under way on it may still end. With a reason, the loss is logged and
   * another endpoint preferred next.
   */
  drop(channel: Channel, reason?: string): void {
    if (this.#active !== channel) return;
    this.#active = null;
    if (reason !== undefined) {
      this.#avoid = channel.endpoint;
      this.#lost = channel.endpoint;
      this.#log(`leaving etcd at "${channel.endpoint}": ${reason}`);
    }
    channel.close();
  }

  get connected(): boolean {
    return this.#active !== null;
  }

  close(): void {
    this.#closed = true;
    this.#race?.abandon();
    this.#active?.close();
    this.#active = null;
  }
}

/** Waits for a promise, but no longer than `timeoutMs` or until the signal is aborted. */
export function waitFor<T>(
  promise: Promise<T>,
  timeoutMs: number,
  late: () => EtcdFdwError,
  signal?: AbortSignal,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const aborted = () => settle(() => reject(new EtcdFdwError("57014", "request was cancelled")));
    const timer = setTimeout(() => settle(() => reject(late())), Math.max(timeoutMs, 0));
    const settle = (act: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      act();
    };
    if (signal?.aborted) return aborted();
    signal?.addEventListener("abort", aborted);
    promise.then((value) => settle(() => resolve(value)), (error) => settle(() => reject(error)));
  });
}
