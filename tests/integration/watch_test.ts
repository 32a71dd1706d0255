// What happens to keys, as rows: etcd_watch() and etcd_revision().

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("watch");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE SERVER fenced FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${
  etcd.endpoints[0]
}', prefix '/w/', updatable 'false');
  CREATE FOREIGN TABLE w (key text, value text) SERVER etcd OPTIONS (prefix '/w/');
  CREATE ROLE reader; GRANT USAGE ON FOREIGN SERVER etcd TO reader`);

const revision = async () => Number((await db.sql("SELECT etcd_revision('etcd') AS r"))[0].r);

const outcome = async (query: string) => {
  try {
    await db.sql(query);
    return "";
  } catch (error) {
    return (error as SqlError).code;
  }
};

test("etcd_watch: what happened since a revision, in etcd's order, and what was there before", async () => {
  const from = await revision();
  await db.sql("INSERT INTO w VALUES ('/w/a', '1'), ('/w/b', '2')");
  await db.sql("UPDATE w SET value = '3' WHERE key = '/w/a'");
  await etcd.put("/elsewhere", "x");
  await db.sql("DELETE FROM w WHERE key = '/w/b'");
  const rows = await db.sql(
    `SELECT * FROM etcd_watch('etcd', '/w/', prefix => true, after_revision => ${from}, wait => '0', prev => true)`,
  );
  const [one, two, four] = [from + 1, from + 2, from + 4].map(String);
  const put = { kind: "put", lease: "0" };
  const gone = { value: null, create_revision: null, version: null, lease: null };
  assert.deepEqual(rows, [
    {
      ...put,
      key: "/w/a",
      value: "1",
      prev_value: null,
      create_revision: one,
      mod_revision: one,
      version: "1",
    },
    {
      ...put,
      key: "/w/b",
      value: "2",
      prev_value: null,
      create_revision: one,
      mod_revision: one,
      version: "1",
    },
    {
      ...put,
      key: "/w/a",
      value: "3",
      prev_value: "1",
      create_revision: one,
      mod_revision: two,
      version: "2",
    },
    { ...gone, kind: "delete", key: "/w/b", prev_value: "2", mod_revision: four },
  ]);
  const single = await db.sql(
    `SELECT kind FROM etcd_watch('etcd', '/w/b', after_revision => ${from}, wait => '0')`,
  );
  assert.deepEqual(single.map(({ kind }) => kind), ["put", "delete"]);
  const range = await db.sql(
    `SELECT key FROM etcd_watch('etcd', '/e', range_end => '/f', after_revision => ${from}, wait => '0')`,
  );
  assert.deepEqual(range, [{ key: "/elsewhere" }]);
});

test("etcd_watch: bytes that are no text, as bytea", async () => {
  const from = await revision();
  await db.sql(`SELECT etcd_put('etcd', '\\x2f772fff'::bytea, '\\x00ff'::bytea)`);
  const rows = await db.sql(
    `SELECT key, value FROM etcd_watch('etcd', '/w/'::bytea, prefix => true, after_revision => ${from}, wait => '0')`,
  );
  assert.deepEqual(rows.map(({ key, value }) => [...key as Uint8Array, ...value as Uint8Array]), [
    [0x2f, 0x77, 0x2f, 0xff, 0, 0xff],
  ]);
  await db.sql(`SELECT etcd_delete('etcd', '\\x2f772fff'::bytea)`);
});

test("etcd_watch: it waits, and ends with max_events, at a cancel, or when the wait is over", async () => {
  const client = await db.connect();
  try {
    const began = performance.now();
    const waiting = client.query(
      "SELECT key FROM etcd_watch('etcd', '/w/', prefix => true, wait => '20 s', max_events => 2)",
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    await etcd.put("/w/1", "");
    await etcd.put("/w/2", "");
    assert.deepEqual((await waiting).rows, [{ key: "/w/1" }, { key: "/w/2" }]);
    assert.ok(performance.now() - began < 5_000);
    const none = performance.now();
    const empty = await client.query("SELECT key FROM etcd_watch('etcd', '/none', wait => '400 ms')");
    assert.equal(empty.rows.length, 0);
    const took = performance.now() - none;
    assert.ok(took >= 400 && took < 3_000, `${took} ms`);
    await client.query("SET statement_timeout = '300 ms'");
    const late = performance.now();
    await assert.rejects(client.query("SELECT * FROM etcd_watch('etcd', '/none', wait => '1 h')"), {
      code: "57014",
    });
    assert.ok(performance.now() - late < 1_000);
  } finally {
    await client.end();
  }
});

test("etcd_watch: call by call without gap or double, while others write", async () => {
  let at = await revision();
  const writers = Promise.all([0, 1, 2, 3].map(async (writer) => {
    for (let i = 0; i < 150; i++) await etcd.put(`/w/loop/${writer}`, String(i));
  }));
  const seen: string[][] = [[], [], [], []];
  while (seen.flat().length < 600) {
    const rows = await db.sql(
      `SELECT key, value, mod_revision FROM etcd_watch('etcd', '/w/loop/', prefix => true, after_revision => ${at},
        wait => '5 s', max_events => 7)`,
    );
    assert.ok(rows.length > 0);
    for (const { key, value } of rows) seen[Number(String(key).at(-1))].push(String(value));
    at = Number(rows.at(-1)!.mod_revision);
  }
  await writers;
  for (const values of seen) assert.deepEqual(values, Array.from({ length: 150 }, (_, i) => String(i)));
});

test("etcd_watch: 60,000 events, many of one revision", async () => {
  const from = await revision();
  await db.sql("INSERT INTO w SELECT '/w/many/' || i, repeat('v', 50) FROM generate_series(1, 20000) i");
  await db.sql("DELETE FROM w WHERE key LIKE '/w/many/%'");
  await db.sql("INSERT INTO w SELECT '/w/many/' || i, 'x' FROM generate_series(1, 20000) i");
  const count = await db.sql(
    `SELECT kind, count(*)::int AS n, count(DISTINCT key)::int AS keys
      FROM etcd_watch('etcd', '/w/many/', prefix => true, after_revision => ${from}, wait => '0')
      GROUP BY kind ORDER BY kind`,
  );
  assert.deepEqual(count, [
    { kind: "delete", n: 20_000, keys: 20_000 },
    { kind: "put", n: 40_000, keys: 20_000 },
  ]);
  await db.sql("DELETE FROM w");
});

test("etcd_watch: what cannot be is an error at the call", async () => {
  const watch = (args: string) => outcome(`SELECT * FROM etcd_watch('etcd', '/w/', ${args})`);
  assert.equal(await watch("wait => NULL"), "22023");
  assert.equal(await watch("wait => '-1 s'"), "22023");
  assert.equal(await watch("max_events => 0"), "22023");
  assert.equal(await watch("after_revision => -1"), "22023");
  assert.equal(await watch("prefix => true, range_end => 'x'"), "22023");
  assert.equal(await outcome("SELECT * FROM etcd_watch('etcd', NULL)"), "22004");
});

test("etcd_watch: a server's prefix binds it, and a role needs USAGE", async () => {
  assert.equal(await outcome("SELECT * FROM etcd_watch('fenced', '/w/', prefix => true, wait => '0')"), "");
  assert.equal(
    await outcome("SELECT * FROM etcd_watch('fenced', '/', prefix => true, wait => '0')"),
    "42501",
  );
  assert.equal(
    await outcome("SELECT * FROM etcd_watch('fenced', '/w/a', range_end => '', wait => '0')"),
    "42501",
  );
  assert.equal(await outcome("SET ROLE reader; SELECT * FROM etcd_watch('etcd', '/x', wait => '0')"), "");
  assert.equal(
    await outcome("SET ROLE reader; SELECT * FROM etcd_watch('fenced', '/w/x', wait => '0')"),
    "42501",
  );
  await db.sql("RESET ROLE");
});

test("etcd_watch: events that were compacted away are an error that names the oldest there are", async () => {
  await etcd.put("/w/c", "1");
  const from = await revision();
  await etcd.put("/w/c", "2");
  await etcd.put("/w/c", "3");
  await db.sql(`SELECT etcd_compact('etcd', ${from + 2})`);
  const watch = (after: number) =>
    db.sql(`SELECT value FROM etcd_watch('etcd', '/w/c', after_revision => ${after}, wait => '0')`);
  await assert.rejects(watch(from - 1), (error: SqlError) => {
    assert.equal(error.code, "22023");
    assert.match(String(error.hint), new RegExp(`is ${from + 2}\\.$`));
    return true;
  });
  assert.deepEqual(await watch(from + 1), [{ value: "3" }]);
});
