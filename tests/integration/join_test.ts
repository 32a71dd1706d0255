// Lookups from the outer side of a join: chosen when they are few, right when they are repeated.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";
import { explain, property, sameRows } from "../helpers/twin.ts";

const { db, etcd, test } = await suite("join");

const KEYS = 5000;
await etcd.putMany(
  Array.from(
    { length: KEYS },
    (_, i): [string, string] => [`/j/${String(i).padStart(5, "0")}`, `v${i % 10}`],
  ),
);
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE j (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/j/');
  CREATE TABLE j_twin AS SELECT * FROM j;
  CREATE TABLE few (k text, n int);
  INSERT INTO few SELECT '/j/' || lpad((i * 700)::text, 5, '0'), i FROM generate_series(0, 7) i;
  INSERT INTO few VALUES ('/j/00700', 8), (NULL, 9), ('/j/', 10), ('/elsewhere', 11);
  CREATE TABLE many AS SELECT key AS k FROM j_twin WHERE right(key, 1) <> '3';
  ANALYZE few, many, j_twin, j`);

const isLookup = (lines: string[]) =>
  lines.some((line) => /Etcd Condition: key = /.test(line)) && lines.some((line) => /Nested Loop/.test(line));

test("ANALYZE counts the rows and samples the columns", async () => {
  const [row] = await db.sql("SELECT reltuples FROM pg_class WHERE relname = 'j'");
  assert.equal(row.reltuples, KEYS);
  const [stats] = await db.sql(
    "SELECT n_distinct, most_common_vals::text FROM pg_stats WHERE tablename = 'j' AND attname = 'value'",
  );
  assert.equal(stats.n_distinct, 10);
});

test("ANALYZE keeps a random sample of a table larger than the sample", async () => {
  await db.sql("SET default_statistics_target = 2; ANALYZE j; RESET default_statistics_target");
  const [row] = await db.sql(
    "SELECT histogram_bounds::text::text[] AS bounds FROM pg_stats WHERE tablename = 'j' AND attname = 'key'",
  );
  // Three bounds of 600 of 5,000 rows: the middle one is nowhere near either end unless rows were taken from one.
  const middle = Number(row.bounds[1].slice(3));
  assert.ok(middle > KEYS / 4 && middle < KEYS * 3 / 4, String(row.bounds));
  assert.equal((await db.sql("SELECT reltuples FROM pg_class WHERE relname = 'j'"))[0].reltuples, KEYS);
  await db.sql("ANALYZE j");
});

test("a small outer side looks keys up, a large one scans", async () => {
  assert.ok(isLookup(await explain(db, "SELECT * FROM few JOIN j ON k = key")));
  assert.ok(isLookup(await explain(db, "SELECT * FROM few LEFT JOIN j ON key = k")));
  assert.ok(!isLookup(await explain(db, "SELECT * FROM many JOIN j ON k = key")));
});

test("lookups give what a local table gives", async () => {
  for (
    const query of [
      "SELECT n, key, value FROM few JOIN $t ON k = key",
      "SELECT n, key, value FROM few LEFT JOIN $t ON k = key",
      "SELECT n, value FROM few LEFT JOIN $t ON k = key AND value = 'v0'",
      "SELECT n FROM few WHERE EXISTS (SELECT FROM $t WHERE key = k)",
      "SELECT n FROM few WHERE NOT EXISTS (SELECT FROM $t WHERE key = k)",
      "SELECT n, (SELECT value FROM $t WHERE key = k) FROM few",
      "SELECT n, key FROM few LEFT JOIN $t ON key LIKE k || '1%'",
      "SELECT n, key FROM few LEFT JOIN $t ON key ^@ k AND n > 2",
      "SELECT n, l.* FROM few, LATERAL (SELECT key FROM $t WHERE key > k ORDER BY key LIMIT 2) l",
      "SELECT a.n, b.n, value FROM few a JOIN few b ON a.n = b.n + 1 JOIN $t ON key = a.k OR key = b.k",
      "SELECT n, x.value, y.value FROM few JOIN $t x ON x.key = k JOIN $t y ON y.key = x.key",
      "SELECT n, key FROM few JOIN $t ON key = ANY (ARRAY[k, '/j/00001'])",
      "SELECT count(*) FROM many JOIN $t ON k = key",
    ]
  ) {
    for (
      const off of ["", "hashjoin, mergejoin", "hashjoin, mergejoin, material, memoize", "nestloop, hashjoin"]
    ) {
      for (const name of off.split(", ").filter(Boolean)) await db.sql(`SET enable_${name} = off`);
      await sameRows(db, "j", query);
      await db.sql("RESET ALL");
    }
  }
});

test("a rescan with the same key asks nothing, with another key it asks again", async () => {
  await db.sql(
    "SET enable_memoize = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off",
  );
  const lookup = (keys: string) =>
    explain(db, `SELECT * FROM unnest(ARRAY[${keys}]) k LEFT JOIN j ON key = k`, "ANALYZE, ");
  const same = await lookup("'/j/00001', '/j/00001', '/j/00001', '/j/none', '/j/none'");
  const turns = await lookup("'/j/00001', '/j/00002', '/j/00001'");
  await db.sql("RESET ALL");
  assert.equal(property(same, "Etcd Requests"), "2", same.join("\n"));
  assert.equal(property(turns, "Etcd Requests"), "3");
});

test("a merge join takes etcd's order", async () => {
  await db.sql("SET enable_hashjoin = off; SET enable_nestloop = off");
  const lines = await explain(db, "SELECT * FROM j a JOIN j b ON a.key = b.key");
  assert.ok(
    lines.some((line) => /Merge Join/.test(line)) && !lines.some((line) => /Sort/.test(line)),
    lines.join("\n"),
  );
  await sameRows(db, "j", "SELECT count(*), max(a.value) FROM $t a JOIN $t b ON a.key = b.key");
  const incremental = await explain(db, "SELECT * FROM j ORDER BY key, value DESC");
  assert.ok(!incremental.some((line) => /Sort/.test(line)), incremental.join("\n"));
  await db.sql("RESET ALL");
});

test("a partitionwise join looks up in each partition", async () => {
  await db.sql(`CREATE TABLE p (key text COLLATE "C", value text) PARTITION BY RANGE (key);
    CREATE FOREIGN TABLE p1 PARTITION OF p FOR VALUES FROM ('/j/') TO ('/j/02500') SERVER etcd
      OPTIONS (key '/j/', range_end '/j/02500');
    CREATE FOREIGN TABLE p2 PARTITION OF p FOR VALUES FROM ('/j/02500') TO ('/j0') SERVER etcd
      OPTIONS (key '/j/02500', range_end '/j0');
    CREATE TABLE p_twin AS SELECT * FROM p;
    CREATE TABLE q (k text COLLATE "C") PARTITION BY RANGE (k);
    CREATE TABLE q1 PARTITION OF q FOR VALUES FROM ('/j/') TO ('/j/02500');
    CREATE TABLE q2 PARTITION OF q FOR VALUES FROM ('/j/02500') TO ('/j0');
    INSERT INTO q SELECT '/j/' || lpad((i * 700)::text, 5, '0') FROM generate_series(0, 7) i;
    ANALYZE q, p`);
  assert.equal((await sameRows(db, "p", "SELECT count(*) FROM $t"))[0].count, String(KEYS));
  const pruned = await explain(db, "SELECT * FROM p WHERE key = '/j/04000'");
  assert.ok(pruned.some((line) => /on p2/.test(line)) && !pruned.some((line) => /on p1/.test(line)));
  await db.sql("SET enable_partitionwise_join = on; SET enable_hashjoin = off; SET enable_mergejoin = off");
  const query = "SELECT k, value FROM q JOIN $t ON k = key";
  assert.ok(isLookup(await explain(db, query.replace("$t", "p"))));
  assert.equal((await sameRows(db, "p", query)).length, 8);
  await sameRows(db, "p", "SELECT key FROM $t ORDER BY key LIMIT 10 OFFSET 2495");
  await sameRows(db, "p", "SELECT key FROM $t ORDER BY key DESC LIMIT 3");
  await db.sql("RESET ALL");
});

test("use_remote_estimate asks etcd how many keys there are", async () => {
  const estimate = async (where: string) => {
    const [row] = await db.sql(`EXPLAIN SELECT * FROM r WHERE ${where}`);
    return Number(/rows=(\d+)/.exec(row["QUERY PLAN"])![1]);
  };
  await db.sql(
    `CREATE FOREIGN TABLE r (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/j/')`,
  );
  assert.equal(await estimate("true"), 1000);
  await db.sql("ALTER FOREIGN TABLE r OPTIONS (ADD use_remote_estimate 'true')");
  assert.equal(await estimate("true"), KEYS);
  assert.equal(await estimate("key < '/j/00100'"), 100);
  assert.equal(await estimate("key < '/j/00100' OR key >= '/j/04900'"), 200);
  assert.equal(await estimate("key = '/j/00001'"), 1);
});

