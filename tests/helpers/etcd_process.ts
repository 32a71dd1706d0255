// etcd members as local processes: the provider that always works. The binaries are `etcd` and `etcdctl` on PATH, or
// ETCD_BIN and ETCDCTL_BIN. Each cluster has one temporary folder (below TMPDIR) with every member's data and log.

import { type MemberConfig, type Members, Watchdog } from "./etcd_members.ts";
import { TIMED_OUT, withTimeout } from "./wait.ts";

const etcdBinary = () => Deno.env.get("ETCD_BIN") || "etcd";
const etcdctlBinary = () => Deno.env.get("ETCDCTL_BIN") || "etcdctl";

/** Arguments that not every etcd has: no fsync where it can be left out, since tests lose no data they need. */
let optionalArgs: Promise<string[]> | undefined;

function findOptionalArgs(): Promise<string[]> {
  optionalArgs ??= (async () => {
    const { stdout, stderr } = await run(etcdBinary(), ["--help"]);
    return (stdout + stderr).includes("--unsafe-no-fsync") ? ["--unsafe-no-fsync"] : [];
  })();
  return optionalArgs;
}

interface Running {
  child: Deno.ChildProcess;
  ended: string | null;
}

export class ProcessMembers implements Members {
  readonly #running: (Running | undefined)[];
  #disposing: Promise<void> | undefined;

  private constructor(
    private readonly configs: MemberConfig[],
    private readonly dir: string,
    private readonly watchdog: Watchdog,
  ) {
    this.#running = configs.map(() => undefined);
  }

  static async create(configs: MemberConfig[]): Promise<ProcessMembers> {
    await findOptionalArgs();
    const dir = await Deno.makeTempDir({ prefix: "etcd_fdw-etcd-" });
    return new ProcessMembers(configs, dir, new Watchdog(dir, ["kill", "-9"]));
  }

  async start(member: number): Promise<void> {
    const { name, args } = this.configs[member];
    // The shell only sends the output to a file and becomes etcd: the process id is etcd's.
    const child = new Deno.Command("sh", {
      args: [
        "-c",
        'log=$1; shift; exec "$@" >>"$log" 2>&1',
        "sh",
        `${this.dir}/${name}.log`,
        etcdBinary(),
        `--data-dir=${this.dir}/${name}`,
        ...args,
        ...await findOptionalArgs(),
      ],
      // ETCD_* variables would become options of every member; ours are for this helper.
      env: withoutEtcdVariables(),
      clearEnv: true,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    const running: Running = { child, ended: null };
    child.status.then((status) => running.ended = status.signal ?? `exit code ${status.code}`);
    this.#running[member] = running;
    await this.#tellWatchdog();
  }

  #tellWatchdog(): Promise<void> {
    return this.watchdog.set(
      this.#running.flatMap((r) => r !== undefined && r.ended === null ? [r.child.pid] : []),
    );
  }

  /** The member's process id, or null when it does not run. */
  pid(member: number): number | null {
    const running = this.#running[member];
    return running === undefined || running.ended !== null ? null : running.child.pid;
  }

  #signal(member: number, signal: Deno.Signal): void {
    const pid = this.pid(member);
    if (pid !== null) Deno.kill(pid, signal);
  }

  async kill(member: number): Promise<void> {
    this.#signal(member, "SIGKILL");
    await this.#running[member]?.child.status;
    await this.#tellWatchdog();
  }

  pause(member: number): Promise<void> {
    this.#signal(member, "SIGSTOP");
    return Promise.resolve();
  }

  resume(member: number): Promise<void> {
    this.#signal(member, "SIGCONT");
    return Promise.resolve();
  }

  exited(member: number): Promise<string | null> {
    return Promise.resolve(this.#running[member]?.ended ?? null);
  }

  log(member: number): Promise<string> {
    return Deno.readTextFile(`${this.dir}/${this.configs[member].name}.log`);
  }

  dispose(): Promise<void> {
    this.#disposing ??= (async () => {
      for (let member = 0; member < this.configs.length; member++) await this.kill(member);
      await this.watchdog.finish();
    })();
    return this.#disposing;
  }
}

function withoutEtcdVariables(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(Deno.env.toObject()).filter(([name]) => !/^ETCD(CTL)?_/.test(name)),
  );
}

interface Output {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, for at most 30 seconds. Throws when there is no such program or it takes longer. */
async function run(program: string, args: string[]): Promise<Output> {
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command(program, {
      args,
      env: { ...withoutEtcdVariables(), ETCDCTL_API: "3" },
      clearEnv: true,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Error(`no program ${program}: install etcd, or set ETCD_BIN and ETCDCTL_BIN`, { cause: error });
  }
  const output = child.output();
  const done = await withTimeout(output, 30_000);
  if (done === TIMED_OUT) {
    child.kill("SIGKILL");
    await output;
    throw new Error(`${program} ${args.join(" ")} did not end within 30 s`);
  }
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code: done.code, stdout: text(done.stdout), stderr: text(done.stderr) };
}

/** Standard output of etcdctl with API 3. Throws with its standard error when it fails. */
export async function runEtcdctl(args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(etcdctlBinary(), args);
  if (code !== 0) {
    throw new Error(`etcdctl ${args.join(" ")} failed (${code}): ${stderr.trim() || stdout.trim()}`);
  }
  return stdout;
}
