// What an UPDATE or DELETE knows of the rows that it changes, when other parts of the statement or triggers look at the
// same rows.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("rows");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE t (key text, value text, mod_revision bigint, lease bigint, ttl interval)
    SERVER etcd OPTIONS (prefix '/t/');
  CREATE FOREIGN TABLE doc (key text, a text OPTIONS (json 'a'), b text OPTIONS (json 'b'))
    SERVER etcd OPTIONS (prefix '/doc/')`);

/** A part of a statement that finds all rows by their keys alone, and changes none. */
const KEYS_ALONE = (table: string) => `DELETE FROM ${table} WHERE key LIKE '%nothing'`;

test("a row keeps its value when another part of the statement reads keys alone", async () => {
  const cases: [query: (keysAlone: string) => string, order: string][] = [];
  for (const table of ["t", "doc"]) {
    const update = table === "t" ? "SET lease = 0" : "SET a = 'new'";
    cases.push([
      (other) => `WITH u AS (UPDATE ${table} ${update} WHERE key LIKE '/${table}/%b') ${other}`,
      table,
    ]);
    cases.push([
      (other) => `WITH u AS (${other}) UPDATE ${table} ${update} WHERE key LIKE '/${table}/%b'`,
      table,
    ]);
    cases.push([
      (other) =>
        `WITH u AS (UPDATE ${table} SET key = key || 'b' WHERE key LIKE '/${table}/%b' RETURNING key) ${other}
        AND key NOT IN (SELECT key FROM u)`,
      table,
    ]);
  }
  const big = "x".repeat(3000);
  for (const memory of ["4MB", "64kB"]) {
    await db.sql(`SET work_mem = '${memory}'`);
    for (const [query, table] of cases) {
      const document = JSON.stringify({ a: "old", b: big, c: 1 });
      await etcd.client.deletePrefix(`/${table}/`);
      await etcd.putMany(
        Array.from({ length: 60 }, (_, i): [string, string] => [
          `/${table}/${"k".repeat(1500)}${i}${i % 10 === 0 ? "b" : "a"}`,
          table === "t" ? big : document,
        ]),
      );
      await db.sql(query(KEYS_ALONE(table)));
      const wrong = table === "t"
        ? await db.sql("SELECT key FROM t WHERE value <> repeat('x', 3000)")
        : await db.sql("SELECT key FROM doc WHERE b IS DISTINCT FROM repeat('x', 3000)");
      assert.deepEqual(wrong.map(({ key }) => key.slice(-5)), [], query("..."));
      assert.equal((await db.sql(`SELECT count(*) AS n FROM ${table}`))[0].n, "60", query("..."));
    }
  }
  await db.sql("RESET work_mem");
});
