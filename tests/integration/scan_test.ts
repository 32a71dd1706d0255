// SELECT against a live etcd: what comes back is exactly what etcd holds.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("scan");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}')`);
await etcd.putMany([
  ["/app/a", "1"],
  ["/app/a%c", "percent"],
  ["/app/a_c", "underscore"],
  ["/app/abc", "letters"],
  ["/app/a\\c", "backslash"],
  ["/app/é", "accent"],
  ["/app/'q'\"", "'quotes' \"stay\" "],
  ["/app/empty", ""],
  ["/apq", "outside"],
]);
await db.sql(`
  CREATE FOREIGN TABLE app (key text, value text, create_revision bigint, mod_revision bigint, version bigint, lease bigint)
    SERVER etcd OPTIONS (prefix '/app/');
  CREATE FOREIGN TABLE stripped (value bytea, key text) SERVER etcd OPTIONS (prefix '/app/', strip_prefix 'true')`);

const keys = async (query: string, values: unknown[] = []) =>
  (await db.sql(query, values)).map((row) => row.key).sort();

test("a table shows the keys of its prefix with all fields", async () => {
  const rows = await db.sql("SELECT * FROM app WHERE key = '/app/a'");
  assert.equal(rows.length, 1);
  const { key, value, create_revision, mod_revision, version, lease } = rows[0];
  assert.deepEqual([key, value, version, lease], ["/app/a", "1", "1", "0"]);
  assert.equal(create_revision, mod_revision);
  assert.equal((await db.sql("SELECT * FROM app")).length, 8);
});

test("quotes, spaces and empty values come back as they are", async () => {
  const rows = await db.sql(
    "SELECT value FROM app WHERE key IN ('/app/''q''\"', '/app/empty') ORDER BY key COLLATE \"C\"",
  );
  assert.deepEqual(rows.map((row) => row.value), ["'quotes' \"stay\" ", ""]);
});

test("columns may stand in any order and subset, and strip_prefix shortens keys", async () => {
  const rows = await db.sql("SELECT * FROM stripped WHERE key = 'é'");
  assert.deepEqual(rows, [{ value: Buffer.from("accent"), key: "é" }]);
  assert.deepEqual(await keys("SELECT key FROM stripped WHERE key LIKE 'a%'"), [
    "a",
    "a%c",
    "a\\c",
    "a_c",
    "abc",
  ]);
});

test("LIKE and ^@ find what PostgreSQL finds", async () => {
  await db.sql("CREATE TABLE twin AS SELECT key, value FROM app");
  const patterns = [
    "/app/a%",
    "/app/a_c",
    "/app/a\\_c",
    "/app/a\\%%",
    "%",
    "%c",
    "/app/a\\\\c",
    "/app/abc",
    "/ap_/a%",
    "",
    "/app/é%",
  ];
  for (const pattern of patterns) {
    const expected = await keys("SELECT key FROM twin WHERE key LIKE $1", [pattern]);
    assert.deepEqual(await keys("SELECT key FROM app WHERE key LIKE $1", [pattern]), expected, pattern);
    assert.deepEqual(await keys(`SELECT key FROM app WHERE key LIKE '${pattern}'`), expected, pattern);
    assert.deepEqual(
      await keys(`SELECT key FROM app WHERE key ^@ $1`, [pattern]),
      await keys(`SELECT key FROM twin WHERE key ^@ $1`, [pattern]),
      pattern,
    );
  }
  await assert.rejects(db.sql("SELECT * FROM app WHERE key LIKE '/app/a\\'"), { code: "22025" });
});

test("conditions that are not pushed are checked by PostgreSQL", async () => {
  assert.deepEqual(await keys("SELECT key FROM app WHERE value = '1' OR key < '/app/a' COLLATE \"C\""), [
    "/app/'q'\"",
    "/app/a",
  ]);
  assert.deepEqual(await keys("SELECT key FROM app WHERE '/app/abc' ^@ key"), ["/app/a", "/app/abc"]);
  assert.deepEqual(await keys("SELECT key FROM app WHERE '/app/abc' = key AND length(value) > 3"), [
    "/app/abc",
  ]);
});

