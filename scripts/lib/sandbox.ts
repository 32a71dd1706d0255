// A throwaway PostgreSQL with etcd_fdw, and an etcd, in a folder of their own. The scripts and the tests use this.

import { findPostgres } from "../../build/postgres.ts";
import { ROOT } from "../../build/paths.ts";
import { line, run, StepError } from "../../build/run.ts";
import { install } from "./install.ts";
import { copyInstallation } from "./installation.ts";
import {
  type EtcdServer,
  freePort,
  initPostgres,
  own,
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
  postgres: PostgresServer;
  etcd: EtcdServer | null;
}

/** Short, since a socket's path may have 107 bytes, and the same each time for one checkout and name. */
export function sandboxFolder(root: string, name: string, base: string, uid: number): string {
  let hash = 5381;
  for (const ch of root) hash = (hash * 33 ^ ch.codePointAt(0)!) >>> 0;
  return `${base}/etcd_fdw-${uid}/${hash.toString(36)}-${name}`;
}

function folderOf(name: string): string {
  if (!/^[a-zA-Z0-9_-]{1,24}$/.test(name)) {
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

  /**
   * Makes the sandbox, or starts the one that is there. The extension is installed but not created.
   * Throws StepError when a step fails.
   */
  static async up(options: SandboxOptions = {}): Promise<Sandbox> {
    const name = options.name ?? "default";
    const engine = options.engine ?? "embedded";
    const found = await Sandbox.find(name);
    if (found !== null && found.description.engine === engine) {
      await found.start();
      return found;
    }
    if (found !== null) await found.down();
    return await Sandbox.#make(folderOf(name), engine, options);
  }

  static async #make(folder: string, engine: Engine, options: SandboxOptions): Promise<Sandbox> {
    await Deno.remove(folder, { recursive: true }).catch(() => null);
    await Deno.mkdir(folder, { recursive: true });
    const user = await serverUser();
    const pg = await findPostgres(options.pgConfig);
    const copy = await copyInstallation(pg.pgConfig, folder, engine === "plv8");
    if (!(await install(pg.pgConfig, copy)) && engine === "embedded") {
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
    const sandbox = new Sandbox(folder, { engine, postgres, etcd });
    await Deno.writeTextFile(`${folder}/sandbox.json`, JSON.stringify(sandbox.description));
    await sandbox.start();
    await sandbox.sql("CREATE DATABASE etcd_fdw", "postgres");
    if (engine === "plv8") await sandbox.sql("CREATE EXTENSION plv8");
    return sandbox;
  }

  async start(): Promise<void> {
    const { etcd, postgres } = this.description;
    if (etcd !== null) await startEtcd(etcd);
    await startPostgres(postgres);
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
    return (await run(`${this.description.postgres.bindir}/psql`, args, { env: this.env(), stdin: text }))
      .stdout;
  }

  /** psql in the foreground; its exit code. */
  async psql(args: string[]): Promise<number> {
    const options = { env: this.env(), inherit: true, mayFail: true };
    return (await run(`${this.description.postgres.bindir}/psql`, args, options)).code;
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
