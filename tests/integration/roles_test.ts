// One transaction, several roles: those that no user mapping tells apart are one client for etcd.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("roles");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE r (key text, value text) SERVER etcd OPTIONS (prefix '/r/');
  CREATE ROLE other; GRANT USAGE ON FOREIGN SERVER etcd TO other; GRANT ALL ON r TO other;
  CREATE ROLE owner; GRANT USAGE ON FOREIGN SERVER etcd TO owner; GRANT ALL ON r TO owner;
  CREATE FUNCTION add(k text) RETURNS bigint LANGUAGE sql SECURITY DEFINER
    AS $$ INSERT INTO r VALUES ('/r/' || k, k); SELECT count(*) FROM r $$;
  ALTER FUNCTION add OWNER TO owner`);

test("SET ROLE and SECURITY DEFINER see the transaction's writes, and commit with it in one Txn", async () => {
  await db.sql("BEGIN; INSERT INTO r VALUES ('/r/1', 'a'); SET LOCAL ROLE other");
  assert.deepEqual(await db.sql("SELECT value FROM r"), [{ value: "a" }]);
  await db.sql("INSERT INTO r VALUES ('/r/2', 'b'); UPDATE r SET value = 'c' WHERE key = '/r/1'");
  assert.deepEqual(await db.sql("SELECT add('3')"), [{ add: "3" }]);
  await db.sql("RESET ROLE; DELETE FROM r WHERE key = '/r/2'; COMMIT");
  const rows = await db.sql("SELECT key, value, mod_revision FROM etcd_range('etcd', '/r/', prefix => true)");
  assert.deepEqual(rows.map(({ key, value }) => [key, value]), [["/r/1", "c"], ["/r/3", "3"]]);
  assert.equal(new Set(rows.map((row) => row.mod_revision)).size, 1);
});

test("ROLLBACK takes every role's writes", async () => {
  const before = await db.sql("SELECT * FROM r ORDER BY key");
  await db.sql("BEGIN; SET LOCAL ROLE other; INSERT INTO r VALUES ('/r/4', 'd'); SELECT add('5'); ROLLBACK");
  assert.deepEqual(await db.sql("SELECT * FROM r ORDER BY key"), before);
});

test("a user mapping that another session makes or drops does not tear a transaction", async () => {
  const other = await db.connect();
  try {
    for (
      const change of [
        "CREATE USER MAPPING FOR postgres SERVER etcd OPTIONS (username 'nobody', password 'x')",
        "DROP USER MAPPING FOR postgres SERVER etcd",
      ]
    ) {
      await db.sql("DELETE FROM r; BEGIN; INSERT INTO r VALUES ('/r/m', 'first')");
      await other.query(change);
      assert.deepEqual(await db.sql("SELECT value FROM r"), [{ value: "first" }]);
      await db.sql("UPDATE r SET value = 'second'; INSERT INTO r VALUES ('/r/n', 'x'); COMMIT");
      const rows = await db.sql(
        "SELECT key, value, mod_revision FROM etcd_range('etcd', '/r/', prefix => true)",
      );
      assert.deepEqual(rows.map(({ key, value }) => [key, value]), [["/r/m", "second"], ["/r/n", "x"]]);
      assert.equal(new Set(rows.map((row) => row.mod_revision)).size, 1);
    }
  } finally {
    await other.end();
  }
});
