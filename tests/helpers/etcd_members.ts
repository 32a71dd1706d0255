// What the two providers of etcd members have in common: the members' configuration, the interface that
// EtcdCluster drives them through, and the watchdog that cleans up when the test process dies.

import { createServer, type Server } from "node:net";

/** One member's part in the cluster. */
export interface MemberConfig {
  name: string;
  /** host:port for clients. */
  clientAddress: string;
  /** Arguments for etcd, all but --data-dir. */
  args: string[];
}

/** Members of one cluster, by number. Calls for one member never overlap. */
export interface Members {
  start(member: number): Promise<void>;
  kill(member: number): Promise<void>;
  pause(member: number): Promise<void>;
  resume(member: number): Promise<void>;
  /** How it ended, or null while it runs. */
  exited(member: number): Promise<string | null>;
  log(member: number): Promise<string>;
  /** etcdctl inside the provider, where there is one. */
  etcdctl?(member: number, args: string[]): Promise<string>;
  /** Ends and removes everything; idempotent. */
  dispose(): Promise<void>;
}

/** Configurations on free ports. The ports are not held: whoever starts the members copes with losing one. */
export async function memberConfigs(
  options: { members?: 1 | 3; quotaBytes?: number; extraArgs?: string[] },
): Promise<MemberConfig[]> {
  const count = options.members ?? 1;
  const ports = await freePorts(2 * count);
  const token = `etcd_fdw-${ports[0]}`;
  const peer = (i: number) => `http://127.0.0.1:${ports[2 * i + 1]}`;
  const initial = Array.from({ length: count }, (_, i) => `m${i}=${peer(i)}`).join(",");
  return Array.from({ length: count }, (_, i) => {
    const clientAddress = `127.0.0.1:${ports[2 * i]}`;
    const args = [
      `--name=m${i}`,
      `--listen-client-urls=http://${clientAddress}`,
      `--advertise-client-urls=http://${clientAddress}`,
      `--listen-peer-urls=${peer(i)}`,
      `--initial-advertise-peer-urls=${peer(i)}`,
      `--initial-cluster=${initial}`,
      `--initial-cluster-token=${token}`,
      "--initial-cluster-state=new",
      "--logger=zap",
    ];
    if (options.quotaBytes !== undefined) args.push(`--quota-backend-bytes=${options.quotaBytes}`);
    return { name: `m${i}`, clientAddress, args: [...args, ...(options.extraArgs ?? [])] };
  });
}

/** Loopback ports that nobody listened on a moment ago, all different. */
export async function freePorts(count: number): Promise<number[]> {
  // All are held before the first is let go, so none comes twice.
  const servers = await Promise.all(
    Array.from({ length: count }, () =>
      new Promise<Server>((resolve, reject) => {
        const server = createServer();
        server.once("error", reject);
        server.listen(0, "127.0.0.1", () => resolve(server));
      })),
  );
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** The last line counts. At the end of input: clean up what it names. `trap`: outlive a Ctrl-C at the terminal. */
const WATCHDOG = `trap '' INT TERM HUP
dir=$1; shift
ids=
while read -r line; do ids=$line; done
[ -z "$ids" ] || "$@" $ids >/dev/null 2>&1
[ -z "$dir" ] || rm -rf -- "$dir"`;

/**
 * A shell that waits for its standard input to end, which happens when this process ends, however it does, and then
 * runs `reap` with the ids it was told last and removes `dir` ("" for none).
 */
export class Watchdog {
  readonly #child: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;

  constructor(dir: string, reap: string[]) {
    this.#child = new Deno.Command("sh", {
      args: ["-c", WATCHDOG, "etcd_fdw-watchdog", dir, ...reap],
      stdin: "piped",
      stdout: "null",
      stderr: "null",
    }).spawn();
    this.#writer = this.#child.stdin.getWriter();
  }

  /** Replaces the ids to clean up. They are process numbers or container ids, without blanks. */
  async set(ids: Iterable<string | number>): Promise<void> {
    await this.#writer.write(new TextEncoder().encode([...ids].join(" ") + "\n"));
  }

  /** Lets it clean up now, and waits until it has. */
  async finish(): Promise<void> {
    await this.#writer.close();
    await this.#child.status;
  }
}
