// The token of a cluster's user: got once for all calls that need it, kept until etcd refuses it. etcd checks passwords with
// bcrypt, which is slow by intent.
//
// Who waits for a token does so until his own deadline: the login itself has a time of its own, and is not ended by the
// end of the one who happened to ask first. No error and no log line may hold the password or the token.

import { EtcdFdwError } from "../../base/errors.ts";
import { Deadline } from "../deadline.ts";
import type { Runtime } from "../runtime.ts";
import type { Channel, Failure, Login, Outcome } from "./transport.ts";

const NO_LOGIN: Login = { token: null };

/** How long one login may take, in milliseconds; who has more time asks another member then. */
const LOGIN_MS = 5_000;

export class Authenticator {
  readonly #runtime: Runtime;
  readonly #username: string | undefined;
  readonly #password: string;
  #pending: { channel: Channel; outcome: Promise<Outcome<Login>> } | null = null;
  /** What calls are made with; null when it has to be asked for. */
  current: Login | null = null;

  constructor(runtime: Runtime, username: string | undefined, password: string | undefined) {
    this.#runtime = runtime;
    this.#username = username;
    this.#password = password ?? "";
    if (username === undefined) this.current = NO_LOGIN;
  }

  /** Asks for a token on this channel; those who ask while that is under way get the same. Never rejects. */
  login(channel: Channel): Promise<Outcome<Login>> {
    if (this.#pending?.channel === channel) return this.#pending.outcome;
    const pending = { channel, outcome: this.#login(channel) };
    pending.outcome.then(() => {
      if (this.#pending === pending) this.#pending = null;
    });
    this.#pending = pending;
    return pending.outcome;
  }

  async #login(channel: Channel): Promise<Outcome<Login>> {
    const deadline = Deadline.after(this.#runtime, LOGIN_MS);
    const { reply, failure } = await channel.login(this.#username!, this.#password, deadline);
    if (failure !== undefined) return { failure };
    return { reply: this.current = { token: reply! } };
  }

  /** Forgets the token that etcd has refused. False when a new one would not help: there is no user. */
  refuse(used: Login): boolean {
    if (this.#username === undefined) return false;
    // Another call may have fetched a new one in the meantime.
    if (this.current === used) this.current = null;
    return true;
  }

  /** The error for a login that failed. */
  error(failure: Failure, endpoint: string): EtcdFdwError {
    if (/authentication failed/.test(failure.text)) {
      return new EtcdFdwError("28P01", `password authentication failed for etcd user "${this.#username}"`, {
        hint: "Check username and password of the server's user mapping.",
      });
    }
    return new EtcdFdwError("08006", `could not authenticate etcd user "${this.#username}"`, {
      detail: `${endpoint} answered: ${failure.text}.`,
    });
  }
}
