// A cluster as all sessions see it: calls that find a working endpoint, a valid token and an end in time.
//
// The rule for a call that failed: it is made again only when it is read-only or was certainly not seen by etcd,
// only until its deadline, and only so often: each pass over the endpoints asks each of them once. A write whose answer is
// lost is never made twice; SQL is told that its outcome is unknown.

import { EtcdFdwError, GrpcStatus } from "../../base/errors.ts";
import { Method, type TlsPayload } from "../../ipc/frame.ts";
import { cancelled, type Deadline, waitFor } from "../deadline.ts";
import { type Runtime, sleep } from "../runtime.ts";
import type { Counters } from "../stats.ts";
import { Authenticator } from "./auth.ts";
import { compactedError, isCompacted } from "./compaction.ts";
import { Connector, type Member, newMember } from "./connector.ts";
import { type MethodInfo, methodInfo, provesQuorum } from "./methods.ts";
import {
  type CallContext,
  errorOf,
  isConnectionLoss,
  isElection,
  isLeaderless,
  isMemberFailure,
  isStaleToken,
  isTimeout,
  timeoutError,
  wasNeverSent,
} from "./status.ts";
import {
  type CallOptions,
  type Channel,
  type Failure,
  type Login,
  type Outcome,
  State,
} from "./transport.ts";

/** How a call is to be made. Times in milliseconds. */
export interface Terms {
  deadline: Deadline;
  /** To reach an endpoint, all passes together. */
  connect: number;
  /** Passes over the endpoints beyond the first; 0 when absent. */
  retries?: number;
  /** The pause before the first of these, which grows by as much with each; 0 when absent. */
  backoff?: number;
  /**
   * It waits for other clients: once it has begun to it goes on for as long as its deadline allows, however often the
   * connection is lost.
   */
  waits?: boolean;
  signal?: AbortSignal;
  counters?: Counters;
}

export interface ClusterOptions {
  runtime: Runtime;
  endpoints: readonly string[];
  username?: string;
  password?: string;
  tls?: TlsPayload;
  log: (message: string) => void;
}

/** What is done on a channel once there is one. */
interface Work<T> {
  /** How long it takes says nothing about the endpoint. */
  isLong?: boolean;
  info: Pick<MethodInfo, "readonly" | "writes">;
  /** Whether success shows that the member is in touch with its cluster. */
  proves: boolean;
  /** What a member knows by itself is good enough, where none has a leader. */
  mayBeStale?: boolean;
  /** Never rejects with what etcd says, which is a value. */
  attempt(channel: Channel, options: CallOptions): Promise<Outcome<T>>;
  /** A better error for a failure; absent or null: as status.ts has it. */
  explain?(channel: Channel, failure: Failure, options: CallOptions): Promise<EtcdFdwError> | null;
}

/** Where the members come from: the cluster's connector, or one endpoint. */
interface Source {
  /** Rejects with 08001 when nobody is reached within so many milliseconds. */
  acquire(timeoutMs: number): Member | Promise<Member>;
  answered(member: Member, proves: boolean): void;
  judge(member: Member, failure: Failure, startedAt: number, proves: boolean): void;
}

/** A login may be asked for again and again. */
const LOGIN_INFO = { readonly: true, writes: false };
const READ_INFO = { readonly: true, writes: false };

export class Cluster {
  readonly #runtime: Runtime;
  readonly #connector: Connector;
  readonly #auth: Authenticator;
  readonly #endpoints: number;
  readonly #tls: TlsPayload | undefined;
  #lastEndpoint: string | null = null;

  constructor({ runtime, endpoints, tls, log, username, password }: ClusterOptions) {
    this.#runtime = runtime;
    this.#tls = tls;
    this.#connector = new Connector(runtime, endpoints, log, tls);
    this.#auth = new Authenticator(runtime, username, password);
    this.#endpoints = endpoints.length;
  }

