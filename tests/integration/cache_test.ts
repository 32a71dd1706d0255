// Cached tables: what the proxy answers is what etcd would, in every kind of statement, and it says that it has.

import assert from "node:assert/strict";
import type pg from "pg";
import { TestEtcd } from "../../src/proxy/testing_etcd.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("cache");
const [connstr] = etcd.endpoints;

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${connstr}');
  CREATE FOREIGN TABLE plain (key text COLLATE "C", value text, mod_revision bigint, version bigint)
    SERVER etcd OPTIONS (prefix '/c/');
  CREATE FOREIGN TABLE cached (key text COLLATE "C", value text, mod_revision bigint, version bigint)
    SERVER etcd OPTIONS (prefix '/c/', cache 'true');
  CREATE FOREIGN TABLE stale (key text COLLATE "C", value text) SERVER etcd
    OPTIONS (prefix '/c/', cache 'true', consistency 's');
  CREATE FOREIGN TABLE bounded (key text COLLATE "C", value text) SERVER etcd
    OPTIONS (prefix '/c/', cache 'true', consistency 's', max_staleness '100');
  CREATE FOREIGN TABLE other (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/o/');
  CREATE FOREIGN TABLE cached_other (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/o/', cache 'true');
  CREATE TABLE wanted (k text);
  INSERT INTO wanted SELECT '/c/' || lpad(i::text, 4, '0') FROM generate_series(1, 40) i;
  ANALYZE wanted;
  INSERT INTO plain (key, value) SELECT '/c/' || lpad(i::text, 4, '0'), 'v' || i % 7 FROM generate_series(1, 300) i`);

type Plan = Record<string, unknown> & { Plans?: Plan[] };

/** How many pages of a query a cache has answered, and how many etcd has. */
async function answered(query: string, client?: pg.Client): Promise<{ cache: number; etcd: number }> {
  const explain = `EXPLAIN (ANALYZE, FORMAT JSON) ${query}`;
  const rows = client === undefined ? await db.sql(explain) : (await client.query(explain)).rows;
  const sums = { cache: 0, etcd: 0 };
  const add = (plan: Plan) => {
    const cache = Number(plan["Etcd Cached Pages"] ?? 0);
    sums.cache += cache;
    sums.etcd += Number(plan["Etcd Pages"] ?? 0) - cache;
    plan.Plans?.forEach(add);
  };
  add(rows[0]["QUERY PLAN"][0].Plan);
  return sums;
}

async function until(what: string, holds: () => Promise<boolean>, ms = 10_000): Promise<void> {
  const end = Date.now() + ms;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const isCached = async (query: string, client?: pg.Client) => {
  const { cache, etcd } = await answered(query, client);
  return cache > 0 && etcd === 0;
};

const live = async () => {
  for (const table of ["cached", "cached_other"]) {
    await until(`${table} is cached`, () => isCached(`SELECT * FROM ${table}`));
  }
};

const same = async (query: string, client?: pg.Client) => {
  const run = async (table: string) => {
    const text = query.replaceAll("$t", table);
    return client === undefined ? await db.sql(text) : (await client.query(text)).rows;
  };
  assert.deepEqual(await run("cached"), await run("plain"), query);
};

const QUERIES = [
  "SELECT * FROM $t ORDER BY key",
  "SELECT * FROM $t ORDER BY key DESC LIMIT 7 OFFSET 3",
  "SELECT key FROM $t WHERE key > '/c/0100' ORDER BY key LIMIT 5",
  "SELECT * FROM $t WHERE key = '/c/0007'",
  "SELECT * FROM $t WHERE key = '/c/none'",
  "SELECT * FROM $t WHERE key IN ('/c/0001', '/c/0099', '/c/0250', '/c/x') ORDER BY key",
  "SELECT key, version FROM $t WHERE key ^@ '/c/02' AND version > 1 ORDER BY key",
  "SELECT count(*) FROM $t",
  "SELECT count(*), min(key), max(key) FROM $t WHERE key >= '/c/0050' AND key < '/c/0150'",
  "SELECT value, count(*) FROM $t GROUP BY value ORDER BY value",
  "SELECT mod_revision FROM $t ORDER BY mod_revision DESC LIMIT 1",
  "SELECT k, value FROM wanted JOIN $t ON key = k ORDER BY k",
  "SELECT count(*) FROM $t a JOIN $t b USING (value)",
  "SELECT k, (SELECT value FROM $t WHERE key = k) FROM wanted ORDER BY k",
];

test("a cached table shows what an uncached one does, and says who has answered", async () => {
  await live();
  for (const query of QUERIES) {
    await same(query);
    assert.ok(await isCached(query.replaceAll("$t", "cached")), query);
    assert.deepEqual((await answered(query.replaceAll("$t", "plain"))).cache, 0, query);
  }
  const plan = (await db.sql("EXPLAIN SELECT * FROM bounded")).map((row) => row["QUERY PLAN"]).join("\n");
  assert.match(plan, /Etcd Cache: \["\/c\/", "\/c0"\), at most 100 ms old/);
});

test("a table of one key, and one of all keys", async () => {
  await db.sql(
    `CREATE FOREIGN TABLE one (key text, value text) SERVER etcd OPTIONS (key '/c/0001', cache 'true');
    CREATE FOREIGN TABLE everything (key text COLLATE "C", value text) SERVER etcd OPTIONS (cache 'true');
    CREATE FOREIGN TABLE everything_plain (key text COLLATE "C", value text) SERVER etcd`,
  );
  for (const table of ["one", "everything"]) {
    await until(`${table} is cached`, () => isCached(`SELECT * FROM ${table}`));
  }
  for (let i = 0; i < 5; i++) {
    await etcd.put("/c/0001", `one${i}`);
    assert.deepEqual(await db.sql("SELECT * FROM one"), [{ key: "/c/0001", value: `one${i}` }]);
    assert.equal((await db.sql("SELECT count(*) FROM one"))[0].count, "1");
    for (const query of ["SELECT * FROM $t ORDER BY key", "SELECT count(*), max(key) FROM $t"]) {
      const [own, theirs] = ["everything", "everything_plain"].map((table) => query.replace("$t", table));
      assert.deepEqual(await db.sql(own), await db.sql(theirs));
      assert.ok(await isCached(own));
    }
  }
  await db.sql("DROP FOREIGN TABLE one, everything, everything_plain");
});

test("a statement joins a cached table with others at one revision", async () => {
  await live();
  await db.sql("DELETE FROM other; INSERT INTO other SELECT replace(key, '/c/', '/o/'), value FROM plain");
  const stop = { now: false };
  // Both sides change in one Txn: a statement that saw two states would see them differ.
  const writer = (async () => {
    const session = await db.connect();
    for (let i = 0; !stop.now; i++) {
      await session.query(`BEGIN; UPDATE plain SET value = 'j${i}' WHERE key = '/c/0001';
        UPDATE other SET value = 'j${i}' WHERE key = '/o/0001'; COMMIT`);
    }
    await session.end();
  })();
  try {
    for (let i = 0; i < 40; i++) {
      for (const second of ["other", "cached_other"]) {
        const rows = await db.sql(`SELECT c.value AS a, o.value AS b FROM cached c, ${second} o
          WHERE c.key = '/c/0001' AND o.key = '/o/0001'`);
        assert.equal(rows[0].a, rows[0].b, second);
      }
    }
  } finally {
    stop.now = true;
    await writer;
  }
});

test("writes of others are seen at once, and own writes also where it may be stale", async () => {
  await live();
  for (let i = 0; i < 30; i++) {
    await etcd.put("/c/seen", `${i}`);
    assert.deepEqual(await db.sql("SELECT value FROM cached WHERE key = '/c/seen'"), [{ value: `${i}` }]);
    await db.sql(`UPDATE plain SET value = 'own${i}' WHERE key = '/c/0002'`);
    for (const table of ["stale", "bounded", "cached"]) {
      const rows = await db.sql(`SELECT value FROM ${table} WHERE key = '/c/0002'`);
      assert.deepEqual(rows, [{ value: `own${i}` }], table);
    }
    await db.sql(`SELECT etcd_put('etcd', '/c/0003', 'put${i}')`);
    assert.deepEqual(await db.sql("SELECT value FROM stale WHERE key = '/c/0003'"), [{ value: `put${i}` }]);
    await etcd.put("/elsewhere", `${i}`);
  }
  await etcd.put("/c/seen", "last");
  await until(
    "a stale one hears of it",
    async () => (await db.sql("SELECT value FROM stale WHERE key = '/c/seen'"))[0].value === "last",
  );
  await etcd.client.deletePrefix("/c/seen");
  assert.deepEqual(await db.sql("SELECT value FROM cached WHERE key = '/c/seen'"), []);
});

test("what may be stale is answered while etcd is silent, for as long as it may be", async () => {
  await live();
  await db.sql("SELECT * FROM bounded");
  assert.ok(await isCached("SELECT * FROM stale"));
  await etcd.pause();
  try {
    const began = Date.now();
    assert.equal((await db.sql("SELECT count(*) FROM stale"))[0].count, "300");
    assert.ok(Date.now() - began < 1_000);
    await db.sql("SELECT pg_sleep(0.15); SET statement_timeout = '500ms'");
    assert.equal((await db.failure("SELECT count(*) FROM bounded")).code, "57014");
    assert.equal((await db.failure("SELECT count(*) FROM cached")).code, "57014");
  } finally {
    await db.sql("RESET statement_timeout");
    await etcd.resume();
  }
  await live();
});

test("a transaction sees its own writes over the cache, and keeps to its state", async () => {
  await live();
  for (const isolation of ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]) {
    const session = await db.connect();
    try {
      await session.query(`BEGIN ISOLATION LEVEL ${isolation}`);
      await session.query(`UPDATE cached SET value = 'mine' WHERE key < '/c/0010';
        DELETE FROM cached WHERE key ^@ '/c/02'; INSERT INTO cached (key, value) VALUES ('/c/new', 'x')`);
      for (const query of QUERIES.filter((one) => !one.includes("mod_revision"))) await same(query, session);
      assert.equal((await answered("SELECT * FROM cached", session)).etcd, 0);
      await session.query("ROLLBACK");
    } finally {
      await session.end();
    }
  }
});

test("in a transaction of one state, a cached and an uncached table agree while others write", async () => {
  await live();
  const stop = { now: false };
  const writer = (async () => {
    for (let i = 0; !stop.now; i++) {
      await etcd.put(`/c/${String(i % 300 + 1).padStart(4, "0")}`, `w${i}`);
      if (i % 5 === 0) await etcd.put(`/c/x${i % 50}`, "new");
      if (i % 5 === 3) await etcd.client.deletePrefix(`/c/x${(i + 20) % 50}`);
    }
  })();
  let hits = 0;
  try {
    for (let round = 0; round < 6; round++) {
      const session = await db.connect();
      try {
        // Either table may be the first, whose revision is the transaction's.
        await session.query(`BEGIN ISOLATION LEVEL REPEATABLE READ;
          SELECT count(*) FROM ${round % 2 === 0 ? "cached" : "plain"}`);
        for (const query of QUERIES) await same(query, session);
        hits += (await answered("SELECT * FROM cached", session)).cache;
        await session.query("COMMIT");
      } finally {
        await session.end();
      }
    }
  } finally {
    stop.now = true;
    await writer;
    await etcd.client.deletePrefix("/c/x");
  }
  assert.ok(hits > 0, "none was answered by the cache");
});

test("SERIALIZABLE holds for what a cache has answered", async () => {
  await live();
  const failing: [string, string][] = [
    ["SELECT count(*) FROM cached WHERE key ^@ '/c/03'", "/c/03zz"],
    ["SELECT * FROM cached WHERE key = '/c/0004'", "/c/0004"],
    ["SELECT * FROM cached WHERE key = '/c/nobody'", "/c/nobody"],
  ];
  for (const [query, key] of failing) {
    const session = await db.connect();
    try {
      await session.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
      assert.ok(await isCached(query, session), query);
      await session.query(`INSERT INTO other VALUES ('/o/from' || clock_timestamp(), 'x')`);
      await etcd.put(key, "changed");
      const error = await session.query("COMMIT").then(() => null, (thrown) => thrown);
      assert.equal(error?.code, "40001", query);
      await session.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
      await session.query(query);
      await session.query(`INSERT INTO other VALUES ('/o/from' || clock_timestamp(), 'x')`);
      await session.query("COMMIT");
    } finally {
      await session.end();
    }
  }
  await etcd.client.deletePrefix("/c/03zz");
  await etcd.client.deletePrefix("/c/nobody");
});

test("the past is read as it was", async () => {
  await live();
  const [{ revision }] = await db.sql("SELECT etcd_revision('etcd') AS revision");
  await db.sql("UPDATE cached SET value = 'later' WHERE key = '/c/0005'");
  await db.sql(`SET etcd_fdw.revision = '${revision}'`);
  try {
    for (const query of QUERIES) await same(query);
    assert.notEqual((await db.sql("SELECT value FROM cached WHERE key = '/c/0005'"))[0].value, "later");
  } finally {
    await db.sql("RESET etcd_fdw.revision");
  }
  assert.equal((await db.sql("SELECT value FROM cached WHERE key = '/c/0005'"))[0].value, "later");
});

test("rows are changed through a cached table, and conflicts are found", async () => {
  await live();
  const [one, two] = [await db.connect(), await db.connect()];
  try {
    await one.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM cached WHERE key = '/c/0006'");
    await two.query("UPDATE cached SET value = 'two' WHERE key = '/c/0006'");
    await one.query("UPDATE cached SET value = 'one' WHERE key = '/c/0006'");
    const error = await one.query("COMMIT").then(() => null, (thrown) => thrown);
    assert.equal(error?.code, "40001");
    await Promise.all([one, two].map(async (client) => {
      for (let i = 0; i < 15; i++) {
        for (;;) {
          const lost = await client.query(
            "UPDATE cached SET value = coalesce(substring(value from '^[0-9]+$'), '0')::int + 1 WHERE key = '/c/0006'",
          ).then(() => null, (thrown) => thrown);
          if (lost === null) break;
          assert.equal(lost.code, "40001");
        }
      }
    }));
    assert.deepEqual(await db.sql("SELECT value FROM plain WHERE key = '/c/0006'"), [{ value: "30" }]);
  } finally {
    await Promise.all([one.end(), two.end()]);
  }
});

test("compaction, and a server that is altered", async () => {
  await live();
  for (let i = 0; i < 20; i++) await etcd.put("/c/0008", `${i}`);
  const [{ revision }] = await db.sql("SELECT etcd_revision('etcd') AS revision");
  await db.sql(`SELECT etcd_compact('etcd', ${revision})`);
  await same("SELECT * FROM $t ORDER BY key");
  await until("cached again", () => isCached("SELECT * FROM cached"));
  await db.sql("ALTER SERVER etcd OPTIONS (ADD connect_timeout '3')");
  await same("SELECT * FROM $t ORDER BY key");
});

test("the views count what was answered, and what is held", async () => {
  await live();
  const [stat] = await db.sql("SELECT sum(cache_hits) AS hits, sum(cache_bytes) AS bytes FROM etcd_fdw_stat");
  await db.sql("SELECT * FROM cached");
  const [later] = await db.sql(
    "SELECT sum(cache_hits) AS hits, sum(cache_bytes) AS bytes FROM etcd_fdw_stat",
  );
  assert.equal(Number(later.hits), Number(stat.hits) + 1);
  assert.ok(Number(later.bytes) > Number(stat.bytes) + 300 * 20);
  const [row] = await db.sql("SELECT * FROM etcd_fdw_cache WHERE key = '/c/'");
  assert.deepEqual([row.server, row.role, row.range_end, row.state, row.keys], [
    "etcd",
    "public",
    "/c0",
    "LIVE",
    "300",
  ]);
  assert.ok(Number(row.bytes) > 300 * 300 && Number(row.hits) > 0, JSON.stringify(row));
  assert.equal(row.repairs, "0");
  await db.sql("ALTER FOREIGN TABLE cached OPTIONS (ADD cache_verify '1')");
  await until("a comparison", async () => {
    await db.sql("SELECT count(*) FROM cached");
    return Number((await db.sql("SELECT verifications AS n FROM etcd_fdw_cache WHERE key = '/c/'"))[0].n) > 0;
  });
  assert.equal((await db.sql("SELECT repairs FROM etcd_fdw_cache WHERE key = '/c/'"))[0].repairs, "0");
});

test("options that cannot work together are refused where they are set", async () => {
  const table = (options: string) =>
    db.failure(`CREATE FOREIGN TABLE bad (key text) SERVER etcd OPTIONS (${options})`);
  for (
    const [options, message] of [
      ["max_staleness '5'", /"max_staleness" needs option "cache"/],
      ["cache_verify '5'", /"cache_verify" needs option "cache"/],
      ["cache 'true', max_staleness '5'", /needs option "consistency" to be "s"/],
      ["cache 'true', revision '5'", /"cache" and "revision" cannot both/],
      ["cache 'perhaps'", /"cache"/],
      ["cache 'true', cache_verify '-1'", /"cache_verify"/],
    ] as const
  ) assert.match((await table(options)).message, message);
  await db.sql(`CREATE FOREIGN TABLE good (key text) SERVER etcd
    OPTIONS (cache 'true', consistency 'serializable', max_staleness '5', cache_verify '0'); DROP FOREIGN TABLE good`);
});

test("a user of etcd sees through a cache what he may read, as long as he may", async () => {
  const guarded = await TestEtcd.start();
  try {
    for (
      const args of [
        ["put", "/g/a/1", "a"],
        ["put", "/g/b/1", "b"],
        ...["root", "whole", "part"].map((name) => ["user", "add", `${name}:pw`]),
        ["user", "grant-role", "root", "root"],
        ...["whole", "part"].flatMap((name) => [["role", "add", name], ["user", "grant-role", name, name]]),
        ["role", "grant-permission", "whole", "read", "/g/", "--prefix=true"],
        ["role", "grant-permission", "part", "read", "/g/a/", "--prefix=true"],
        ["auth", "enable"],
      ]
    ) await guarded.ctl(...args);
    for (const name of ["whole", "part"]) {
      await db.sql(
        `CREATE SERVER ${name} FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${guarded.endpoint}', cache 'true');
        CREATE USER MAPPING FOR PUBLIC SERVER ${name} OPTIONS (username '${name}', password 'pw');
        CREATE FOREIGN TABLE g_${name} (key text COLLATE "C", value text) SERVER ${name} OPTIONS (prefix '/g/')`,
      );
    }
    await until("it is cached", () => isCached("SELECT * FROM g_whole"));
    for (let i = 0; i < 3; i++) {
      const part = "SELECT * FROM g_part WHERE key ^@ '/g/a/'";
      assert.deepEqual(await db.sql(part), [{ key: "/g/a/1", value: "a" }]);
      assert.equal((await answered(part)).cache, 0);
      assert.equal((await db.failure("SELECT * FROM g_part")).code, "42501");
      assert.equal((await db.sql("SELECT * FROM g_whole")).length, 2);
    }
    await guarded.ctl("--user", "root:pw", "role", "revoke-permission", "whole", "/g/", "--prefix=true");
    assert.equal((await db.failure("SELECT * FROM g_whole")).code, "42501");
    assert.equal((await db.failure("SELECT value FROM g_whole WHERE key = '/g/a/1'")).code, "42501");
  } finally {
    await guarded.stop();
  }
});

test("where there is no room for a cache, etcd answers", async () => {
  await db.sql("ALTER SYSTEM SET etcd_fdw.cache_memory = '0'");
  await db.sql("SELECT pg_reload_conf()");
  await db.sql("SELECT pg_sleep(0.2); SELECT etcd_fdw_disconnect()");
  const [{ pid }] = await db.sql("SELECT pid FROM etcd_fdw_proxy");
  Deno.kill(pid, "SIGKILL");
  try {
    await until("a new proxy", async () => {
      const rows = await db.sql("SELECT pid FROM etcd_fdw_proxy").catch(() => []);
      return rows.length === 1 && rows[0].pid !== pid;
    });
    for (let i = 0; i < 3; i++) {
      assert.equal((await answered("SELECT * FROM cached")).cache, 0);
      await same("SELECT * FROM $t ORDER BY key");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.deepEqual(await db.sql("SELECT * FROM etcd_fdw_cache"), []);
  } finally {
    await db.sql("ALTER SYSTEM RESET etcd_fdw.cache_memory");
  }
});
