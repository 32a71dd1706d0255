// Throwaway servers for the sandbox: PostgreSQL and etcd with their own data, ports and user.

import { ensureProgram } from "../../build/apt.ts";
import { exists, line, run, type RunResult, StepError } from "../../build/run.ts";

const POLL_MS = 25;
const START_MS = 30_000;

/** A TCP port on 127.0.0.1 that nobody listens on at this moment. */
export function freePort(): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  return port;
}

/** The user that the servers run as: PostgreSQL refuses to run as root. Null: the user who is there. */
export async function serverUser(): Promise<string | null> {
  if (Deno.uid() !== 0) return null;
  const { code } = await run("id", ["-u", "postgres"], { mayFail: true });
  return code === 0 ? "postgres" : "nobody";
}

/** A server's environment: nothing of the caller's that would change how it works, such as PG* and ETCD_*. */
function serverEnvironment(home: string): Record<string, string> {
  const env: Record<string, string> = { HOME: home, PATH: Deno.env.get("PATH") ?? "/usr/bin:/bin" };
  for (const name of ["LANG", "LC_ALL", "TZ"]) {
    const value = Deno.env.get(name);
    if (value !== undefined) env[name] = value;
  }
  // etcd 3.4 starts on this architecture only when told so.
  if (Deno.build.arch === "aarch64") env.ETCD_UNSUPPORTED_ARCH = "arm64";
  return env;
}

/** Runs a program as the servers' user. */
export async function runAs(
  user: string | null,
  command: string,
  args: string[],
  cwd: string,
): Promise<RunResult> {
  const options = { cwd, env: serverEnvironment(cwd), clearEnv: true, timeoutMs: 120_000 };
  if (user === null) return await run(command, args, options);
  const group = await line("id", "-g", user);
  return await run(
    "setpriv",
    [`--reuid=${user}`, `--regid=${group}`, "--clear-groups", command, ...args],
    options,
  );
}

/**
 * Hands one folder to the servers' user. Never a whole tree: what the sandbox links to is not the sandbox's.
 */
export async function own(user: string | null, path: string): Promise<void> {
  if (user !== null) await run("chown", [`${user}:`, path]);
}

/** Whether nobody listens on this port of 127.0.0.1. */
export function portIsFree(port: number): boolean {
  try {
    Deno.listen({ hostname: "127.0.0.1", port }).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) return false;
    throw error;
  }
}

/** Whether the process lives and has the folder in its command line: a pid alone may be another's by now. */
async function isRunning(pid: number, word: string): Promise<boolean> {
  const command = await Deno.readTextFile(`/proc/${pid}/cmdline`).catch(() => "");
  return command.includes(word);
}

async function pidOf(file: string): Promise<number | null> {
  const text = await Deno.readTextFile(file).catch(() => "");
  const pid = parseInt(text, 10);
  return Number.isNaN(pid) ? null : pid;
}

async function until(what: string, log: string, probe: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + START_MS;
  while (!(await probe())) {
    if (Date.now() > deadline) {
      const said = await Deno.readTextFile(log).catch(() => "");
      throw new StepError(
        `${what} did not start within ${START_MS / 1000} s\n${said.split("\n").slice(-20).join("\n")}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

export interface PostgresServer {
  bindir: string;
  data: string;
  /** Folder of its Unix socket. */
  sockets: string;
  port: number;
  log: string;
  user: string | null;
}

/** initdb with what a throwaway cluster needs. */
export async function initPostgres(server: PostgresServer, locale: string): Promise<void> {
  await runAs(server.user, `${server.bindir}/initdb`, [
    "-D",
    server.data,
    "-U",
    "postgres",
    "--auth=trust",
    "--encoding=UTF8",
    `--locale=${locale}`,
    "--no-sync",
  ], "/");
  const settings = [
    "listen_addresses = '127.0.0.1'",
    `unix_socket_directories = '${server.sockets}'`,
    "fsync = off",
    "max_connections = 50",
  ];
  await Deno.writeTextFile(`${server.data}/postgresql.conf`, settings.join("\n") + "\n", { append: true });
}

/** Whether the server's postmaster lives. */
export async function postgresRuns(server: PostgresServer): Promise<boolean> {
  const pid = await pidOf(`${server.data}/postmaster.pid`);
  return pid !== null && await isRunning(pid, server.data);
}

/** Starts the server unless it runs, and waits until it takes connections. */
export async function startPostgres(server: PostgresServer): Promise<void> {
  if (await postgresRuns(server)) return;
  await runAs(
    server.user,
    `${server.bindir}/pg_ctl`,
    ["-w", "-D", server.data, "-l", server.log, "-o", `-p ${server.port}`, "start"],
    "/",
  ).catch(
    async (error) => {
      const said = await Deno.readTextFile(server.log).catch(() => "");
      throw new StepError(`${error.message}\n${said.split("\n").slice(-20).join("\n")}`);
    },
  );
}

export async function stopPostgres(
  server: PostgresServer,
  mode: "fast" | "immediate" = "fast",
): Promise<void> {
  if (!(await postgresRuns(server))) return;
  const args = ["-w", "-t", "20", "-D", server.data, "-m", mode, "stop"];
  try {
    await runAs(server.user, `${server.bindir}/pg_ctl`, args, "/");
  } catch (error) {
    if (mode === "immediate") throw error;
    await stopPostgres(server, "immediate");
  }
}

export interface EtcdServer {
  data: string;
  port: number;
  peerPort: number;
  log: string;
  pidFile: string;
  user: string | null;
}

/** Makes sure that etcd and etcdctl are there. */
export async function ensureEtcd(): Promise<void> {
  await ensureProgram("etcd", ["etcd-server"]);
  await ensureProgram("etcdctl", ["etcd-client"]);
}

/** Whether the sandbox's etcd lives. */
export async function etcdRuns(server: EtcdServer): Promise<boolean> {
  const pid = await pidOf(server.pidFile);
  return pid !== null && await isRunning(pid, server.data);
}

/** Starts etcd unless it runs, and waits until it is healthy. */
export async function startEtcd(server: EtcdServer): Promise<void> {
  await ensureEtcd();
  if (await etcdRuns(server)) return;
  const client = `http://127.0.0.1:${server.port}`;
  const peer = `http://127.0.0.1:${server.peerPort}`;
  const args = [
    `--data-dir=${server.data}`,
    "--name=sandbox",
    `--listen-client-urls=${client}`,
    `--advertise-client-urls=${client}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=sandbox=${peer}`,
  ];
  // The shell leaves etcd behind as a process of its own, with its pid in the file.
  const script = 'log=$1 pid=$2; shift 2; setsid etcd "$@" >"$log" 2>&1 </dev/null & echo $! >"$pid"';
  await runAs(server.user, "sh", ["-c", script, "sh", server.log, server.pidFile, ...args], "/");
  await until("etcd", server.log, async () => {
    return await fetch(`${client}/health`).then(async (r) => (await r.text()).includes("true"), () => false);
  });
}

export async function stopEtcd(server: EtcdServer): Promise<void> {
  const pid = await pidOf(server.pidFile);
  if (pid === null || !(await isRunning(pid, server.data))) return;
  Deno.kill(pid, "SIGTERM");
  for (let waited = 0; waited < 5000 && await isRunning(pid, server.data); waited += POLL_MS) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  if (await isRunning(pid, server.data)) Deno.kill(pid, "SIGKILL");
  if (await exists(server.pidFile)) await Deno.remove(server.pidFile);
}
