// Which endpoint of a cluster is asked: one decision, shared by every session.
//
// All endpoints are tried at once; the first that is ready becomes the active one and stays it until it fails.
// Nothing is tried while nobody asks, and there is no backoff between two askers: an etcd that has come back is
// found by the very next request. An endpoint that has failed (breaker.ts) is the second choice for a while, never no
// choice; of those that have, the ones that only miss their leader come first. Losers of the race are closed at once: a
// spare connection would have to be watched, and connecting anew takes a millisecond.

import { EtcdFdwError } from "../../base/errors.ts";
import type { TlsPayload } from "../../ipc/frame.ts";
import { waitFor } from "../deadline.ts";
import type { Runtime, Timer } from "../runtime.ts";
import { avoidance, type Breaker, CLOSED, type Fault, step } from "./breaker.ts";
import { type Channel, State } from "./transport.ts";

/** How long an endpoint that failed a moment ago waits for another one to become ready first, in milliseconds. */
const SECOND_CHOICE_MS = 1_000;

/** One race of all endpoints. */
class Race {
  readonly startedAt: number;
  /** Rejects with EtcdFdwError 08001. */
  readonly winner: Promise<Channel>;
  readonly #runtime: Runtime;
  readonly #channels: Channel[];
  readonly #reasons = new Map<Channel, string>();
  readonly #avoided: ReadonlySet<string>;
  readonly #timers: Timer[] = [];
  #over = false;
  #resolve!: (channel: Channel) => void;
  #reject!: (error: EtcdFdwError) => void;

