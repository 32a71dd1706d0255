// Comparisons by order: the foreign table and a local twin must agree, whatever the collation.

import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../../src/base/bytes.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("order");

const KEYS = [
  "",
  "A",
  "B",
  "a",
  "a b",
  "a!",
  "a%",
  "a_",
  "ab",
  "aé",
  "aa",
  "b",
  "ba",
  "z",
  "Ä",
  "é",
  "日本",
  "\u{1f600}",
  "-",
  "~",
];
await etcd.putMany(KEYS.map((key): [string, string] => [`/o/${key}`, key]));
await etcd.put("/n", "before");
await etcd.put("/p", "after");
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}')`);

/** The tables in their variants: the column's declaration and whether order can be sent to etcd. */
const VARIANTS: { name: string; type: string; pushed: boolean; options: string }[] = [
  { name: "c", type: 'text COLLATE "C"', pushed: true, options: "" },
  { name: "posix", type: 'text COLLATE "POSIX"', pushed: true, options: ", strip_prefix 'true'" },
  { name: "plain", type: "text", pushed: false, options: "" },
  { name: "icu", type: 'text COLLATE "und-x-icu"', pushed: false, options: ", strip_prefix 'true'" },
  { name: "bytes", type: "bytea", pushed: true, options: "" },
];

const literal = (text: string, type: string) =>
  type === "bytea" ? `'\\x${toHex(encodeUtf8(text))}'::bytea` : `'${text.replaceAll("'", "''")}'`;

