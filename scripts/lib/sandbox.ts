// A throwaway PostgreSQL with etcd_fdw, and an etcd, in a folder of their own. The scripts and the tests use this.

import { findPostgres } from "../../build/postgres.ts";
import { ROOT } from "../../build/paths.ts";
import { exists, line, locked, run, StepError } from "../../build/run.ts";
import { install } from "./install.ts";
import { copyInstallation } from "./installation.ts";
import {
  etcdRuns,
  type EtcdServer,
  freePort,
  initPostgres,
  own,
  portIsFree,
  postgresRuns,
  type PostgresServer,
  serverUser,
  startEtcd,
  startPostgres,
  stopEtcd,
  stopPostgres,
} from "./servers.ts";

export type Engine = "embedded" | "plv8";

export interface SandboxOptions {
  name?: string;
  engine?: Engine;
  pgConfig?: string;
  /** Of the cluster; C.UTF-8 unless given. */
  locale?: string;
  /** False: no etcd, for tests that start their own. */
  etcd?: boolean;
}

interface Description {
  engine: Engine;
  /** pg_config of the installation that was copied, and of the copy. */
  pgConfig: string;
  copy: string;
  postgres: PostgresServer;
  etcd: EtcdServer | null;
}

/** What a socket's path may have, less what stands after the folder in it. */
const LONGEST_FOLDER = 107 - "/.s.PGSQL.65535".length;
const LONGEST_NAME = 40;

/**
 * Short, since a socket's path may have 107 bytes, and the same each time for one checkout and name. A base that is too
 * long is replaced by /tmp.
 */
export function sandboxFolder(root: string, name: string, base: string, uid: number): string {
  let hash = 5381;
  for (const ch of root) hash = (hash * 33 ^ ch.codePointAt(0)!) >>> 0;
  const below = `etcd_fdw-${uid}/${hash.toString(36)}-${name}`;
  const folder = `${base.replace(/\/+$/, "")}/${below}`;
  // All of a checkout's stand side by side, whatever their names are.
  return folder.length - name.length + LONGEST_NAME <= LONGEST_FOLDER ? folder : `/tmp/${below}`;
}

/** The name of a sandbox that belongs to a process. */
export const ownName = (name: string, pid: number) => `test${pid}-${name}`;

/** The process that the sandbox of this name belongs to; null for one that is there until somebody takes it down. */
export function ownerOf(name: string): number | null {
  const match = /^test(\d+)-/.exec(name);
  return match && Number(match[1]);
}

const parentOf = (folder: string) => folder.slice(0, folder.lastIndexOf("/"));

/** Makes the folder that all sandboxes of this user stand in; others may look through it, and nobody else owns it. */
async function makeParent(folder: string): Promise<void> {
  const parent = parentOf(folder);
  await Deno.mkdir(parent, { recursive: true });
  const info = await Deno.lstat(parent);
  if (!info.isDirectory || info.uid !== Deno.uid()) {
    throw new StepError(`${parent} belongs to another user: remove it, or set TMPDIR`);
  }
  // The servers' user must get through, whatever the umask is.
  await Deno.chmod(parent, 0o755);
}

function folderOf(name: string): string {
  if (!/^[a-zA-Z0-9_-]+$/.test(name) || name.length > LONGEST_NAME) {
    throw new StepError(`"${name}" is no name for a sandbox: letters, digits, - and _`);
  }
  return sandboxFolder(ROOT, name, Deno.env.get("TMPDIR") || "/tmp", Deno.uid() ?? 0);
}

export class Sandbox {
  private constructor(readonly folder: string, readonly description: Description) {}

  /** The sandbox of this name, running or not; null when there is none. */
  static async find(name = "default"): Promise<Sandbox | null> {
    const folder = folderOf(name);
    const text = await Deno.readTextFile(`${folder}/sandbox.json`).catch(() => null);
    return text === null ? null : new Sandbox(folder, JSON.parse(text));
  }

  /** Makes a sandbox that is this process's own: others let it be as long as the process lives. */
  static async own(name: string, options: Omit<SandboxOptions, "name"> = {}): Promise<Sandbox> {
    await Sandbox.removeAbandoned();
    const mine = ownName(name, Deno.pid);
    // Of a process that had the same number.
    await (await Sandbox.find(mine))?.down();
    return await Sandbox.up({ ...options, name: mine });
  }

  /** Takes down this checkout's sandboxes of processes that have ended before they could do it themselves. */
  static async removeAbandoned(): Promise<void> {
    const start = folderOf("x").slice(0, -1);
    await makeParent(start);
    const parent = parentOf(start);
    await locked(`${parent}/lock`, async () => {
      const paths = (await Array.fromAsync(Deno.readDir(parent))).map(({ name }) => `${parent}/${name}`);
      for (const path of paths.filter((path) => path.startsWith(start))) {
        const name = path.slice(start.length);
        const owner = ownerOf(name);
        // A number that another process has by now leaves the sandbox there until the next time.
        if (owner === null || await exists(`/proc/${owner}`)) continue;
        await (await Sandbox.find(name))?.down();
        if (await exists(path)) await Deno.remove(path, { recursive: true });
      }
    });
  }

