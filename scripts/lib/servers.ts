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

/** Runs a program as the servers' user. */
export async function runAs(
  user: string | null,
  command: string,
  args: string[],
  cwd: string,
): Promise<RunResult> {
  if (user === null) return await run(command, args, { cwd });
  return await run("setpriv", [
    `--reuid=${user}`,
    `--regid=${await line("id", "-g", user)}`,
    "--clear-groups",
    command,
    ...args,
  ], {
    cwd,
    env: { HOME: cwd },
  });
}

/** Hands a tree to the servers' user. */
export async function own(user: string | null, path: string): Promise<void> {
  if (user !== null) await run("chown", ["-R", `${user}:`, path]);
}

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
    `port = ${server.port}`,
    `unix_socket_directories = '${server.sockets}'`,
    "fsync = off",
    "max_connections = 50",
  ];
  await Deno.writeTextFile(`${server.data}/postgresql.conf`, settings.join("\n") + "\n", { append: true });
}

export async function startPostgres(server: PostgresServer): Promise<void> {
  const pid = await pidOf(`${server.data}/postmaster.pid`);
  if (pid !== null && await isRunning(pid, "postgres")) return;
  await runAs(
    server.user,
    `${server.bindir}/pg_ctl`,
    ["-w", "-D", server.data, "-l", server.log, "start"],
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
  const pid = await pidOf(`${server.data}/postmaster.pid`);
  if (pid === null || !(await isRunning(pid, "postgres"))) return;
  await runAs(server.user, `${server.bindir}/pg_ctl`, ["-w", "-D", server.data, "-m", mode, "stop"], "/");
}

export interface EtcdServer {
  data: string;
  port: number;
  peerPort: number;
  log: string;
  pidFile: string;
  user: string | null;
}

export async function startEtcd(server: EtcdServer): Promise<void> {
  await ensureProgram("etcd", ["etcd-server"]);
  await ensureProgram("etcdctl", ["etcd-client"]);
  const old = await pidOf(server.pidFile);
  if (old !== null && await isRunning(old, "etcd")) return;
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
  if (pid === null || !(await isRunning(pid, "etcd"))) return;
  Deno.kill(pid, "SIGTERM");
  for (let waited = 0; waited < 5000 && await isRunning(pid, "etcd"); waited += POLL_MS) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  if (await isRunning(pid, "etcd")) Deno.kill(pid, "SIGKILL");
  if (await exists(server.pidFile)) await Deno.remove(server.pidFile);
}