  constructor(runtime: Runtime, channels: Channel[], avoided: ReadonlySet<string>, timeoutMs: number) {
    this.#runtime = runtime;
    this.startedAt = runtime.now();
    this.#avoided = avoided;
    this.winner = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever waits sees it; that nobody may be waiting any more is no fault.
    this.winner.catch(() => {});
    this.#channels = channels;
    this.#timers.push(runtime.after(timeoutMs, () => this.#lose(timeoutMs)));
    for (const channel of this.#channels) this.#follow(channel, channel.connect());
  }

  #follow(channel: Channel, state: State): void {
    if (this.#over) return;
    if (state === State.IDLE) state = channel.connect();
    if (state === State.READY) {
      if (!this.#avoided.has(channel.endpoint)) return this.#win(channel);
      this.#timers.push(this.#runtime.after(SECOND_CHOICE_MS, () => this.#win(channel)));
      if (this.#othersFailed()) return this.#win(channel);
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
    const ready = this.#channels.find((other) =>
      !this.#reasons.has(other) && other.connect() === State.READY
    );
    if (ready !== undefined && this.#othersFailed()) this.#win(ready);
  }

  /** Whether nobody is left to wait for but second choices. */
  #othersFailed(): boolean {
    return this.#channels.every((other) => this.#avoided.has(other.endpoint) || this.#reasons.has(other));
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
    this.#lose(Math.round(this.#runtime.now() - this.startedAt));
  }

  #end(winner: Channel | null): void {
    this.#over = true;
    for (const timer of this.#timers) timer.cancel();
    for (const channel of this.#channels) if (channel !== winner) channel.close();
  }

  /** The endpoints that have said why not. */
  get failed(): string[] {
    return [...this.#reasons.keys()].map(({ endpoint }) => endpoint);
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

/** The endpoint in use, and what its answers have shown; times as Runtime.now() tells them. */
export interface Member {
  readonly channel: Channel;
  /** Of the last answer of any kind: tells a silent peer from a slow request. */
  lastAnswer: number;
  /** Of the last one for which it had to ask its cluster: a member that is cut off answers what it knows by itself. */
  lastProof: number;
  /** Milliseconds that its calls take, smoothed; null before the first. */
  pace: number | null;
  /** Aborted when it is left because it failed: what waits there for other clients would wait for ever. */
  readonly left: AbortController;
}

export function newMember(channel: Channel): Member {
  return { channel, lastAnswer: 0, lastProof: 0, pace: null, left: new AbortController() };
}

export class Connector {
  readonly #runtime: Runtime;
  readonly #endpoints: readonly string[];
  readonly #log: (message: string) => void;
  readonly #tls: TlsPayload | undefined;
  readonly #breakers = new Map<string, Breaker>();
  #active: Member | null = null;
  #race: Race | null = null;
  /** The endpoint whose loss was logged; null when no news is due. */
  #lost: string | null = null;
  #closed = false;

  constructor(
    runtime: Runtime,
    endpoints: readonly string[],
    log: (message: string) => void,
    tls?: TlsPayload,
  ) {
    this.#runtime = runtime;
    this.#endpoints = endpoints;
    this.#log = log;
    this.#tls = tls;
  }

  /**
   * The member to use, at once when there is one. Rejects with EtcdFdwError 08001 when no endpoint could be
   * reached: at once when all refuse, after `timeoutMs` when one is silent.
   */
  acquire(timeoutMs: number, signal?: AbortSignal): Member | Promise<Member> {
    return this.#active ?? this.#connect(timeoutMs, signal);
  }

  async #connect(timeoutMs: number, signal?: AbortSignal): Promise<Member> {
    const askedAt = this.#runtime.now();
    while (true) {
      if (this.#active) return this.#active;
      const left = timeoutMs - (this.#runtime.now() - askedAt);
      const race = this.#race ??= this.#startRace(Math.max(Math.round(left), 1));
      try {
        const channel = await waitFor(this.#runtime, race.winner, left, () => race.error(timeoutMs), signal);
        const active = this.#active as Member | null;
        if (active?.channel === channel) return active;
      } catch (error) {
        // A race that began before this request was made proves nothing about now: etcd may have come back.
        const stale = race.startedAt < askedAt && this.#runtime.now() - askedAt < timeoutMs;
        if (!stale || signal?.aborted || this.#closed) throw error;
      }
    }
  }

  #startRace(timeoutMs: number): Race {
    const now = this.#runtime.now();
    for (const endpoint of this.#endpoints) this.#note(endpoint, "tried");
    const ranks = this.#endpoints.map((endpoint) => avoidance(this.#breakerOf(endpoint), now));
    const first = Math.min(...ranks);
    const channels = this.#endpoints.map((endpoint) => this.#runtime.etcd.dial(endpoint, this.#tls));
    const race = new Race(
      this.#runtime,
      channels,
      new Set(this.#endpoints.filter((_, i) => ranks[i] > first)),
      timeoutMs,
    );
    const over = () => {
      if (this.#race === race) this.#race = null;
      for (const endpoint of race.failed) this.#note(endpoint, "failed");
    };
    // Registered before anybody waits, so that a waiter finds the state as the race left it.
    race.winner.then((channel) => {
      over();
      if (this.#closed) channel.close();
      else this.#activate(channel);
    }, over);
    return race;
  }

  #breakerOf(endpoint: string): Breaker {
    return this.#breakers.get(endpoint) ?? CLOSED;
  }

  #note(endpoint: string, event: Parameters<typeof step>[1]): void {
    this.#breakers.set(endpoint, step(this.#breakerOf(endpoint), event, this.#runtime.now()));
  }

  #activate(channel: Channel): void {
    const member = newMember(channel);
    this.#active = member;
    if (this.#lost !== null) this.#log(`connected to etcd at "${channel.endpoint}"`);
    this.#lost = null;
    channel.onChange(State.READY, () => this.drop(member));
  }

  /** Notes an answer; `proves` where the member had to ask its cluster for it. */
  answered(member: Member, proves: boolean): void {
    member.lastAnswer = this.#runtime.now();
    if (!proves) return;
    member.lastProof = member.lastAnswer;
    const { endpoint } = member.channel;
    if (this.#breakerOf(endpoint).state !== "CLOSED") this.#note(endpoint, "proved");
  }

  /**
   * Leaves a member that has failed; calls under way on it may still end. With a reason, the loss is logged and
   * other endpoints come first for a while.
   */
  drop(member: Member, reason?: string, fault: Fault = "failed"): void {
    const { channel } = member;
    const isNews = this.#breakerOf(channel.endpoint).state === "CLOSED";
    // Calls on a channel that was left before may still show that its endpoint fails.
    if (reason !== undefined) this.#note(channel.endpoint, fault);
    if (this.#active !== member) return;
    this.#active = null;
    // Where all members fail in turn, the first time is news.
    if (reason !== undefined && isNews) {
      this.#lost = channel.endpoint;
      this.#log(`leaving etcd at "${channel.endpoint}": ${reason}`);
    }
    channel.close();
    if (reason !== undefined) member.left.abort();
  }

  get connected(): boolean {
    return this.#active !== null;
  }

  close(): void {
    this.#closed = true;
    this.#race?.abandon();
    this.#active?.channel.close();
    this.#active = null;
  }
}
