// Three members of one etcd whose talk among themselves passes through relays, so that one of them can be cut off from the
// others while clients still reach it. Peers tell their id in a header of every request, which is how a relay knows them.
//
// Used by tests only. Every wait is bounded; stop() ends the processes whatever state the test left them in.

import { EtcdFdwError } from "../base/errors.ts";
import { freePort } from "./testing_etcd.ts";

const READY_MS = 20_000;
const START_ATTEMPTS = 5;

interface Link {
  /** The id of the member that has connected, once it has told. */
  from: string | null;
  to: number;
  close(): void;
}

/** Copies one direction until it ends; `heard` may say no. */
async function copy(from: Deno.Conn, to: Deno.Conn, heard: (chunk: Uint8Array) => boolean): Promise<void> {
  const buffer = new Uint8Array(64 * 1024);
  for (;;) {
    const count = await from.read(buffer);
    if (count === null || !heard(buffer.subarray(0, count))) return;
    for (let at = 0; at < count;) at += await to.write(buffer.subarray(at, count));
  }
}

/** Relays connections to a port of the loopback address, each after so many milliseconds. */
export function relay(
  port: number,
  delayMs = 0,
  opened: (link: { close(): void }) => (chunk: Uint8Array) => boolean = () => () => true,
  listenAt = 0,
): { port: number; stop(): void } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: listenAt });
  const links = new Set<{ close(): void }>();
  const serve = async (client: Deno.Conn) => {
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    const server = await Deno.connect({ hostname: "127.0.0.1", port }).catch(() => null);
    if (server === null) return client.close();
    const close = () => {
      links.delete(link);
      for (const end of [client, server]) {
        try {
          end.close();
        } catch {
          // It is closed already.
        }
      }
    };
    const link = { close };
    links.add(link);
    const heard = opened(link);
    const ends = [copy(client, server, heard), copy(server, client, () => true)];
    for (const end of ends) end.catch(() => {}).finally(close);
  };
  (async () => {
    for await (const client of listener) void serve(client);
  })().catch(() => {});
  const stop = () => {
    listener.close();
    for (const link of [...links]) link.close();
  };
  return { port: listener.addr.port, stop };
}

export class TestMembers {
  readonly #directory: string;
  readonly #clients: number[];
  readonly #processes: Deno.ChildProcess[] = [];
  readonly #ended = new Set<Deno.ChildProcess>();
  readonly #relays: { stop(): void }[] = [];
  readonly #links = new Set<Link>();
  #ids: string[] = [];
  #cut: number | "all" | null = null;

  private constructor(directory: string, clients: number[]) {
    this.#directory = directory;
    this.#clients = clients;
  }

  get endpoints(): string[] {
    return this.#clients.map((port) => `127.0.0.1:${port}`);
  }

  /** Starts them and waits until they serve; again, on other ports, when one ends because somebody else has taken its own. */
  static async start(): Promise<TestMembers> {
    for (let attempt = 1;; attempt++) {
      const directory = await Deno.makeTempDir({ prefix: "etcd_fdw_members_" });
      const members = new TestMembers(directory, [freePort(), freePort(), freePort()]);
      try {
        await members.#start();
        return members;
      } catch (error) {
        const lostRace = members.#ended.size > 0;
        await members.stop();
        if (!lostRace || attempt === START_ATTEMPTS) throw error;
      }
    }
  }