test("a nondeterministic collation decides by itself", async () => {
  await db.sql(`CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE FOREIGN TABLE nocase (key text COLLATE nocase) SERVER etcd OPTIONS (prefix '/app/')`);
  assert.deepEqual(await keys("SELECT key FROM nocase WHERE key = '/APP/ABC'"), ["/app/abc"]);
});

test("contradictions and NULL ask nothing and find nothing", async () => {
  assert.deepEqual(await keys("SELECT key FROM app WHERE key = '/app/a' AND key = '/app/abc'"), []);
  assert.deepEqual(await keys("SELECT key FROM app WHERE key = '/apq'"), []);
  assert.deepEqual(await keys("SELECT key FROM app WHERE key = $1", [null]), []);
  assert.deepEqual(await keys("SELECT key FROM stripped WHERE key = ''"), []);
});

test("generic and custom plans of a prepared statement agree", async () => {
  for (const mode of ["force_generic_plan", "force_custom_plan"]) {
    await db.sql(`SET plan_cache_mode = ${mode}; PREPARE q (text) AS SELECT key FROM app WHERE key = $1`);
    for (const key of ["/app/a", "/app/é", "/app/none"]) {
      assert.deepEqual(await keys(`EXECUTE q('${key}')`), key === "/app/none" ? [] : [key]);
    }
    assert.deepEqual(await keys("EXECUTE q(NULL)"), []);
    await db.sql("DEALLOCATE q; RESET plan_cache_mode");
  }
});

test("a prepared statement follows ALTER FOREIGN TABLE and ALTER SERVER", async () => {
  await db.sql(`CREATE SERVER moving FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
    CREATE FOREIGN TABLE moving (key text) SERVER moving OPTIONS (prefix '/app/a');
    SET plan_cache_mode = force_generic_plan; PREPARE m AS SELECT key FROM moving`);
  assert.equal((await keys("EXECUTE m")).length, 5);
  await db.sql("ALTER FOREIGN TABLE moving OPTIONS (SET prefix '/app/em')");
  assert.deepEqual(await keys("EXECUTE m"), ["/app/empty"]);
  await db.sql("ALTER SERVER moving OPTIONS (SET connstr '127.0.0.1:1')");
  await assert.rejects(db.sql("EXECUTE m"), { code: "08001" });
  await db.sql(`ALTER SERVER moving OPTIONS (SET connstr '${etcd.endpoints[0]}')`);
  assert.deepEqual(await keys("EXECUTE m"), ["/app/empty"]);
  await db.sql("DEALLOCATE m; RESET plan_cache_mode");
});

test("joins rescan with equal and with changed params", async () => {
  const rows = await db.sql(`
    SELECT w.k, (SELECT value FROM app WHERE key = w.k) AS one, x.n
    FROM (VALUES ('/app/a'), ('/app/abc'), ('/app/a'), (NULL)) w(k)
    CROSS JOIN LATERAL (SELECT count(*) AS n FROM app WHERE key LIKE w.k || '%') x`);
  assert.deepEqual(rows.map((row) => [row.k, row.one, Number(row.n)]), [
    ["/app/a", "1", 5],
    ["/app/abc", "letters", 1],
    ["/app/a", "1", 5],
    [null, null, 0],
  ]);
  await db.sql("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off");
  const [{ count }] = await db.sql("SELECT count(*) FROM app a JOIN app b USING (key)");
  await db.sql("RESET ALL");
  assert.equal(count, "8");
});

