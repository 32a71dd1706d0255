// Rows of one statement, or of one transaction, that meet on a key: nothing is lost without an error.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("collisions");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE t (key text, value text) SERVER etcd OPTIONS (prefix '/t/');
  CREATE FOREIGN TABLE over (key text, value text) SERVER etcd OPTIONS (prefix '/t/', upsert 'true')`);

async function begin(rows: Record<string, string>): Promise<void> {
  await etcd.client.deletePrefix("/t/");
  for (const [key, value] of Object.entries(rows)) await etcd.put(key, value);
}
const code = (statement: string) => db.sql(statement).then(() => "", (error: SqlError) => error.code);
const held = async () =>
  Object.fromEntries((await db.sql("SELECT key, value FROM t")).map(({ key, value }) => [key, value]));

for (const block of [false, true]) {
  const run = async (statement: string) => {
    if (!block) return await code(statement);
    await db.sql("BEGIN");
    const result = await code(statement);
    return result || await code("COMMIT") || (await db.sql("ROLLBACK"), "");
  };
  const where = block ? "in a transaction block" : "by itself";

  test(`an UPDATE that renames a key onto another one of the statement is refused, ${where}`, async () => {
    const rows = { "/t/1": "a", "/t/2": "b", "/t/3": "c" };
    for (
      const key of ["CASE key WHEN '/t/1' THEN '/t/2' ELSE '/t/1' END", "'/t/' || (substr(key, 4)::int + 1)"]
    ) {
      await begin(rows);
      assert.equal(
        await run(`UPDATE t SET key = ${key} WHERE key <> '/t/3' OR ${key} LIKE '/t/4'`),
        "23505",
        key,
      );
      await db.sql("ROLLBACK");
      assert.deepEqual(await held(), rows);
    }
  });

  test(`an INSERT that collides with a row which the statement deletes is refused, ${where}`, async () => {
    await begin({ "/t/1": "old" });
    const statement = "WITH d AS (DELETE FROM t WHERE key = '/t/1') INSERT INTO t VALUES ('/t/1', 'new')";
    assert.equal(await run(statement), "23505");
    await db.sql("ROLLBACK");
    assert.deepEqual(await held(), { "/t/1": "old" });
  });
}

test("an INSERT of a key that exists is refused, though the transaction deletes it again", async () => {
  await begin({ "/t/1": "old" });
  assert.equal(await code("DO $$ BEGIN INSERT INTO t VALUES ('/t/1', 'x'); DELETE FROM t; END $$"), "23505");
  assert.equal(
    await code("DO $$ BEGIN INSERT INTO t VALUES ('/t/1', 'x'); DELETE FROM t WHERE key = '/t/1'; END $$"),
    "23505",
  );
  assert.deepEqual(await held(), { "/t/1": "old" });
});

test("on a table with upsert, rows change places", async () => {
  await begin({ "/t/1": "a", "/t/2": "b" });
  assert.equal(await code("UPDATE over SET key = CASE key WHEN '/t/1' THEN '/t/2' ELSE '/t/1' END"), "");
  assert.deepEqual(await held(), { "/t/1": "b", "/t/2": "a" });
});