  /**
   * One unary call, `method` as in frame.ts: etcd's answer, untouched. Rejects with EtcdFdwError; with 57014 when
   * the signal was aborted.
   */
  async call(method: number, payload: Uint8Array, terms: Terms): Promise<Uint8Array> {
    const info = knownMethod(method);
    const proves = provesQuorum(method, payload);
    return await this.#run(this.#anyMember(terms), {
      info,
      proves,
      mayBeStale: info.readonly && !proves,
      attempt: (channel, options) =>
        info.stream
          ? channel.converse(info.path, [payload], options, () => true)
          : channel.call(info.path, payload, options),
      explain: (channel, failure, options) =>
        isCompacted(failure)
          ? compactedError(channel, payload, method === Method.READ_TXN, failure, options)
          : null,
    }, terms);
  }

  /** The same of this endpoint, which is not repeated elsewhere, and which answers without a leader too. */
  async callEndpoint(
    endpoint: string,
    method: number,
    payload: Uint8Array,
    terms: Terms,
  ): Promise<Uint8Array> {
    const { path, writes } = knownMethod(method);
    const channel = this.#runtime.etcd.dial(endpoint, this.#tls);
    try {
      return await this.#run(this.#oneMember(channel, terms.signal), {
        info: { readonly: false, writes },
        proves: false,
        // What is asked for is this member's own state.
        attempt: (channel, options) => channel.call(path, payload, { ...options, leaderless: true }),
      }, { ...terms, retries: 0 });
    } finally {
      channel.close();
    }
  }

  /** What a stream tells; it is opened again as often as a read may be. Rejects as call() does. */
  async stream<T>(
    attempt: (channel: Channel, options: CallOptions) => Promise<Outcome<T>>,
    terms: Terms,
  ): Promise<T> {
    const work = { info: READ_INFO, proves: false, isLong: true, attempt };
    return await this.#run(this.#anyMember(terms), work, terms);
  }

  async #run<T>(source: Source, work: Work<T>, terms: Terms): Promise<T> {
    const { deadline, signal } = terms;
    const passes = new Passes(this.#runtime, this.#endpoints, terms);
    const acquired = source.acquire(firstWait(terms));
    // Awaiting what is there already would cost every call a turn of the event loop.
    let member = acquired instanceof Promise ? await this.#reach(acquired, source, passes, terms) : acquired;
    const { isLong } = work;
    let renewed = false;
    let leaderless: true | undefined;
    for (;;) {
      const { channel } = member;
      if (deadline.over) throw timeoutError(contextOf(channel, LOGIN_INFO, deadline));
      const startedAt = this.#runtime.now();
      const { options, failure: told, reply } = await this.#attempt(member, work, terms, leaderless);
      const failure = told && asTimeout(told, deadline);
      if (failure === undefined) {
        if (!isLong) notePace(member, this.#runtime.now() - startedAt);
        source.answered(member, work.proves);
        return reply!;
      }
      if (signal?.aborted) throw cancelled();
      if (options !== null && isStaleToken(failure) && !renewed && this.#auth.refuse(options.login)) {
        renewed = true;
        continue;
      }
      const isLogin = options === null;
      if (!isLogin) passes.begun();
      // A wait may outlive many a token.
      if (passes.endless && !isStaleToken(failure)) renewed = false;
      if (isLogin || !isLong || !isTimeout(failure)) {
        source.judge(member, failure, startedAt, work.proves || isLogin);
      }
      const better = isLogin ? null : work.explain?.(channel, failure, options) ?? null;
      if (better !== null) throw await better;
      if (work.mayBeStale && !isLogin && isLeaderless(failure) && !leaderless) {
        // When all have said so, the next one may answer what it knows.
        leaderless = passes.more() ? undefined : true;
      } else if (
        !mayRepeat(failure, work.info, isLogin) || deadline.over ||
        !(await passes.next(isMemberFailure(failure)))
      ) throw this.#error(failure, contextOf(channel, work.info, deadline), isLogin && !deadline.over);
      if (deadline.over) throw timeoutError(contextOf(channel, LOGIN_INFO, deadline));
      const next = source.acquire(firstWait(terms));
      member = next instanceof Promise ? await this.#reach(next, source, passes, terms) : next;
      if (terms.counters !== undefined) terms.counters.retries++;
    }
  }

  /** Does the work once there is a token; without options, it is the login that has failed. */
  async #attempt<T>(
    { channel, left }: Member,
    work: Work<T>,
    terms: Terms,
    leaderless: true | undefined,
  ): Promise<Outcome<T> & { options: CallOptions | null }> {
    let login = this.#auth.current;
    if (login === null) {
      const { reply, failure } = await this.#login(channel, terms);
      if (failure !== undefined) return { failure, options: null };
      login = reply!;
    }
    const { deadline } = terms;
    const signal = work.isLong
      ? AbortSignal.any([left.signal, ...(terms.signal ? [terms.signal] : [])])
      : terms.signal;
    const options = { login, deadline, signal, leaderless };
    return { ...await work.attempt(channel, options), options };
  }

  #error(failure: Failure, context: CallContext, isLogin: boolean): EtcdFdwError {
    return isLogin ? this.#auth.error(failure, context.endpoint) : errorOf(failure, context);
  }

  /** Waits for a token. That it is late is this request's failure, whatever becomes of the login. */
  #login(channel: Channel, { deadline, signal }: Terms): Promise<Outcome<Login>> {
    const late = () => new EtcdFdwError("08006", "late");
    return waitFor(this.#runtime, this.#auth.login(channel), deadline.left(), late, signal).catch(
      (error: EtcdFdwError) => ({
        failure: { code: GrpcStatus.DEADLINE_EXCEEDED, text: error.message },
      }),
    );
  }

  #anyMember(terms: Terms): Source {
    return {
      acquire: (timeoutMs) => {
        const acquired = this.#connector.acquire(timeoutMs, terms.signal);
        if (acquired instanceof Promise) {
          return acquired.then((member) => this.#noted(member, terms.counters));
        }
        return this.#noted(acquired, terms.counters);
      },
      answered: (member, proves) => this.#connector.answered(member, proves),
      judge: (member, failure, startedAt, proves) => this.#judge(member, failure, startedAt, proves),
    };
  }

  /** Counts a change of the endpoint with the first call that sees it. */
  #noted(member: Member, counters: Counters | undefined): Member {
    const { endpoint } = member.channel;
    if (endpoint === this.#lastEndpoint) return member;
    if (this.#lastEndpoint !== null && counters !== undefined) counters.failovers++;
    this.#lastEndpoint = endpoint;
    return member;
  }

  /** That it fails says nothing about the endpoint that the others use. */
  #oneMember(channel: Channel, signal?: AbortSignal): Source {
    const member = newMember(channel);
    return {
      acquire: (timeoutMs) => this.#reached(channel, timeoutMs, signal).then(() => member),
      answered: () => {},
      judge: () => {},
    };
  }

  /** Waits for an endpoint; when none could be reached, tries them all again as often as may be. */
  async #reach(attempt: Promise<Member>, source: Source, passes: Passes, terms: Terms): Promise<Member> {
    const connecting = passes.endless ? terms.deadline : terms.deadline.within(terms.connect);
    for (let next: Member | Promise<Member> = attempt;;) {
      try {
        return await next;
      } catch (error) {
        const refused = error instanceof EtcdFdwError && error.sqlstate === "08001";
        if (!refused || connecting.over || !(await passes.nextPass(connecting.left())) || connecting.over) {
          throw error;
        }
        next = source.acquire(Math.min(terms.connect, connecting.left()));
      }
    }
  }

  /** Waits until the channel is connected. Rejects with 08001. */
  async #reached(channel: Channel, timeoutMs: number, signal?: AbortSignal): Promise<void> {
    const failed = (reason: string) =>
      new EtcdFdwError("08001", `could not connect to etcd at "${channel.endpoint}"`, {
        detail: `The cause is: ${reason}.`,
      });
    const settled = new Promise<State>((resolve) => {
      const follow = (state: State) => {
        if (state === State.READY || state === State.TRANSIENT_FAILURE || state === State.SHUTDOWN) {
          return resolve(state);
        }
        channel.onChange(state === State.IDLE ? channel.connect() : state, follow);
      };
      follow(channel.connect());
    });
    const late = () => failed(`no connection within ${Math.round(timeoutMs)} ms`);
    const state = await waitFor(this.#runtime, settled, timeoutMs, late, signal);
    if (state !== State.READY) throw failed(await channel.connectError());
  }

  /** Whether there is a connection. */
  get connected(): boolean {
    return this.#connector.connected;
  }

  /** Frees all connections. Calls under way on them may still end. */
  close(): void {
    this.#connector.close();
  }

  /** Leaves an endpoint that the failure speaks against. */
  #judge(member: Member, failure: Failure, startedAt: number, proves: boolean): void {
    // A stream alone was reset; where it was the connection, its change of state tells.
    if (failure.code === GrpcStatus.CANCELLED) return;
    if (isConnectionLoss(failure) || isMemberFailure(failure)) {
      return this.#connector.drop(member, failure.text, isElection(failure) ? "leaderless" : "failed");
    }
    if (!isTimeout(failure)) return this.#connector.answered(member, false);
    // One client's haste is not the member's fault, and others use it.
    if (this.#runtime.now() - startedAt < fairTime(member)) return;
    // A peer that is stopped, not dead, keeps its connections open, and one that is cut off from its cluster answers what
    // it knows by itself: only answers of the kind that was asked for speak for it.
    const last = proves ? member.lastProof : member.lastAnswer;
    if (last < startedAt) this.#connector.drop(member, "it does not answer");
  }
}

