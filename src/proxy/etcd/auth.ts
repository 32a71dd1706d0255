// Tokens of etcd's authentication, through etcd3.

import { Metadata } from "@grpc/grpc-js";
import { Etcd3 } from "etcd3";
import { EtcdFdwError } from "../../ipc/errors.ts";

export interface Login {
  username: string;
  password: string;
}

/** Fetches a token when one is needed, once for all who wait for it, and keeps it until it is refused. */
export class Authenticator {
  #metadata: Promise<Metadata> | null = null;

  constructor(readonly hosts: string[], readonly login: Login | null, readonly timeout: number) {}

  /** Metadata for a call. Rejects with EtcdFdwError 28P01 when etcd refuses the login. */
  metadata(): Promise<Metadata> {
    this.#metadata ??= this.#fetch().catch((error) => {
      this.#metadata = null;
      throw error;
    });
    return this.#metadata;
  }

  /** Forgets the token. */
  invalidate(): void {
    this.#metadata = null;
  }

  async #fetch(): Promise<Metadata> {
    const metadata = new Metadata();
    if (this.login === null) return metadata;
    const { username, password } = this.login;
    const client = new Etcd3({
      hosts: this.hosts,
      defaultCallOptions: () => ({ deadline: Date.now() + this.timeout }),
    });
    try {
      const { token } = await client.auth.authenticate({ name: username, password });
      metadata.set("token", token);
      return metadata;
    } catch (error) {
      throw loginError(error, username);
    } finally {
      client.close();
    }
  }
}

/** The error of a login, which names the user and never the password. */
export function loginError(error: unknown, username: string): EtcdFdwError {
  const text = error instanceof Error ? error.message : String(error);
  if (/authentication is not enabled/.test(text)) {
    return new EtcdFdwError(
      "28000",
      `etcd has no authentication enabled, but user "${username}" was to log in`,
      {
        hint: "Drop username and password from the server's user mapping, or enable authentication in etcd.",
      },
    );
  }
  if (/authentication failed|invalid user/.test(text)) {
    return new EtcdFdwError("28P01", `etcd refused the login of user "${username}"`, {
      hint: "Check username and password of the server's user mapping.",
    });
  }
  return new EtcdFdwError("08001", `could not log in to etcd as user "${username}"`, { detail: text });
}
