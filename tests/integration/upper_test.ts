// What is left to etcd beside the conditions: order, LIMIT and OFFSET, aggregates, lists of keys, OR.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";
import { explain, property, sameRows } from "../helpers/twin.ts";

const { db, etcd, test } = await suite("upper");

const KEYS = Array.from({ length: 40 }, (_, i) => `/u/${String(i * 37 % 100).padStart(2, "0")}`);
await etcd.putMany(KEYS.map((key, i): [string, string] => [key, `v${i % 7}`]));
for (const key of KEYS.slice(0, 9)) await etcd.put(key, `w${key.length + key.charCodeAt(3)}`);
await etcd.put("/t", "before");
await etcd.put("/v", "after");
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE u (key text COLLATE "C", value text COLLATE "C", version bigint, mod_revision bigint,
    create_revision bigint) SERVER etcd OPTIONS (prefix '/u/');
  CREATE TABLE u_twin AS SELECT * FROM u;
  CREATE FOREIGN TABLE s (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/u/', strip_prefix 'true');
  CREATE TABLE s_twin AS SELECT * FROM s`);

const hasNode = (lines: string[], node: string) =>
  lines.some((line) => line.replace("->  ", "").startsWith(node));

test("LIMIT and OFFSET are sent along, whatever the order", async () => {
  for (const order of ["", "ORDER BY key", "ORDER BY key DESC", "ORDER BY key DESC, value, version"]) {
    for (
      const limit of [
        "LIMIT 5",
        "LIMIT 5 OFFSET 3",
        "OFFSET 38",
        "LIMIT 0",
        "LIMIT 1000",
        "LIMIT NULL OFFSET 1",
      ]
    ) {
      const query = `SELECT key, value FROM $t WHERE key >= '/u/10' ${order} ${limit}`;
      if (order !== "") await sameRows(db, "u", query);
      else {
        const count = `SELECT count(*) FROM (SELECT key FROM $t WHERE key >= '/u/10' ${limit}) s`;
        await sameRows(db, "u", count);
      }
    }
  }
  const lines = await explain(db, "SELECT * FROM u ORDER BY key DESC LIMIT 5 OFFSET 2", "ANALYZE, ");
  assert.ok(!hasNode(lines, "Limit") && !hasNode(lines, "Sort"), lines.join("\n"));
  assert.equal(property(lines, "Etcd Limit"), "5");
  assert.equal(property(lines, "Etcd Offset"), "2");
  assert.equal(property(lines, "Etcd Order"), "key descending");
  assert.equal(property(lines, "Etcd Rows"), "7");
  assert.equal(property(lines, "Etcd Requests"), "1");
});

test("LIMIT with the order of another field is one request", async () => {
  for (const field of ["mod_revision", "create_revision", "version", "value"]) {
    for (const direction of ["", "DESC"]) {
      const query = `SELECT ${field} FROM $t ORDER BY ${field} ${direction} LIMIT 6 OFFSET 1`;
      assert.equal((await sameRows(db, "u", query)).length, 6);
      const lines = await explain(db, query.replace("$t", "u"), "ANALYZE, ");
      assert.equal(
        property(lines, "Etcd Order"),
        `${field} ${direction === "" ? "ascending" : "descending"}`,
      );
      assert.equal(property(lines, "Etcd Rows"), "7");
    }
  }
  // Beyond one field, and without a limit, PostgreSQL sorts.
  for (const query of ["ORDER BY value, key LIMIT 3", "ORDER BY value", "ORDER BY version LIMIT 20000"]) {
    const lines = await explain(db, `SELECT * FROM u ${query}`);
    assert.ok(lines.some((line) => /Sort/.test(line)), query);
    await sameRows(db, "u", `SELECT ${query.split(" ")[2].replace(",", "")} FROM $t ${query}`);
  }
});

test("LIMIT stays above what PostgreSQL must check, sort, join or group itself", async () => {
  for (
    const query of [
      "SELECT key FROM $t WHERE value <> 'v1' ORDER BY key LIMIT 5",
      "SELECT key FROM $t WHERE key LIKE '%5%' ORDER BY key LIMIT 3",
      'SELECT key FROM $t ORDER BY key COLLATE "und-x-icu" LIMIT 3',
      "SELECT DISTINCT value FROM $t ORDER BY value LIMIT 3",
      "SELECT value, count(*) FROM $t GROUP BY value ORDER BY value LIMIT 3",
      "SELECT key, row_number() OVER (ORDER BY key) FROM $t ORDER BY key LIMIT 3",
      "SELECT a.key FROM $t a JOIN $t b USING (key) ORDER BY key LIMIT 3",
      "SELECT key, generate_series(1, 2) g FROM $t ORDER BY key, g LIMIT 3",
      "SELECT key FROM $t UNION SELECT 'x' ORDER BY key LIMIT 3",
      "SELECT value FROM $t ORDER BY value FETCH FIRST 3 ROWS WITH TIES",
    ]
  ) {
    await sameRows(db, "u", query);
    const lines = await explain(db, query.replaceAll("$t", "u"));
    assert.equal(property(lines, "Etcd Limit"), undefined, query);
  }
});

test("LIMIT in a subquery, a lateral join, with params, and its errors", async () => {
  await sameRows(db, "u", "SELECT * FROM (SELECT key FROM $t ORDER BY key LIMIT 4) s ORDER BY key DESC");
  await sameRows(
    db,
    "u",
    `SELECT g, l.key FROM generate_series(1, 3) g,
       LATERAL (SELECT key FROM $t WHERE key > '/u/' || g ORDER BY key LIMIT g) l ORDER BY 1, 2`,
  );
  await sameRows(db, "u", "SELECT key FROM $t ORDER BY key LIMIT (SELECT 2) OFFSET (SELECT 1)");
  await db.sql(`SET plan_cache_mode = force_generic_plan;
    PREPARE f (bigint, bigint) AS SELECT key FROM u ORDER BY key LIMIT $1 OFFSET $2;
    PREPARE t (bigint, bigint) AS SELECT key FROM u_twin ORDER BY key LIMIT $1 OFFSET $2`);
  for (const args of ["3, 2", "NULL, 37", "0, 0", "5, NULL", "9223372036854775807, 9223372036854775807"]) {
    assert.deepEqual(await db.sql(`EXECUTE f(${args})`), await db.sql(`EXECUTE t(${args})`), args);
  }
  assert.equal(property(await explain(db, "EXECUTE f(3, 2)"), "Etcd Limit"), "$1");
  for (const [args, code] of [["-1, 0", "2201W"], ["1, -1", "2201X"]]) {
    assert.equal((await db.failure(`EXECUTE f(${args})`)).code, code);
    assert.equal((await db.failure(`EXECUTE t(${args})`)).code, code);
  }
  await db.sql("DEALLOCATE f; DEALLOCATE t; RESET plan_cache_mode");
});

test("rows that OFFSET leaves out still call volatile functions", async () => {
  await db.sql("CREATE SEQUENCE calls");
  await db.sql("SELECT key, nextval('calls') FROM u LIMIT 2 OFFSET 3");
  assert.equal((await db.sql("SELECT last_value FROM calls"))[0].last_value, "5");
});

test("count, min and max are one request without rows", async () => {
  const pushed = [
    "SELECT count(*) FROM $t",
    "SELECT count(key), count(1), count(*) + 1 AS more FROM $t",
    "SELECT min(key), max(key) FROM $t",
    "SELECT count(*), min(key), max(key) FROM $t WHERE key > '/u/20' AND key < '/u/80'",
    "SELECT count(*) FROM $t WHERE key IN ('/u/00', '/u/37', '/u/none')",
    "SELECT min(key), max(key), count(*) FROM $t WHERE key < '/u/10' OR key ^@ '/u/9'",
    "SELECT count(*), max(key) FROM $t WHERE key = '/elsewhere'",
    "SELECT count(*) FROM $t LIMIT 1",
  ];
  for (const query of pushed) {
    for (const table of query.includes("/u/") ? ["u"] : ["u", "s"]) {
      await sameRows(db, table, query);
      const lines = await explain(db, query.replace("$t", table), "ANALYZE, ");
      assert.equal(property(lines, "Etcd Table"), table, `${query}\n${lines.join("\n")}`);
      assert.ok(Number(property(lines, "Etcd Requests")) <= 1);
    }
  }
  assert.equal((await db.sql("SELECT min(key) FROM s"))[0].min, "00");
  await sameRows(db, "u", "SELECT count(*) FROM $t WHERE key = NULL");
});

test("aggregates that etcd cannot answer stay with PostgreSQL", async () => {
  for (
    const query of [
      "SELECT count(value) FROM $t",
      "SELECT count(*) FILTER (WHERE value = 'v1') FROM $t",
      "SELECT count(DISTINCT value) FROM $t",
      "SELECT max(value) FROM $t",
      'SELECT max(key COLLATE "und-x-icu") FROM $t',
      "SELECT count(*) FROM $t WHERE value = 'v1'",
      "SELECT count(*) FROM $t WHERE mod_revision > 20",
      "SELECT count(*) FROM $t GROUP BY value ORDER BY 1",
      "SELECT count(*) FROM $t HAVING count(*) > 100",
      "SELECT count(*), sum(version) FROM $t",
      "SELECT count(*) FROM $t a, $t b",
    ]
  ) {
    await sameRows(db, "u", query);
    const lines = await explain(db, query.replaceAll("$t", "u"));
    assert.equal(property(lines, "Etcd Aggregates"), undefined, query);
  }
});

test("aggregates take params, and run again in a correlated subquery", async () => {
  await sameRows(
    db,
    "u",
    "SELECT g, (SELECT count(*) FROM $t WHERE key > '/u/' || g), (SELECT max(key) FROM $t WHERE key < '/u/' || g)" +
      " FROM generate_series(1, 9) g ORDER BY 1",
  );
});

test("OR asks for the ranges of its arms, once each", async () => {
  for (
    const where of [
      "key < '/u/10' OR key > '/u/90'",
      "key = '/u/00' OR key ^@ '/u/1' OR key LIKE '/u/2%'",
      "(key > '/u/10' AND key < '/u/20') OR (key > '/u/15' AND key <= '/u/30')",
      "key = '/u/00' OR (key ^@ '/u/3' AND value = 'v1')",
      "key = '/u/00' OR value = 'v1'",
      "(key = '/u/00' OR key = '/u/37') AND (key = '/u/37' OR key > '/u/5')",
      "NOT (key > '/u/10' AND key < '/u/90')",
      "key = '/u/00' OR key IS NULL",
      "key = '/u/00' OR NULL",
      "key BETWEEN '/u/10' AND '/u/20' OR key = ANY (ARRAY['/u/99', '/u/00'])",
    ]
  ) {
    await sameRows(db, "u", `SELECT key, value FROM $t WHERE ${where}`);
    await sameRows(db, "u", `SELECT key FROM $t WHERE ${where} ORDER BY key DESC LIMIT 4`);
  }
  const lines = await explain(db, "SELECT key FROM u WHERE key < '/u/1' OR key = '/u/37' OR key > '/u/90'");
  assert.equal(property(lines, "Etcd Ranges"), '["/u/", "/u/1"), "/u/37", ["/u/90\\x00", "/u0")');
  assert.ok(!hasNode(lines, "Filter"), lines.join("\n"));
});

test("a list of keys is one request", async () => {
  const list = KEYS.slice(0, 30).map((key) => `'${key}'`).join(", ");
  const query = `SELECT key, value FROM $t WHERE key IN (${list}, '/u/none') ORDER BY key`;
  assert.equal((await sameRows(db, "u", query)).length, 30);
  const lines = await explain(db, query.replace("$t", "u"), "ANALYZE, ");
  assert.equal(property(lines, "Etcd Requests"), "1");
  assert.equal(property(lines, "Etcd Rows"), "30");
  assert.ok(!lines.some((line) => /Sort/.test(line)));
});

test("a descending scan of many pages loses nothing", async () => {
  await etcd.putMany(
    Array.from({ length: 3000 }, (_, i): [string, string] => [`/d/${String(i).padStart(5, "0")}`, "x"]),
  );
  await db.sql(`CREATE FOREIGN TABLE d (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/d/');
    CREATE TABLE d_twin AS SELECT * FROM d`);
  assert.equal((await sameRows(db, "d", "SELECT key FROM $t ORDER BY key DESC")).length, 3000);
  await sameRows(db, "d", "SELECT key FROM $t ORDER BY key DESC OFFSET 2990");
  await sameRows(db, "d", "SELECT key FROM $t ORDER BY key DESC LIMIT 1500");
  await sameRows(db, "d", "SELECT key FROM $t ORDER BY key LIMIT 2500 OFFSET 100");
});

test("reads of many keys keep to the server's max_txn_ops, and are one state", async () => {
  const list = KEYS.slice(0, 18).map((key) => `'${key}'`).join(", ");
  const queries = [
    `SELECT count(*), min(key), max(key) FROM $t WHERE key IN (${list}, '/u/none')`,
    `SELECT key, value FROM $t WHERE key IN (${list}, '/u/none') ORDER BY key`,
  ];
  const requests = async () => {
    const found = [];
    for (const query of queries) {
      await sameRows(db, "u", query);
      found.push(property(await explain(db, query.replace("$t", "u"), "ANALYZE, "), "Etcd Requests"));
    }
    return found;
  };
  assert.deepEqual(await requests(), ["1", "1"]);
  await db.sql("ALTER SERVER etcd OPTIONS (ADD max_txn_ops '7')");
  assert.deepEqual(await requests(), ["9", "3"]);
  // Behind own writes, each of the Txns is answered as one of the same command.
  const session = await db.connect();
  await session.query("BEGIN");
  await session.query("UPDATE u SET value = 'mine' WHERE key >= '/u/10'");
  await session.query("INSERT INTO u (key, value) SELECT '/u/new' || i, 'x' FROM generate_series(1, 20) i");
  const { rows } = await session.query("SELECT count(*)::int AS n, max(key) AS last FROM u");
  assert.deepEqual(rows, [{ n: 60, last: "/u/new9" }]);
  const own = `SELECT count(*)::int AS n FROM u WHERE value = 'mine' AND key IN (${list})`;
  assert.ok((await session.query(own)).rows[0].n > 10);
  await session.query("ROLLBACK");
  await session.end();
  await db.sql("ALTER SERVER etcd OPTIONS (DROP max_txn_ops)");
});
