// ALTER EXTENSION UPDATE from every released version, and pg_dump with restore.

import assert from "node:assert/strict";
import { ROOT, VERSION } from "../../build/paths.ts";
import { findPostgres } from "../../build/postgres.ts";
import { run } from "../../build/run.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, engine, test } = await suite("upgrade");
const env = db.sandbox.env();
const { bindir } = await findPostgres();

/** Runs the test in another database. */
async function within(
  name: string,
  test: (sql: (text: string) => Promise<Record<string, unknown>[]>) => Promise<void>,
) {
  const client = await db.connect("postgres", name);
  try {
    await test(async (text) => {
      const result = await client.query(text);
      return (Array.isArray(result) ? result.at(-1)! : result).rows;
    });
  } finally {
    await client.end();
  }
}

const released = [...Deno.readDirSync(`${ROOT}/sql/released`)]
  .map(({ name }) => /^etcd_fdw--(.+)\.sql$/.exec(name)![1]);

/** All that the extension of the current database consists of, with its definition, rights and comment. */
const OBJECTS = `
  SELECT pg_describe_object(d.classid, d.objid, 0) AS object, obj_description(d.objid, c.relname) AS comment,
    p.proacl::text AS rights, p.provolatile, p.proparallel, p.proisstrict, p.prosecdef, r.relacl::text AS relrights,
    CASE WHEN p.proname = 'etcd_fdw_dispatch' THEN md5(p.prosrc) WHEN p.oid IS NOT NULL THEN pg_get_functiondef(p.oid) END AS source,
    CASE WHEN r.relkind = 'v' THEN pg_get_viewdef(r.oid) END AS view
  FROM pg_depend d JOIN pg_class c ON c.oid = d.classid
    LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
    LEFT JOIN pg_class r ON d.classid = 'pg_class'::regclass AND r.oid = d.objid
  WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'etcd_fdw')
  ORDER BY 1`;

test("ALTER EXTENSION UPDATE leads to what CREATE EXTENSION makes, from every release", async () => {
  assert.ok(released.includes("0.1.0"));
  const fresh = await db.sql(OBJECTS);
  assert.ok(fresh.length > 150, `${fresh.length} objects`);
  for (const version of released) {
    const name = `upgrade_${version.replaceAll(".", "_")}`;
    await db.sql(`CREATE DATABASE ${name}`);
    await within(name, async (sql) => {
      if (engine === "plv8") await sql("CREATE EXTENSION plv8");
      await sql(`CREATE EXTENSION etcd_fdw VERSION '${version}'`);
      await sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (endpoints '${etcd.endpoints[0]}');
        CREATE FOREIGN TABLE kv (key text, value text) SERVER etcd OPTIONS (prefix '/up/')`);
      await sql("INSERT INTO kv VALUES ('/up/a', 'before')");
      await sql("ALTER EXTENSION etcd_fdw UPDATE");
      assert.deepEqual(await sql(OBJECTS), fresh, version);
      // In the session that ran the old program.
      const [row] = await sql("SELECT value, etcd_get(key) AS got FROM kv");
      assert.deepEqual(row, { value: "before", got: "before" });
      assert.equal((await sql("SELECT etcd_fdw_core_version() AS v"))[0].v, VERSION);
    });
  }
});

test("the extension works in a schema of any name that is not on the search path", async () => {
  await db.sql("CREATE DATABASE elsewhere");
  await within("elsewhere", async (sql) => {
    if (engine === "plv8") await sql("CREATE EXTENSION plv8");
    await sql('CREATE SCHEMA "Etcd, Schema"; CREATE EXTENSION etcd_fdw SCHEMA "Etcd, Schema"');
    await sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (endpoints '${etcd.endpoints[0]}')`);
    await etcd.put("/else/a", "1");
    const [row] = await sql(
      `SELECT "Etcd, Schema".etcd_get('/else/a') AS short, "Etcd, Schema".etcd_get('etcd', '/else/a') AS long,
      (SELECT count(*) FROM "Etcd, Schema".etcd_fdw_version()) AS parts, (SELECT calls FROM "Etcd, Schema".etcd_fdw_stat) AS calls`,
    );
    assert.deepEqual(row, { short: "1", long: "1", parts: "6", calls: row.calls });
    assert.deepEqual(await sql(`SELECT value FROM "Etcd, Schema".etcd_range('/else/'::bytea, true)`), [{
      value: Buffer.from("1"),
    }]);
  });
});

test("pg_dump and restore keep servers, mappings, tables and rights", async () => {
  await db.sql(
    `CREATE SERVER dumped FOREIGN DATA WRAPPER etcd_fdw OPTIONS (endpoints '${
      etcd.endpoints[0]
    }', max_txn_ops '64');
    CREATE USER MAPPING FOR PUBLIC SERVER dumped;
    CREATE FOREIGN TABLE dumped (key text, value text, kind text OPTIONS (json 'kind')) SERVER dumped OPTIONS (prefix '/dump/');
    GRANT EXECUTE ON FUNCTION etcd_compact(bigint, boolean) TO PUBLIC;
    CREATE VIEW through AS SELECT etcd_get('dumped', '/dump/a') AS value`,
  );
  await etcd.put("/dump/a", '{"kind": "x"}');
  const dump = (await run(`${bindir}/pg_dump`, [env.PGDATABASE], { env })).stdout;
  assert.match(dump, /CREATE EXTENSION IF NOT EXISTS etcd_fdw/);
  await db.sql("CREATE DATABASE restored");
  await run(`${bindir}/psql`, ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "restored"], { env, stdin: dump });
  await within("restored", async (sql) => {
    assert.deepEqual(await sql("SELECT * FROM dumped"), [{
      key: "/dump/a",
      value: '{"kind": "x"}',
      kind: "x",
    }]);
    assert.deepEqual(await sql("SELECT * FROM through"), [{ value: '{"kind": "x"}' }]);
    assert.deepEqual(await sql("SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'dumped'"), [
      { srvoptions: [`endpoints=${etcd.endpoints[0]}`, "max_txn_ops=64"] },
    ]);
    const granted =
      "SELECT has_function_privilege('public', 'etcd_compact(bigint, boolean)', 'EXECUTE') AS r";
    assert.deepEqual(await sql(granted), [{ r: true }]);
  });
});