test("key and range_end, revision, consistency and keys_only mean what they say", async () => {
  await db.sql(`
    CREATE FOREIGN TABLE one (key text, value text) SERVER etcd OPTIONS (key '/app/abc');
    CREATE FOREIGN TABLE ranged (key text) SERVER etcd OPTIONS (key '/app/ab', range_end '/app/f', consistency 's');
    CREATE FOREIGN TABLE open (key text) SERVER etcd OPTIONS (key '/app/empty', range_end '\\0');
    CREATE FOREIGN TABLE names (key text, value text) SERVER etcd OPTIONS (prefix '/app/a', keys_only 'true')`);
  assert.deepEqual(await db.sql("SELECT * FROM one"), [{ key: "/app/abc", value: "letters" }]);
  assert.deepEqual(await keys("SELECT key FROM ranged"), ["/app/abc", "/app/empty"]);
  assert.deepEqual(await keys("SELECT key FROM open"), ["/app/empty", "/app/é", "/apq"]);
  assert.deepEqual(await db.sql("SELECT DISTINCT value FROM names"), [{ value: null }]);

  const then = (await db.sql("SELECT max(mod_revision) AS r FROM app"))[0].r;
  await etcd.put("/app/a", "2");
  await db.sql(
    `CREATE FOREIGN TABLE past (key text, value text) SERVER etcd OPTIONS (key '/app/a', revision '${then}')`,
  );
  assert.equal((await db.sql("SELECT value FROM past"))[0].value, "1");
  assert.equal((await db.sql("SELECT value FROM app WHERE key = '/app/a'"))[0].value, "2");
  await etcd.put("/app/a", "1");
});

test("a lease id beyond 2^53 is exact", async () => {
  await etcd.ctl("lease", "grant", "600");
  const listed = await etcd.ctl("lease", "list");
  const id = listed.trim().split("\n").at(-1)!.trim();
  await etcd.ctl("put", "--lease=" + id, "/app/leased", "x");
  const [{ lease }] = await db.sql("SELECT lease FROM app WHERE key = '/app/leased'");
  assert.equal(lease, BigInt("0x" + id).toString());
  await etcd.delete("/app/leased");
});

test("bytes that are not text are an error that names the key, and bytea shows them", async () => {
  await etcd.put("/bin/v", Uint8Array.of(0x61, 0xff, 0x00));
  await etcd.put(Uint8Array.of(0x2f, 0x62, 0x69, 0x6e, 0x2f, 0xc3, 0x28), "bad key");
  await db.sql(`
    CREATE FOREIGN TABLE bin_text (key bytea, value text) SERVER etcd OPTIONS (prefix '/bin/v');
    CREATE FOREIGN TABLE bin_key (key text) SERVER etcd OPTIONS (prefix '/bin/');
    CREATE FOREIGN TABLE bin (key bytea, value bytea) SERVER etcd OPTIONS (prefix '/bin/')`);
  await assert.rejects(db.sql("SELECT * FROM bin_text"), (error: Error & { code: string; hint: string }) => {
    return error.code === "22021" && error.message.includes('"/bin/v"') && error.hint.includes("bytea");
  });
  await assert.rejects(db.sql("SELECT * FROM bin_key"), (error: Error & { code: string }) => {
    return error.code === "22021" && error.message.includes("/bin/\\xc3(");
  });
  assert.deepEqual(await db.sql("SELECT value FROM bin WHERE key = '/bin/v'"), [{
    value: Buffer.of(0x61, 0xff, 0),
  }]);
  assert.deepEqual((await db.sql("SELECT key FROM bin WHERE key = '\\x2f62696e2fc328'")).length, 1);
});