  /**
   * Makes the sandbox, or starts the one that is there with what the checkout builds now. The extension is installed but not
   * created. Throws StepError when a step fails.
   */
  static async up(options: SandboxOptions = {}): Promise<Sandbox> {
    const name = options.name ?? "default";
    const found = await Sandbox.find(name);
    if (found === null) return await Sandbox.#make(folderOf(name), options.engine ?? "embedded", options);
    const { engine, pgConfig } = found.description;
    if (options.engine !== undefined && options.engine !== engine) {
      throw new StepError(
        `the sandbox "${name}" is for the engine ${engine}: take it down first, or use another --name`,
      );
    }
    if (options.pgConfig !== undefined && options.pgConfig !== pgConfig) {
      throw new StepError(
        `the sandbox "${name}" is for ${pgConfig}: take it down first, or use another --name`,
      );
    }
    await found.#update();
    await found.start();
    return found;
  }

  /** Installs the present build; a server that runs with another one is stopped. */
  async #update(): Promise<void> {
    const { copy, pgConfig, postgres } = this.description;
    const files = [
      await line(copy, "--pkglibdir") + "/etcd_fdw.so",
      await line(copy, "--sharedir") + "/etcd_fdw/proxy.js",
    ];
    const sum = async () => (await run("sha256sum", files, { mayFail: true })).stdout;
    const before = await sum();
    await install({ pgConfig, into: copy, link: true });
    if (before !== await sum()) await stopPostgres(postgres);
  }

  static async #make(folder: string, engine: Engine, options: SandboxOptions): Promise<Sandbox> {
    const user = await serverUser();
    const pg = await findPostgres(options.pgConfig);
    await makeParent(folder);
    await Deno.remove(folder, { recursive: true }).catch(() => null);
    await Deno.mkdir(folder);
    await Deno.chmod(folder, 0o755);
    const copy = await copyInstallation(pg.pgConfig, folder, engine === "plv8");
    if (!(await install({ pgConfig: pg.pgConfig, into: copy, link: true })) && engine === "embedded") {
      throw new StepError("this build has no embedded engine: use --engine plv8");
    }
    const postgres: PostgresServer = {
      bindir: await line(copy, "--bindir"),
      data: `${folder}/data`,
      sockets: folder,
      port: freePort(),
      log: `${folder}/postgres.log`,
      user,
    };
    const etcd: EtcdServer | null = options.etcd === false ? null : {
      data: `${folder}/etcd`,
      port: freePort(),
      peerPort: freePort(),
      log: `${folder}/etcd.log`,
      pidFile: `${folder}/etcd.pid`,
      user,
    };
    await own(user, folder);
    await initPostgres(postgres, options.locale ?? "C.UTF-8");
    const sandbox = new Sandbox(folder, { engine, pgConfig: pg.pgConfig, copy, postgres, etcd });
    await sandbox.#save();
    try {
      await sandbox.start();
      await sandbox.sql("CREATE DATABASE etcd_fdw", "postgres");
      if (engine === "plv8") await sandbox.sql("CREATE EXTENSION plv8");
    } catch (error) {
      // Half a sandbox would be taken for a whole one the next time.
      await sandbox.down();
      throw error;
    }
    return sandbox;
  }

  async #save(): Promise<void> {
    await Deno.writeTextFile(`${this.folder}/sandbox.json`, JSON.stringify(this.description));
  }

  /** Starts what does not run. A port that another program has taken meanwhile is replaced by a free one. */
  async start(): Promise<void> {
    const { etcd, postgres } = this.description;
    if (etcd !== null && !(await etcdRuns(etcd))) {
      for (const key of ["port", "peerPort"] as const) if (!portIsFree(etcd[key])) etcd[key] = freePort();
      await this.#save();
      await startEtcd(etcd);
    }
    if (!(await postgresRuns(postgres))) {
      if (!portIsFree(postgres.port)) postgres.port = freePort();
      await this.#save();
      await startPostgres(postgres);
    }
  }

  /** Stops the servers and removes everything. */
  async down(): Promise<void> {
    const { etcd, postgres } = this.description;
    await stopPostgres(postgres, "immediate");
    if (etcd !== null) await stopEtcd(etcd);
    await Deno.remove(this.folder, { recursive: true });
  }

  get endpoint(): string {
    const { etcd } = this.description;
    return etcd === null ? "" : `127.0.0.1:${etcd.port}`;
  }

  /** What a client needs, by the names of the environment variables. */
  env(): Record<string, string> {
    const { postgres } = this.description;
    return {
      PGHOST: postgres.sockets,
      PGPORT: String(postgres.port),
      PGUSER: "postgres",
      PGDATABASE: "etcd_fdw",
      ETCD_ENDPOINT: this.endpoint,
    };
  }

  /** Runs SQL through psql, stopping at the first error; returns what psql printed. */
  async sql(text: string, database = "etcd_fdw"): Promise<string> {
    const args = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"];
    return (await run(this.psqlPath, args, { env: this.env(), stdin: text }))
      .stdout;
  }

  get psqlPath(): string {
    return `${this.description.postgres.bindir}/psql`;
  }

  /** psql in the foreground; its exit code. */
  async psql(args: string[]): Promise<number> {
    const options = { env: this.env(), inherit: true, mayFail: true };
    return (await run(this.psqlPath, args, options)).code;
  }

  /** The extension and a server for the sandbox's etcd, unless they are there. */
  async createServer(): Promise<void> {
    await this.sql(`
      SET client_min_messages = warning;
      CREATE EXTENSION IF NOT EXISTS etcd_fdw;
      CREATE SERVER IF NOT EXISTS etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${this.endpoint}');
      ALTER SERVER etcd OPTIONS (SET connstr '${this.endpoint}');`);
  }
}
