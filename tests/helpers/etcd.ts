// A real etcd for tests: one member or three, behind one interface, as local processes or as containers.
//
//   await using etcd = await startEtcd({ members: 3 });
//   await etcd.put("/a", "1");
//
// Local processes are the provider that always works; containers need a Docker daemon and are asked for with
// `provider: "testcontainers"` or ETCD_PROVIDER. Everything listens on 127.0.0.1 on ports that were free a moment
// ago; when another program takes one first, the start is repeated with others. Only what etcd 3.4 has is used.

import { type Bytes, EtcdClient, type KeyValue } from "./etcd_client.ts";
import { ContainerMembers } from "./etcd_containers.ts";
import { type MemberConfig, memberConfigs, type Members } from "./etcd_members.ts";
import { ProcessMembers, runEtcdctl } from "./etcd_process.ts";
import { delay, waitFor } from "./wait.ts";

export type { Bytes, KeyValue };

export type EtcdProvider = "process" | "testcontainers";

export interface EtcdOptions {
  /** Default 1. */
  members?: 1 | 3;
  /** Default: ETCD_PROVIDER, else "process". */
  provider?: EtcdProvider;
  /** --quota-backend-bytes; default etcd's own. */
  quotaBytes?: number;
  /** More arguments for every member. */
  extraArgs?: string[];
}

const START_ATTEMPTS = 5;
const READY_MS = 30_000;

/** Starts etcd and waits until every member answers linearizable reads. Throws with etcd's log when it does not. */
export async function startEtcd(options: EtcdOptions = {}): Promise<EtcdCluster> {
  const provider = options.provider ?? providerFromEnv();
  for (let attempt = 1;; attempt++) {
    const configs = await memberConfigs(options);
    const members: Members = provider === "process"
      ? await ProcessMembers.create(configs)
      : await ContainerMembers.create(configs);
    const cluster = new EtcdCluster(provider, configs, members);
    try {
      await cluster.startAll();
      return cluster;
    } catch (error) {
      const logs = await Promise.all(configs.map((_, i) => members.log(i).catch(() => "")));
      await cluster.stop();
      const lostRace = logs.some((log) => /address already in use/.test(log));
      if (lostRace && attempt < START_ATTEMPTS) continue;
      const tails = logs.map((log, i) => `--- member ${i}\n${log.slice(-1500)}`).join("\n");
      throw new Error(`etcd (${provider}) did not start: ${(error as Error).message}\n${tails}`, {
        cause: error,
      });
    }
  }
}

function providerFromEnv(): EtcdProvider {
  const name = Deno.env.get("ETCD_PROVIDER") || "process";
  if (name !== "process" && name !== "testcontainers") {
    throw new Error(`ETCD_PROVIDER is "${name}"; it can be "process" or "testcontainers"`);
  }
  return name;
}

type MemberState = "up" | "paused" | "down";

/** A running etcd. Members are numbered from 0; all calls reach whichever member is up, and repeat for 20 s. */
export class EtcdCluster implements AsyncDisposable {
  /** host:port of each member's client listener. */
  readonly endpoints: string[];
  readonly client: EtcdClient;
  readonly #states: MemberState[];
  #stopping: Promise<void> | undefined;