for (const { name, type, pushed, options } of VARIANTS) {
  await db.sql(
    `CREATE FOREIGN TABLE ${name} (key ${type}, value text) SERVER etcd OPTIONS (prefix '/o/'${options});
    CREATE TABLE ${name}_twin AS SELECT * FROM ${name}`,
  );
  const rows = async (table: string, where: string) =>
    (await db.sql(`SELECT value FROM ${table} WHERE ${where}`)).map((row) => row.value as string).sort();
  const prefix = options === "" ? "/o/" : "";

  test(`order on ${type}: every operator, either way round`, async () => {
    for (const key of [...KEYS, "zz", "\u{10ffff}"]) {
      const value = literal(prefix + key, type);
      for (const op of ["<", "<=", ">", ">="]) {
        for (const where of [`key ${op} ${value}`, `${value} ${op} key`, `NOT key ${op} ${value}`]) {
          assert.deepEqual(await rows(name, where), await rows(`${name}_twin`, where), where);
        }
      }
    }
  });

  test(`order on ${type}: BETWEEN, contradictions, NULL`, async () => {
    const from = literal(`${prefix}a`, type);
    const to = literal(`${prefix}b`, type);
    for (
      const where of [
        `key BETWEEN ${from} AND ${to}`,
        `key BETWEEN ${to} AND ${from}`,
        `key BETWEEN SYMMETRIC ${to} AND ${from}`,
        `key > ${from} AND key <= ${from}`,
        `key >= ${from} AND key <= ${from}`,
        `key > ${literal("", type)}`,
        `key < ${literal("", type)}`,
        `key IS NOT NULL AND key < ${to}`,
        `key < NULL`,
        `key < ${to} OR key > ${to}`,
      ]
    ) assert.deepEqual(await rows(name, where), await rows(`${name}_twin`, where), where);
  });

  test(`order on ${type}: IN and ANY`, async () => {
    const list = (...keys: string[]) => keys.map((key) => literal(prefix + key, type)).join(", ");
    const cast = type === "bytea" ? "bytea" : "text";
    const many = Array.from({ length: 200 }, (_, i) => `k${i}`);
    for (
      const where of [
        `key IN (${list("a", "zz", "é", "a", "")})`,
        `key IN (${list("a", "b")}, NULL)`,
        `key NOT IN (${list("a", "b")})`,
        `key = ANY (ARRAY[]::${cast}[])`,
        `key = ANY (NULL::${cast}[])`,
        `key IN (${list("b", "a", "ab")}) AND key IN (${list("ab", "b", "z")})`,
        `key IN (${list("b", "a", "z")}) AND key > ${literal(prefix + "a", type)}`,
        `key IN (${list(...many, "a", "z")})`,
        `key = ANY (ARRAY(SELECT key FROM ${name}_twin WHERE value < 'b'))`,
        `key <> ALL (ARRAY[${list("a", "b")}])`,
        `key > ANY (ARRAY[${list("a", "b")}])`,
      ]
    ) assert.deepEqual(await rows(name, where), await rows(`${name}_twin`, where), where);
    await db.sql(
      `PREPARE f (${cast}[]) AS SELECT value FROM ${name} WHERE key = ANY ($1); SET plan_cache_mode = force_generic_plan`,
    );
    for (
      const [argument, count] of [
        [`ARRAY[${list("b", "a", "nothing")}]`, 2],
        [`ARRAY[${list("b")}, NULL]`, 1],
        [`ARRAY[${list(...many, "a", "z")}]`, 2],
        ["NULL", 0],
        [`ARRAY[]::${cast}[]`, 0],
      ] as const
    ) assert.equal((await db.sql(`EXECUTE f(${argument})`)).length, count, argument);
    await db.sql("DEALLOCATE f; RESET plan_cache_mode");
  });

  test(`order on ${type}: ORDER BY key ${pushed ? "needs no sort" : "is sorted by PostgreSQL"}`, async () => {
    for (const order of ["key", "key DESC", "key, value", "key NULLS FIRST", "value, key"]) {
      for (
        const where of [
          "true",
          `key IN (${["z", "a", "b"].map((k) => literal(prefix + k, type)).join(", ")})`,
        ]
      ) {
        const query = (table: string) =>
          db.sql(`SELECT value FROM ${table} WHERE ${where} ORDER BY ${order}`);
        assert.deepEqual(await query(name), await query(`${name}_twin`), `${order} ${where}`);
        const limited = (table: string) =>
          db.sql(`SELECT value FROM ${table} WHERE ${where} ORDER BY ${order} LIMIT 3 OFFSET 1`);
        assert.deepEqual(await limited(name), await limited(`${name}_twin`), `${order} ${where}`);
      }
    }
    const sorts = async (order: string) =>
      (await db.sql(`EXPLAIN (COSTS OFF) SELECT * FROM ${name} ORDER BY ${order}`)).some((row) =>
        /Sort/.test(row["QUERY PLAN"])
      );
    assert.equal(await sorts("key"), !pushed);
    assert.equal(await sorts("key DESC"), !pushed);
    assert.equal(await sorts("key, value DESC"), !pushed);
    assert.equal(await sorts("value"), true);
  });

  test(`order on ${type}: prepared statements`, async () => {
    const cast = type === "bytea" ? "bytea" : "text";
    for (const mode of ["force_generic_plan", "force_custom_plan"]) {
      await db.sql(`SET plan_cache_mode = ${mode};
        PREPARE f (${cast}) AS SELECT value FROM ${name} WHERE key > $1 AND key IS NOT NULL;
        PREPARE t (${cast}) AS SELECT value FROM ${name}_twin WHERE key > $1`);
      for (const argument of [...["a", "é", ""].map((key) => literal(prefix + key, type)), "NULL"]) {
        const run = async (statement: string) =>
          (await db.sql(`EXECUTE ${statement}(${argument})`)).map((row) => row.value as string).sort();
        assert.deepEqual(await run("f"), await run("t"), argument);
      }
      await db.sql("DEALLOCATE f; DEALLOCATE t; RESET plan_cache_mode");
    }
  });

  test(`order on ${type} ${pushed ? "is sent to etcd" : "stays with PostgreSQL"}`, async () => {
    const plan =
      (await db.sql(`EXPLAIN (COSTS OFF) SELECT * FROM ${name} WHERE key >= ${literal(`${prefix}a`, type)}`))
        .map((row) => row["QUERY PLAN"] as string).join("\n");
    assert.equal(/Filter/.test(plan), !pushed, plan);
    assert.equal(/\["\/o\/a", "\/o0"\)/.test(plan), pushed, plan);
  });
}

test("no key is NULL: that needs neither a request's narrowing nor a check", async () => {
  const plan = (await db.sql("EXPLAIN (COSTS OFF) SELECT * FROM c WHERE key IS NOT NULL")).map((row) =>
    row["QUERY PLAN"]
  );
  assert.ok(!plan.some((line) => /Filter/.test(line)), plan.join("\n"));
  assert.equal((await db.sql("SELECT * FROM c WHERE key IS NOT NULL")).length, KEYS.length);
  assert.equal((await db.sql("SELECT * FROM c WHERE key IS NULL")).length, 0);
});