/** A call that had so many milliseconds without an answer speaks against its member. */
const FAIR_MS = 3_000;
/** So does one that had so many times what the member's calls take otherwise, but no less than LEAST_FAIR_MS. */
const FAIR_FACTOR = 20;
const LEAST_FAIR_MS = 250;
/** The weight of the latest call in what calls take. */
const PACE_WEIGHT = 0.1;

function notePace(member: Member, took: number): void {
  member.pace = member.pace === null ? took : member.pace + (took - member.pace) * PACE_WEIGHT;
}

function fairTime({ pace }: Member): number {
  return Math.min(FAIR_MS, pace === null ? FAIR_MS : Math.max(LEAST_FAIR_MS, pace * FAIR_FACTOR));
}

/** etcd ends a call whose deadline it has seen pass too, and may be the first to. */
function asTimeout(failure: Failure, deadline: Deadline): Failure {
  if (failure.code !== GrpcStatus.CANCELLED || !deadline.over) return failure;
  return { code: GrpcStatus.DEADLINE_EXCEEDED, text: failure.text };
}

const firstWait = ({ connect, deadline }: Terms) => Math.min(connect, deadline.left());

function contextOf({ endpoint }: Channel, { writes }: { writes: boolean }, deadline: Deadline): CallContext {
  return { endpoint, writes, timeout: deadline.ms };
}

