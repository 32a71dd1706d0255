// Beside other modules' callbacks, which come after ours when they were loaded before.

import assert from "node:assert/strict";
import { run } from "../../build/run.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("callbacks");

const pgConfig = Deno.env.get("PG_CONFIG") || "pg_config";
const headers = (await run(pgConfig, ["--includedir-server"])).stdout.trim();
const folder = await Deno.makeTempDir();
await Deno.chmod(folder, 0o755);
const source = decodeURIComponent(new URL("../helpers/late_failure.c", import.meta.url).pathname);
await run("gcc", ["-shared", "-fPIC", "-O1", "-isystem", headers, source, "-o", `${folder}/late_failure.so`]);
Deno.test.afterAll(() => Deno.remove(folder, { recursive: true }));

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE p (key text, value text) SERVER etcd OPTIONS (prefix '/p/')`);

test("a subtransaction whose end fails elsewhere is rolled back in etcd too", async () => {
  const client = await db.connect();
  try {
    await client.query(`LOAD '${folder}/late_failure.so'`);
    await client.query(`BEGIN; INSERT INTO p VALUES ('/p/kept', '1');
      DO $$ BEGIN
        BEGIN
          INSERT INTO p VALUES ('/p/dropped', '2');
          SET LOCAL late_failure.armed = on;
        EXCEPTION WHEN OTHERS THEN ASSERT SQLERRM = 'late failure';
        END;
      END $$; COMMIT`);
  } finally {
    await client.end();
  }
  assert.deepEqual(await db.sql("SELECT key FROM p"), [{ key: "/p/kept" }]);
});

test("what ON COMMIT forbids is told before etcd is written", async () => {
  const client = await db.connect();
  try {
    const refused = client.query(`BEGIN; CREATE TEMP TABLE parent (i int PRIMARY KEY) ON COMMIT DELETE ROWS;
      CREATE TEMP TABLE child (i int REFERENCES parent) ON COMMIT PRESERVE ROWS;
      INSERT INTO p VALUES ('/p/torn', '1'); COMMIT`);
    await assert.rejects(refused, { code: "0A000" });
    assert.equal(await etcd.get("/p/torn"), null);
    await client.query("ROLLBACK");
    await client.query(
      `BEGIN; CREATE TEMP TABLE emptied (i int) ON COMMIT DELETE ROWS; INSERT INTO emptied VALUES (1);
      CREATE TEMP TABLE dropped ON COMMIT DROP AS SELECT 1; INSERT INTO p VALUES ('/p/whole', '1'); COMMIT`,
    );
    assert.equal((await etcd.get("/p/whole"))!.version, 1n);
    const { rows } = await client.query(
      "SELECT to_regclass('dropped') AS dropped, count(*)::int AS left FROM emptied",
    );
    assert.deepEqual(rows, [{ dropped: null, left: 0 }]);
    await client.query("INSERT INTO emptied VALUES (2); BEGIN; INSERT INTO emptied VALUES (3); ROLLBACK");
    assert.equal((await client.query("SELECT FROM emptied")).rowCount, 0);
  } finally {
    await client.end();
  }
});

test("loaded first, etcd_fdw commits when other modules have agreed", async () => {
  const [{ name }] = await db.sql("SELECT current_database() AS name");
  await db.sql(`ALTER DATABASE ${name} SET session_preload_libraries = 'etcd_fdw'`);
  const client = await db.connect();
  try {
    await client.query(`LOAD '${folder}/late_failure.so'`);
    const refused = client.query(
      "BEGIN; SET LOCAL late_failure.commit = on; INSERT INTO p VALUES ('/p/early', '1'); COMMIT",
    );
    await assert.rejects(refused, /late failure/);
    assert.equal(await etcd.get("/p/early"), null);
  } finally {
    await client.end();
    await db.sql(`ALTER DATABASE ${name} RESET session_preload_libraries`);
  }
});
