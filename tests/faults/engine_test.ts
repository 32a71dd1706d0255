// What a careless use of a JavaScript engine would do to a backend.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, engine, test } = await suite("engine");

await etcd.put("/e/a", "1");
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE e (key text, value text) SERVER etcd OPTIONS (prefix '/e/');
  CREATE FUNCTION deep(n int) RETURNS text LANGUAGE plpgsql AS $$
  DECLARE v text;
  BEGIN
    IF n > 0 THEN RETURN deep(n - 1); END IF;
    EXECUTE 'SELECT value FROM e' INTO v;
    RETURN v;
  END $$`);

test("deeply nested functions are an error or a row, and the backend lives", async () => {
  const client = await db.connect();
  try {
    await client.query("SELECT value FROM e");
    for (const depth of [10, 100, 200, 400, 600, 800, 2000]) {
      const result = await client.query("SELECT deep($1) AS v", [depth]).catch((error: SqlError) => error);
      if (result instanceof Error) {
        assert.equal((result as SqlError).code, "54001", `depth ${depth}: ${result.message}`);
      } else assert.equal(result.rows[0].v, "1");
    }
    assert.deepEqual((await client.query("SELECT value FROM e")).rows, [{ value: "1" }]);
  } finally {
    await client.end();
  }
});

test("the engine's first call may come from a deep place", async () => {
  const client = await db.connect();
  try {
    assert.equal((await client.query("SELECT deep(100) AS v")).rows[0].v, "1");
    assert.deepEqual((await client.query("SELECT value FROM e")).rows, [{ value: "1" }]);
  } finally {
    await client.end();
  }
});

test("scans interleave with errors, savepoints and changes of role", async () => {
  await db.sql("CREATE ROLE reader; GRANT SELECT ON e TO reader");
  await db.sql(`BEGIN; DECLARE c CURSOR FOR SELECT value FROM e; SAVEPOINT s`);
  await assert.rejects(db.sql("SELECT * FROM e WHERE value::int / 0 = 1"), { code: "22012" });
  await db.sql("ROLLBACK TO s; SET ROLE reader");
  assert.deepEqual(await db.sql("SELECT value FROM e"), [{ value: "1" }]);
  await db.sql("RESET ROLE");
  assert.deepEqual(await db.sql("FETCH ALL FROM c"), [{ value: "1" }]);
  await db.sql("COMMIT");
});

test("a hundred statements in one function neither leak nor slow down", async () => {
  const [{ n }] = await db.sql(`WITH RECURSIVE r(i, v) AS (
    SELECT 1, (SELECT value FROM e) UNION ALL SELECT i + 1, (SELECT value FROM e WHERE key = '/e/a' AND i > 0) FROM r WHERE i < 100)
    SELECT count(v) AS n FROM r`);
  assert.equal(n, "100");
});

test("the engine can be changed while sessions use it", async () => {
  const client = await db.connect();
  try {
    assert.deepEqual((await client.query("SELECT value FROM e")).rows, [{ value: "1" }]);
    await db.sql("SELECT etcd_fdw_use_engine('embedded')");
    assert.deepEqual((await client.query("SELECT value FROM e")).rows, [{ value: "1" }]);
    await db.sql(`SELECT etcd_fdw_use_engine('${engine}')`);
    assert.deepEqual((await client.query("SELECT value FROM e")).rows, [{ value: "1" }]);
  } finally {
    await client.end();
  }
});

test("plv8 that is not there is said with the way out", async () => {
  if (engine === "plv8") await db.sql("SELECT etcd_fdw_use_engine('embedded'); DROP EXTENSION plv8 CASCADE");
  const error = await db.failure("SELECT etcd_fdw_use_engine('plv8')");
  assert.equal(error.code, "42704");
  assert.match(error.hint!, /CREATE EXTENSION plv8/);
  assert.deepEqual(await db.sql("SELECT value FROM e"), [{ value: "1" }]);
});