  /** Use {@linkcode startEtcd}. */
  constructor(readonly provider: EtcdProvider, configs: MemberConfig[], private readonly members: Members) {
    this.endpoints = configs.map((config) => config.clientAddress);
    this.#states = configs.map(() => "down");
    this.client = new EtcdClient(this.endpoints, (member) => this.#states[member] === "up");
  }

  /** All endpoints as the `connstr` option of a foreign server takes them. */
  get connstr(): string {
    return this.endpoints.join(",");
  }

  /** CREATE SERVER for this cluster; `options` are further server options. */
  createServerSql(name = "etcd", options: Record<string, string> = {}): string {
    const literal = (text: string) => `'${text.replaceAll("'", "''")}'`;
    const list = Object.entries({ connstr: this.connstr, ...options })
      .map(([option, value]) => `${option} ${literal(value)}`).join(", ");
    return `CREATE SERVER "${name.replaceAll('"', '""')}" FOREIGN DATA WRAPPER etcd_fdw OPTIONS (${list})`;
  }

  /** @internal Part of startEtcd. */
  async startAll(): Promise<void> {
    await Promise.all(this.endpoints.map((_, member) => this.#start(member)));
    await Promise.all(this.endpoints.map((_, member) => this.#ready(member)));
  }

  async #start(member: number): Promise<void> {
    await this.members.start(member);
    this.#states[member] = "up";
  }

  async #ready(member: number): Promise<void> {
    const probe = async () => {
      const gone = await this.members.exited(member);
      if (gone !== null) return { gone };
      // A Range of the key NUL: linearizable, so it needs a leader.
      await this.client.callMember(member, "/etcdserverpb.KV/Range", Uint8Array.of(0x0a, 1, 0), 1000);
      return { gone: null };
    };
    const { gone } = await waitFor(`member ${member} of etcd`, probe, { timeoutMs: READY_MS });
    if (gone !== null) throw new Error(`member ${member} ended at once: ${gone}`);
  }

  put(key: Bytes, value: Bytes): Promise<bigint> {
    return this.client.put(key, value);
  }

  /** See {@linkcode EtcdClient.putMany}: in no order, each key once. */
  putMany(entries: Iterable<readonly [Bytes, Bytes]>): Promise<void> {
    return this.client.putMany(entries);
  }

  get(key: Bytes): Promise<KeyValue | null> {
    return this.client.get(key);
  }

  /** Number of keys deleted. */
  delete(key: Bytes): Promise<number> {
    return this.client.delete(key);
  }

  /** Deletes every key, so that tests can share a cluster. */
  clear(): Promise<number> {
    return this.client.deletePrefix("");
  }

  revision(): Promise<bigint> {
    return this.client.revision();
  }

  compact(revision: bigint | number): Promise<void> {
    return this.client.compact(revision);
  }

  /** Runs etcdctl with API 3 against the members that are up; its standard output. Throws with its standard error. */
  async ctl(...args: string[]): Promise<string> {
    const up = this.endpoints.filter((_, member) => this.#states[member] === "up");
    const withEndpoints = [`--endpoints=${up.join(",")}`, ...args];
    const member = this.#states.indexOf("up");
    if (this.members.etcdctl && member >= 0) return await this.members.etcdctl(member, withEndpoints);
    return await runEtcdctl(withEndpoints);
  }

  /** Number of the member that leads, by what the members that are up say. Waits for an election. */
  async leader(): Promise<number> {
    const found = await waitFor("a leader", async () => {
      const ups = this.#states.flatMap((state, member) => state === "up" ? [member] : []);
      const statuses = await Promise.all(ups.map((member) => this.client.status(member)));
      const at = statuses.findIndex((status) => status.memberId === status.leader);
      const agreed = at >= 0 && statuses.every((status) => status.leader === statuses[at].leader);
      return agreed ? { member: ups[at] } : null;
    }, { timeoutMs: 15_000 });
    return found.member;
  }

  /** Stops one member (all of them by default) from running, connections left open. */
  async pause(member?: number): Promise<void> {
    await this.#each(member, "up", "paused", (i) => this.members.pause(i));
  }

  async resume(member?: number): Promise<void> {
    await this.#each(member, "paused", "up", (i) => this.members.resume(i));
  }

  async #each(
    member: number | undefined,
    from: MemberState,
    to: MemberState,
    act: (member: number) => Promise<void>,
  ): Promise<void> {
    const chosen = member === undefined ? this.endpoints.map((_, i) => i) : [member];
    for (const i of chosen) {
      if (this.#states[i] !== from) continue;
      this.#states[i] = to;
      await act(i);
    }
  }

  /** Ends a member as a crash does (SIGKILL). Its data and its ports stay its own. */
  async kill(member: number): Promise<void> {
    if (this.#states[member] === "down") return;
    this.#states[member] = "down";
    await this.members.kill(member);
  }

  /** Starts a member again on the same ports and data, after killing it if it runs, and waits until it answers. */
  async restart(member: number): Promise<void> {
    await this.kill(member);
    // Nothing else should have taken the ports meanwhile, but connections of the old process may linger.
    for (let attempt = 1;; attempt++) {
      await this.#start(member);
      try {
        return await this.#ready(member);
      } catch (error) {
        await this.kill(member);
        if (attempt === 3) throw error;
        await delay(200);
      }
    }
  }

  /** What a member has written to its log. */
  log(member: number): Promise<string> {
    return this.members.log(member);
  }

  /** Ends all members and removes their data. May be called more than once. */
  stop(): Promise<void> {
    this.#stopping ??= (async () => {
      this.client.close();
      this.#states.fill("down");
      await this.members.dispose();
    })();
    return this.#stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