test("a database whose own order is C sends it too; other encodings only where order is kept", async () => {
  for (const [encoding, pushed] of [["UTF8", true], ["LATIN1", true], ["LATIN2", false]] as const) {
    const name = `order_${encoding.toLowerCase()}`;
    await db.sql(`CREATE DATABASE ${name} ENCODING '${encoding}' LOCALE 'C' TEMPLATE template0`);
    const client = await db.connect("postgres", name);
    try {
      await client.query(`CREATE EXTENSION etcd_fdw;
        CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
        CREATE FOREIGN TABLE o (key text) SERVER etcd OPTIONS (prefix '/o/')`);
      const { rows } = await client.query("EXPLAIN (COSTS OFF) SELECT * FROM o WHERE key < '/o/b'");
      assert.equal(rows.some((row) => /Filter/.test(row["QUERY PLAN"])), !pushed, encoding);
    } finally {
      await client.end();
    }
  }
});

test("revisions are filtered as PostgreSQL compares them", async () => {
  for (let i = 0; i < 30; i++) await etcd.put(`/r/${i % 10}`, String(i));
  await db.sql(`CREATE FOREIGN TABLE r (key text, mod_revision bigint, create_revision bigint, version bigint)
      SERVER etcd OPTIONS (prefix '/r/');
    CREATE TABLE r_twin AS SELECT * FROM r`);
  const [{ low, high }] = await db.sql("SELECT min(mod_revision) AS low, max(mod_revision) AS high FROM r");
  const rows = async (table: string, where: string) =>
    (await db.sql(`SELECT key FROM ${table} WHERE ${where}`)).map((row) => row.key as string).sort();
  const numbers = [
    low,
    high,
    Number(low) + 4,
    -1,
    0,
    1,
    "9223372036854775807",
    "(-9223372036854775808)",
    "NULL",
    "5::smallint",
  ];
  for (const column of ["mod_revision", "create_revision", "version"]) {
    for (const number of numbers) {
      for (const op of ["=", "<", "<=", ">", ">=", "<>"]) {
        for (const where of [`${column} ${op} ${number}`, `${number} ${op} ${column}`]) {
          assert.deepEqual(await rows("r", where), await rows("r_twin", where), where);
        }
      }
    }
  }
  const both =
    `mod_revision > ${low} AND ${high} >= mod_revision AND create_revision < ${low} AND key <> '/r/3'`;
  assert.deepEqual(await rows("r", both), await rows("r_twin", both));
  await db.sql(
    "SET plan_cache_mode = force_generic_plan; PREPARE p (bigint) AS SELECT key FROM r WHERE mod_revision > $1",
  );
  assert.equal((await db.sql(`EXECUTE p(${low})`)).length, 9);
  assert.equal((await db.sql("EXECUTE p(NULL)")).length, 0);
  await db.sql("DEALLOCATE p; RESET plan_cache_mode");
  const plan =
    (await db.sql(`EXPLAIN (COSTS OFF) SELECT key FROM r WHERE mod_revision > 5 AND key LIKE '/r/%'`))
      .map((row) => row["QUERY PLAN"].trim());
  assert.deepEqual(plan.slice(1), ['Etcd Range: ["/r/", "/r0")', "Etcd Filter: mod_revision > 5"]);
});

test("filtered scans of many pages lose nothing", async () => {
  await etcd.putMany(
    Array.from({ length: 5000 }, (_, i): [string, string] => [`/f/${String(i).padStart(5, "0")}`, "1"]),
  );
  const boundary = await etcd.revision();
  await etcd.putMany(
    Array.from({ length: 2500 }, (_, i): [string, string] => [`/f/${String(i * 2).padStart(5, "0")}`, "2"]),
  );
  await db.sql(
    "CREATE FOREIGN TABLE f (key text, value text, mod_revision bigint) SERVER etcd OPTIONS (prefix '/f/')",
  );
  const [row] = await db.sql(
    `SELECT count(*), count(DISTINCT key) AS d, min(value) FROM f WHERE mod_revision > ${boundary}`,
  );
  assert.deepEqual(row, { count: "2500", d: "2500", min: "2" });
  assert.equal((await db.sql(`SELECT count(*) FROM f WHERE mod_revision <= ${boundary}`))[0].count, "2500");
});

test("a list of keys is one revision, also when a join scans it again", async () => {
  const plan = (await db.sql(`EXPLAIN (COSTS OFF) SELECT * FROM c WHERE key IN ('/o/b', '/o/a')`)).map((
    row,
  ) => row["QUERY PLAN"].trim());
  assert.deepEqual(plan.slice(1), ['Etcd Keys: "/o/a", "/o/b"']);
  await db.sql("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off");
  const rows = await db.sql(
    `SELECT g, value FROM generate_series(1, 3) g LEFT JOIN c ON key IN ('/o/a', '/o/b', '/o/none') ORDER BY 1, 2`,
  );
  await db.sql("RESET ALL");
  assert.deepEqual(rows.map((row) => row.value), ["a", "b", "a", "b", "a", "b"]);
});