test("a scan of many pages sees one revision while others write", async () => {
  const entries: [string, string][] = [];
  for (let i = 0; i < 6000; i++) entries.push([`/many/${String(i).padStart(5, "0")}`, "old"]);
  await etcd.putMany(entries);
  await db.sql(
    "CREATE FOREIGN TABLE many (key text, value text, mod_revision bigint) SERVER etcd OPTIONS (prefix '/many/')",
  );
  await db.sql("BEGIN; DECLARE c NO SCROLL CURSOR FOR SELECT * FROM many");
  const first = await db.sql("FETCH 10 FROM c");
  await etcd.putMany(entries.map(([key]) => [key, "new"]));
  const rest = await db.sql("FETCH ALL FROM c");
  await db.sql("COMMIT");
  const values = new Set([...first, ...rest].map((row) => row.value));
  assert.equal(first.length + rest.length, 6000);
  assert.deepEqual([...values], ["old"]);
  assert.deepEqual(await db.sql("SELECT DISTINCT value FROM many"), [{ value: "new" }]);
});

test("a list of however many keys finds what PostgreSQL finds, and a limit counts what is found", async () => {
  const count = (list: string) => `SELECT count(*) FROM many WHERE key = ANY (${list})`;
  const [row] = await db.sql(count("array(SELECT '/many/0' || i FROM generate_series(1000, 600999) i)"));
  assert.equal(row.count, "5000");
  const lists: [list: string, found: number][] = [
    ["SELECT '/many/0' || i FROM generate_series(1000, 301000, 30) i", 167],
    [
      "SELECT CASE i WHEN 7 THEN '/many/00007' ELSE '/many/00009' || repeat('x', i) END FROM generate_series(1, 2000) i",
      1,
    ],
    ["SELECT NULL::text FROM generate_series(1, 10000)", 0],
  ];
  await db.sql(`SET plan_cache_mode = force_generic_plan; PREPARE listed (text[]) AS ${count("$1")};
    PREPARE few (text[]) AS SELECT count(*) FROM (SELECT FROM many WHERE key = ANY ($1) LIMIT 100) x`);
  for (const [list, found] of lists) {
    const literal = (await db.sql(`SELECT quote_literal(array(${list})) AS list`))[0].list;
    for (const query of [count(`array(${list})`), count(literal), `EXECUTE listed (${literal})`]) {
      assert.deepEqual(await db.sql(query), [{ count: String(found) }], list);
    }
    for (
      const query of [
        `SELECT key FROM many WHERE key = ANY (${literal}) LIMIT 100`,
        `EXECUTE few (${literal})`,
      ]
    ) {
      const rows = await db.sql(query);
      assert.equal(
        query.startsWith("EXECUTE") ? Number(rows[0].count) : rows.length,
        Math.min(found, 100),
        list,
      );
    }
  }
  await db.sql("DEALLOCATE ALL; RESET plan_cache_mode");
});

test("cursors, savepoints and errors leave the session usable", async () => {
  await db.sql(
    'BEGIN; DECLARE c SCROLL CURSOR FOR SELECT key FROM many ORDER BY key COLLATE "C"; FETCH 3 FROM c',
  );
  assert.equal((await db.sql("FETCH BACKWARD 1 FROM c"))[0].key, "/many/00001");
  await db.sql("SAVEPOINT s; DECLARE d CURSOR FOR SELECT key FROM many; FETCH 1 FROM d; ROLLBACK TO s");
  assert.equal((await db.sql("FETCH 1 FROM c"))[0].key, "/many/00002");
  await db.sql("COMMIT");
  await assert.rejects(db.sql("SELECT 1 / (length(key) - 11) FROM many"), { code: "22012" });
  assert.equal((await db.sql("SELECT count(*) FROM many"))[0].count, "6000");
});

test("large values and page growth lose nothing", async () => {
  const big = "x".repeat(200_000);
  await etcd.putMany(
    Array.from({ length: 120 }, (_, i): [string, string] => [`/big/${String(i).padStart(3, "0")}`, big + i]),
  );
  await db.sql("CREATE FOREIGN TABLE big (key text, value text) SERVER etcd OPTIONS (prefix '/big/')");
  const [row] = await db.sql(
    "SELECT count(*), sum(length(value)), count(DISTINCT value) AS distinct FROM big",
  );
  assert.deepEqual(row, { count: "120", sum: String(120 * 200_000 + 10 + 180 + 60), distinct: "120" });
});
