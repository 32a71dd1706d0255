// The token of a cluster's user: got with etcd3's Authenticate, kept until etcd refuses it.
//
// One request for a token serves all calls that need one: etcd checks passwords with bcrypt, which is slow by
// intent. etcd3 is loaded only when there is a user to authenticate, since it takes longer to load than
// everything else here together. No error and no log line may hold the password or the token.

import { EtcdFdwError } from "../../base/errors.ts";
import { type Channel, Metadata } from "./channel.ts";

const NO_TOKEN = new Metadata();

/** Asks for a token; null when etcd has authentication switched off. Rejects with EtcdFdwError. */
export type FetchToken = (
  channel: Channel,
  username: string,
  password: string,
  deadline: number,
) => Promise<string | null>;

export class Authenticator {
  readonly #username: string | undefined;
  readonly #password: string;
  readonly #fetch: FetchToken;
  #current: Metadata | null = null;
  #pending: Promise<Metadata> | null = null;

  constructor(username: string | undefined, password: string | undefined, fetch: FetchToken = fetchToken) {
    this.#username = username;
    this.#password = password ?? "";
    this.#fetch = fetch;
    if (username === undefined) this.#current = NO_TOKEN;
  }

  /** Metadata for a call, at once when the token is there. Rejects with EtcdFdwError 28P01 or 08006. */
  metadata(channel: Channel, deadline: number): Metadata | Promise<Metadata> {
    return this.#current ?? (this.#pending ??= this.#authenticate(channel, deadline));
  }

  /** Forgets the token that etcd has refused. False when a new one would not help: there is no user. */
  refuse(used: Metadata): boolean {
    if (this.#username === undefined) return false;
    // Another call may have fetched a new one in the meantime.
    if (this.#current === used) this.#current = null;
    return true;
  }

  async #authenticate(channel: Channel, deadline: number): Promise<Metadata> {
    try {
      const token = await this.#fetch(channel, this.#username!, this.#password, deadline);
      const metadata = new Metadata();
      if (token !== null) metadata.set("token", token);
      return this.#current = metadata;
    } finally {
      this.#pending = null;
    }
  }
}

/** Fetches a token through etcd3, on this channel. The deadline is in milliseconds since the epoch. */
export const fetchToken: FetchToken = async (channel, username, password, deadline) => {
  const { Etcd3, EtcdAuthenticationFailedError } = await import("etcd3");
  const client = new Etcd3(channel.etcd3Options());
  try {
    const { token } = await client.auth.authenticate({ name: username, password }, { deadline });
    return token;
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    if (text.includes("authentication is not enabled")) return null;
    if (error instanceof EtcdAuthenticationFailedError) {
      throw new EtcdFdwError("28P01", `password authentication failed for etcd user "${username}"`, {
        hint: "Check username and password of the server's user mapping.",
      });
    }
    throw new EtcdFdwError("08006", `could not authenticate etcd user "${username}"`, {
      detail: `${channel.endpoint} answered: ${text}.`,
    });
  }
};