test("use_remote_estimate asks nothing for those who may not read", async () => {
  await db.sql(`CREATE ROLE stranger; CREATE ROLE column_reader; CREATE ROLE viewer;
    GRANT SELECT (key) ON r TO column_reader;
    CREATE VIEW counted AS SELECT count(*) FROM r; CREATE VIEW shown AS SELECT * FROM r;
    GRANT SELECT ON counted, shown TO viewer`);
  /** Reads of etcd that the statement has made. */
  const reads = async (role: string, statement: string) => {
    const calls = async () => (await db.sql("SELECT coalesce(sum(calls), 0) AS n FROM etcd_fdw_stat"))[0].n;
    const before = await calls();
    await db.sql(`SET ROLE ${role}`);
    const failed = await db.sql(`EXPLAIN ${statement}`).then(() => "", (error: SqlError) => error.code);
    await db.sql("RESET ROLE");
    return [failed, Number(await calls()) - Number(before)];
  };
  assert.deepEqual(await reads("postgres", "SELECT * FROM r"), ["", 1], "the test sees requests");
  for (
    const statement of [
      "SELECT * FROM r",
      "SELECT 1 FROM pg_class WHERE EXISTS (SELECT FROM r)",
      "SELECT * FROM shown",
      "SELECT * FROM counted",
      "WITH x AS MATERIALIZED (SELECT * FROM r) SELECT * FROM x",
      "UPDATE r SET value = 'x'",
      "DELETE FROM r WHERE value = 'x'",
    ]
  ) assert.deepEqual(await reads("stranger", statement), ["42501", 0], statement);
  assert.deepEqual(await reads("column_reader", "SELECT value FROM r"), ["42501", 0]);
  assert.deepEqual(await reads("column_reader", "SELECT key FROM r"), ["", 1]);
  assert.deepEqual(await reads("viewer", "SELECT * FROM shown"), ["", 1]);
  assert.deepEqual(await reads("viewer", "SELECT * FROM counted"), ["", 1]);
  assert.deepEqual(await reads("viewer", "SELECT * FROM r"), ["42501", 0]);
});