function knownMethod(method: number): MethodInfo {
  const info = methodInfo(method);
  if (info === undefined) throw new EtcdFdwError("0A000", `etcd proxy does not know method ${method}`);
  return info;
}

/** A login that failed at one member has written nothing, and another member may take it, while there is time. */
function mayRepeat(failure: Failure, info: { readonly: boolean }, isLogin: boolean): boolean {
  const repeatable = isLogin || info.readonly;
  return wasNeverSent(failure) || repeatable && (isConnectionLoss(failure) || isMemberFailure(failure)) ||
    isLogin && isTimeout(failure);
}

/** Between the passes of a call that waits for other clients, in milliseconds. */
const LEAST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 3_000;

/** How often a call may be made again: each pass asks every endpoint once. */
class Passes {
  readonly #runtime: Runtime;
  readonly #endpoints: number;
  readonly #terms: Terms;
  #failures = 0;
  #pass = 0;
  #begun = false;

  constructor(runtime: Runtime, endpoints: number, terms: Terms) {
    this.#runtime = runtime;
    this.#endpoints = endpoints;
    this.#terms = terms;
  }

  /** The call was made. */
  begun(): void {
    this.#begun = true;
  }

  /** It waits for other clients, and has begun to: neither its place nor its patience ends with a connection. */
  get endless(): boolean {
    return this.#begun && this.#terms.waits === true;
  }

  /** After a call that failed: whether this pass has a further endpoint. */
  more(): boolean {
    return ++this.#failures % this.#endpoints !== 0;
  }

  /** The same: false when there is no further call. Waits between passes only if waiting may help. */
  async next(waits: boolean): Promise<boolean> {
    if (this.more()) return true;
    return await this.nextPass(waits ? this.#terms.deadline.left() : 0);
  }

  /** After all endpoints have failed: false when there is no further pass. Waits, but not longer than this. */
  async nextPass(longestMs: number): Promise<boolean> {
    const { retries = 0, backoff = 0, signal, deadline } = this.#terms;
    this.#pass++;
    if (this.#pass > retries && !this.endless) return false;
    const pause = this.endless
      ? Math.min(Math.max(backoff, LEAST_PAUSE_MS) * this.#pass, LONGEST_PAUSE_MS, deadline.left())
      : Math.min(backoff * this.#pass, longestMs);
    if (pause > 0) await sleep(this.#runtime, pause, signal);
    if (signal?.aborted) throw cancelled();
    return true;
  }
}
