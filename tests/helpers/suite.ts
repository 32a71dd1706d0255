// What a file of integration tests stands on: a PostgreSQL of its own with etcd_fdw on the engine under test, and an etcd of
// its own. Both are gone when the file's tests are done.

import { type Engine, Sandbox } from "../../scripts/lib/sandbox.ts";
import { Database } from "./database.ts";
import { type EtcdCluster, type EtcdOptions, startEtcd } from "./etcd.ts";

export interface SuiteOptions extends EtcdOptions {
  /** False: no etcd; `etcd` must not be touched. */
  etcd?: boolean;
  locale?: string;
}

export interface Suite {
  db: Database;
  etcd: EtcdCluster;
  engine: Engine;
  /** Registers a test that may leave sessions and servers open: they belong to the file. */
  test: (name: string, body: () => Promise<void>) => void;
}

/** The engine under test, from ETCD_FDW_ENGINE. */
export function engineUnderTest(): Engine {
  const engine = Deno.env.get("ETCD_FDW_ENGINE") || "embedded";
  if (engine !== "embedded" && engine !== "plv8") throw new Error(`ETCD_FDW_ENGINE is "${engine}"`);
  return engine;
}

export async function suite(name: string, options: SuiteOptions = {}): Promise<Suite> {
  const engine = engineUnderTest();
  const sandbox = await Sandbox.own(`${name}-${engine}`, { engine, locale: options.locale, etcd: false });
  const etcd = options.etcd === false ? null : await startEtcd(options);
  const db = new Database(sandbox);
  Deno.test.afterAll(async () => {
    await db.disconnect();
    await sandbox.down();
    await etcd?.stop();
  });
  await db.sql("CREATE EXTENSION etcd_fdw");
  return {
    db,
    etcd: etcd as EtcdCluster,
    engine,
    test: (title, fn) =>
      Deno.test({ name: `${title} [${engine}]`, fn, sanitizeOps: false, sanitizeResources: false }),
  };
}