  async #start(): Promise<void> {
    const peers = [freePort(), freePort(), freePort()];
    const advertised = peers.map((port, to) => {
      const one = relay(port, 0, (link) => this.#linked(link, to));
      this.#relays.push(one);
      return `http://127.0.0.1:${one.port}`;
    });
    const initial = advertised.map((url, i) => `m${i}=${url}`).join(",");
    peers.forEach((port, i) => {
      const client = `http://${this.endpoints[i]}`;
      this.#processes.push(
        new Deno.Command("etcd", {
          args: [
            ["--name", `m${i}`, "--data-dir", `${this.#directory}/${i}`, "--log-level", "error"],
            ["--unsafe-no-fsync", "--listen-client-urls", client, "--advertise-client-urls", client],
            ["--listen-peer-urls", `http://127.0.0.1:${port}`, "--initial-cluster", initial],
            ["--initial-advertise-peer-urls", advertised[i]],
          ].flat(),
          stdout: "null",
          stderr: "null",
        }).spawn(),
      );
    });
    for (const process of this.#processes) void process.status.then(() => this.#ended.add(process));
    const served = await Promise.allSettled(this.endpoints.map((_, i) => this.served(i, [])));
    for (const one of served) if (one.status === "rejected") throw one.reason;
    const list = (await this.ctl(0, "member", "list")).trim().split("\n").map((line) => line.split(", "));
    this.#ids = this.endpoints.map((_, i) => list.find(([, , name]) => name === `m${i}`)![0]);
  }

  #linked({ close }: { close(): void }, to: number): (chunk: Uint8Array) => boolean {
    const link: Link = { from: null, to, close };
    this.#links.add(link);
    return (chunk) => {
      const told = /X-Server-From: ([0-9a-f]+)/i.exec(new TextDecoder("latin1").decode(chunk));
      if (told !== null) link.from = told[1];
      return this.#cut === null || !this.#concerns(link, this.#cut);
    };
  }

  #concerns({ from, to }: Link, member: number | "all"): boolean {
    if (member === "all") return true;
    return to === member || from === this.#ids[member];
  }

  /** Lets this member neither hear nor be heard by the others; or each of them. */
  cut(member: number | "all"): void {
    this.#cut = member;
    for (const link of [...this.#links]) {
      // One that has not told yet whose it is connects again.
      if (link.from !== null && !this.#concerns(link, member)) continue;
      this.#links.delete(link);
      link.close();
    }
  }

  mend(): void {
    this.#cut = null;
  }

  /** Lets this member lead, or any other one. `user`: etcdctl's arguments for authentication. */
  async lead(member: number, leads: boolean, user: string[]): Promise<void> {
    const chosen = this.#ids[leads ? member : (member + 1) % 3];
    // Only the one that leads now can be asked to.
    for (const i of [0, 1, 2]) await this.ctl(i, ...user, "move-leader", chosen).catch(() => {});
    const [, , , , isLeader] = (await this.ctl(member, ...user, "endpoint", "status")).split(", ");
    if (isLeader !== String(leads)) throw new EtcdFdwError("XX000", "the leadership has not moved");
    await this.served(member, user);
  }

  /** Waits until this member answers for its cluster. Throws EtcdFdwError when it does not within 20 s. */
  async served(member: number, user: string[]): Promise<void> {
    for (const end = Date.now() + READY_MS;;) {
      try {
        return void await this.ctl(member, ...user, "get", "x");
      } catch (error) {
        if (this.#ended.has(this.#processes[member]) || Date.now() > end) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  /** Sends one member the signal: SIGSTOP makes it silent, SIGCONT wakes it. */
  signal(member: number, signal: Deno.Signal): void {
    this.#processes[member].kill(signal);
  }

  /** Runs etcdctl against one member. Throws EtcdFdwError XX000 with its output when it fails. */
  async ctl(member: number, ...args: string[]): Promise<string> {
    const { success, stdout, stderr } = await new Deno.Command("etcdctl", {
      args: ["--endpoints", this.endpoints[member], ...args],
      env: { ETCDCTL_API: "3" },
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    if (!success) throw new EtcdFdwError("XX000", `etcdctl ${args[0]} failed: ${text(stderr)}`);
    return text(stdout);
  }

  async stop(): Promise<void> {
    for (const process of this.#processes) {
      if (!this.#ended.has(process)) process.kill("SIGKILL");
      await process.status;
    }
    for (const one of this.#relays) one.stop();
    await Deno.remove(this.#directory, { recursive: true });
  }
}
