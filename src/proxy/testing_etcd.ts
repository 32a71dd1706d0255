// An etcd of its own for a test, on free ports of the loopback address, with its data in a temporary directory.
//
// Used by tests only. Every wait is bounded; stop() ends the process whatever state the test left it in.

import { EtcdFdwError } from "../base/errors.ts";

const READY_MS = 15_000;

/** A port that was free a moment ago. */
export function freePort(): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  try {
    return listener.addr.port;
  } finally {
    listener.close();
  }
}

export class TestEtcd {
  readonly endpoint: string;
  /** The listener that speaks TLS, by name and by address; empty without certificates. */
  readonly secure: { name: string; address: string };
  readonly #tls: EtcdTls | undefined;
  readonly #directory: string;
  readonly #ports: readonly number[];
  #process: Deno.ChildProcess | null = null;

  private constructor(directory: string, ports: readonly number[], tls: EtcdTls | undefined) {
    this.#directory = directory;
    this.#ports = ports;
    this.#tls = tls;
    this.endpoint = `127.0.0.1:${ports[0]}`;
    this.secure = { name: `localhost:${ports[2]}`, address: `127.0.0.1:${ports[2]}` };
  }

  /** Starts one member and waits until it serves. Throws EtcdFdwError 08001 when it does not within 15 s. */
  static async start(tls?: EtcdTls): Promise<TestEtcd> {
    const directory = await Deno.makeTempDir({ prefix: "etcd_fdw_test_" });
    const etcd = new TestEtcd(directory, [freePort(), freePort(), freePort()], tls);
    await etcd.restart();
    return etcd;
  }

  /** Starts it again, on the same port with the same data, after {@linkcode TestEtcd.kill}. */
  async restart(): Promise<void> {
    const [client, peer] = this.#ports.map((port) => `http://127.0.0.1:${port}`);
    const clients = this.#tls ? `${client},https://${this.secure.address}` : client;
    this.#process = new Deno.Command("etcd", {
      args: [
        ["--name", "m", "--data-dir", this.#directory, "--log-level", "error", "--unsafe-no-fsync"],
        ["--listen-client-urls", clients, "--advertise-client-urls", clients],
        tlsArgs(this.#tls),
        ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", `m=${peer}`],
      ].flat(),
      stdout: "null",
      stderr: "null",
    }).spawn();
    const end = Date.now() + READY_MS;
    while (!(await this.#serves())) {
      if (Date.now() > end) {
        await this.stop();
        throw new EtcdFdwError("08001", `etcd on ${this.endpoint} did not start`);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async #serves(): Promise<boolean> {
    try {
      const reply = await fetch(`http://${this.endpoint}/health`, { signal: AbortSignal.timeout(1000) });
      return (await reply.text()).includes("true");
    } catch {
      return false;
    }
  }

  /** Sends the signal: SIGSTOP makes it silent, and is waited for, since it is sent before it is obeyed; SIGCONT wakes it. */
  signal(signal: Deno.Signal): void {
    const process = this.#process;
    process?.kill(signal);
    if (process === null || signal !== "SIGSTOP") return;
    const deadline = Date.now() + 5000;
    while (!allThreadsStopped(process.pid)) {
      if (Date.now() > deadline) throw new Error(`etcd ${process.pid} did not stop`);
    }
  }

  /** Ends it at once, as a crash does. */
  async kill(): Promise<void> {
    const process = this.#process;
    this.#process = null;
    process?.kill("SIGKILL");
    await process?.status;
  }

  /** Ends it and starts it again without its data: what a restore of an old backup leaves. */
  async forget(): Promise<void> {
    await this.kill();
    await Deno.remove(`${this.#directory}/member`, { recursive: true });
    await this.restart();
  }

  /** Ends it and removes its data. */
  async stop(): Promise<void> {
    await this.kill();
    await Deno.remove(this.#directory, { recursive: true });
  }

  /** Runs etcdctl against it. Throws EtcdFdwError XX000 with its output when it fails. */
  async ctl(...args: string[]): Promise<string> {
    const { success, stdout, stderr } = await new Deno.Command("etcdctl", {
      args: ["--endpoints", this.endpoint, ...args],
      env: { ETCDCTL_API: "3" },
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    if (!success) throw new EtcdFdwError("XX000", `etcdctl ${args[0]} failed: ${text(stderr)}`);
    return text(stdout);
  }
}

/** Files in PEM format. */
export interface EtcdTls {
  cert: string;
  key: string;
  /** Clients must show a certificate of this authority. */
  clientCa?: string;
}

function tlsArgs(tls: EtcdTls | undefined): string[] {
  if (tls === undefined) return [];
  const files = ["--cert-file", tls.cert, "--key-file", tls.key];
  return tls.clientCa ? [...files, "--trusted-ca-file", tls.clientCa, "--client-cert-auth"] : files;
}

/** A TCP server that accepts and never says a word: what a black hole looks like to a client. */
export function silentServer(): { endpoint: string; stop: () => void } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const connections: Deno.Conn[] = [];
  (async () => {
    for await (const connection of listener) connections.push(connection);
  })().catch(() => {});
  const stop = () => {
    listener.close();
    for (const connection of connections) connection.close();
  };
  return { endpoint: `127.0.0.1:${listener.addr.port}`, stop };
}

function allThreadsStopped(pid: number): boolean {
  for (const task of Deno.readDirSync(`/proc/${pid}/task`)) {
    // The state follows the command's name, which stands in parentheses.
    if (!/\) [tT] [^)]*$/.test(Deno.readTextFileSync(`/proc/${pid}/task/${task.name}/stat`))) return false;
  }
  return true;
}
