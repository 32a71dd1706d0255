// Two sessions at each isolation level: what PostgreSQL's documentation allows happens, what it forbids is refused.

import assert from "node:assert/strict";
import type pg from "pg";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("isolation");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE i (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/i/')`);
const [one, two] = [await db.connect(), await db.connect()];
Deno.test.afterAll(async () => {
  await one.end();
  await two.end();
});

const LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/** Both sessions in a transaction of this level, over these rows. */
async function begin(level: string, rows: Record<string, string>): Promise<void> {
  await etcd.client.deletePrefix("/i/");
  for (const [key, value] of Object.entries(rows)) await etcd.put(key, value);
  for (const session of [one, two]) await session.query(`ROLLBACK; BEGIN ISOLATION LEVEL ${level}`);
}

/** "" or the SQLSTATE. */
async function outcome(session: pg.Client, statement: string): Promise<string> {
  return await session.query(statement).then(() => "", (error: SqlError) => error.code);
}
const value = async (session: pg.Client, key = "/i/1") =>
  (await session.query("SELECT value FROM i WHERE key = $1", [key])).rows[0]?.value;
const count = async (session: pg.Client) =>
  Number((await session.query("SELECT count(*) FROM i")).rows[0].count);

/** One outcome for each level. */
async function atEachLevel(act: (level: string) => Promise<unknown>): Promise<unknown[]> {
  const outcomes = [];
  for (const level of LEVELS) outcomes.push(await act(level));
  await one.query("ROLLBACK");
  await two.query("ROLLBACK");
  return outcomes;
}

test("dirty read: at no level", async () => {
  const seen = await atEachLevel(async (level) => {
    await begin(level, { "/i/1": "a" });
    await one.query("UPDATE i SET value = 'dirty'; INSERT INTO i VALUES ('/i/2', 'dirty')");
    return [await value(two), await count(two)];
  });
  assert.deepEqual(seen, [["a", 1], ["a", 1], ["a", 1]]);
});

test("nonrepeatable read: under READ COMMITTED alone", async () => {
  const seen = await atEachLevel(async (level) => {
    await begin(level, { "/i/1": "a" });
    await value(two);
    await one.query("UPDATE i SET value = 'b'; COMMIT");
    return await value(two);
  });
  assert.deepEqual(seen, ["b", "a", "a"]);
});

test("phantom read: under READ COMMITTED alone", async () => {
  const seen = await atEachLevel(async (level) => {
    await begin(level, { "/i/1": "a" });
    await count(two);
    await one.query("INSERT INTO i VALUES ('/i/2', 'b'); COMMIT");
    return [await count(two), (await two.query("SELECT key FROM i ORDER BY key DESC LIMIT 1")).rows[0].key];
  });
  assert.deepEqual(seen, [[2, "/i/2"], [1, "/i/1"], [1, "/i/1"]]);
});

test("lost update: under READ COMMITTED alone", async () => {
  const seen = await atEachLevel(async (level) => {
    await begin(level, { "/i/1": "0" });
    const read = [await value(one), await value(two)].map(Number);
    await one.query(`UPDATE i SET value = '${read[0] + 1}'; COMMIT`);
    const second = await outcome(two, `UPDATE i SET value = '${read[1] + 1}'`) ||
      await outcome(two, "COMMIT");
    return [second, new TextDecoder().decode((await etcd.get("/i/1"))!.value)];
  });
  assert.deepEqual(seen, [["", "1"], ["40001", "1"], ["40001", "1"]]);
});

test("two updates of one row at the same time: the second is refused, and not lost", async () => {
  const seen = await atEachLevel(async (level) => {
    await begin(level, { "/i/1": "0" });
    await one.query("UPDATE i SET value = 'one'");
    await two.query("UPDATE i SET value = 'two'");
    return [
      await outcome(one, "COMMIT"),
      await outcome(two, "COMMIT"),
      await etcd.get("/i/1").then((kv) => new TextDecoder().decode(kv!.value)),
    ];
  });
  assert.deepEqual(seen, Array(3).fill(["", "40001", "one"]));
});

test("write skew: allowed but under SERIALIZABLE", async () => {
  const seen = await atEachLevel(async (level) => {
    await begin(level, { "/i/1": "on call", "/i/2": "on call" });
    const free = async (session: pg.Client, key: string) => {
      const { rows } = await session.query("SELECT count(*) FROM i WHERE value = 'on call'");
      assert.equal(rows[0].count, "2");
      await session.query("UPDATE i SET value = 'off' WHERE key = $1", [key]);
    };
    await free(one, "/i/1");
    await free(two, "/i/2");
    return [await outcome(one, "COMMIT"), await outcome(two, "COMMIT")];
  });
  assert.deepEqual(seen, [["", ""], ["", ""], ["", "40001"]]);
});

test("what was read and is deleted, or was not there and is made, is a conflict under SERIALIZABLE", async () => {
  for (const change of ["DELETE FROM i WHERE key = '/i/2'", "INSERT INTO i VALUES ('/i/3', 'x')"]) {
    for (
      const read of [
        "SELECT * FROM i",
        "SELECT count(*) FROM i",
        "SELECT * FROM i WHERE key IN ('/i/2', '/i/3')",
      ]
    ) {
      await begin("SERIALIZABLE", { "/i/1": "a", "/i/2": "b" });
      await two.query(read);
      await two.query("UPDATE i SET value = 'c' WHERE key = '/i/1'");
      await one.query(`${change}; COMMIT`);
      assert.equal(await outcome(two, "COMMIT"), "40001", `${change} after ${read}`);
    }
  }
  await begin("SERIALIZABLE", { "/i/1": "a", "/i/2": "b" });
  await two.query("SELECT * FROM i WHERE key = '/i/1'");
  await two.query("INSERT INTO i VALUES ('/i/4', 'x')");
  await one.query("UPDATE i SET value = 'elsewhere' WHERE key = '/i/2'; COMMIT");
  assert.equal(await outcome(two, "COMMIT"), "");
});

test("ON CONFLICT DO NOTHING: a row that the transaction cannot see is a conflict but under READ COMMITTED", async () => {
  const insert = "INSERT INTO i VALUES ('/i/0', 'x'), ('/i/2', 'x') ON CONFLICT DO NOTHING";
  const changes = {
    new: () => etcd.put("/i/2", "new"),
    changed: async () => void await etcd.put("/i/1", "changed"),
    seen: () => Promise.resolve(),
  };
  for (const [change, act] of Object.entries(changes)) {
    const seen = await atEachLevel(async (level) => {
      await begin(level, { "/i/1": "a" });
      await count(two);
      await act();
      const key = change === "new" ? "/i/2" : "/i/1";
      return await outcome(two, insert.replace("/i/2", key)) || await outcome(two, "COMMIT");
    });
    assert.deepEqual(seen, change === "seen" ? ["", "", ""] : ["", "40001", "40001"], change);
  }
  // What the transaction has written itself is seen, and so is what there was when it has read nothing yet.
  const own = await atEachLevel(async (level) => {
    await begin(level, { "/i/1": "a" });
    await count(two);
    await two.query("INSERT INTO i VALUES ('/i/2', 'own')");
    return await outcome(two, insert) || await outcome(two, "COMMIT");
  });
  assert.deepEqual(own, ["", "", ""]);
  const first = await atEachLevel(async (level) => {
    await begin(level, { "/i/2": "a" });
    return await outcome(two, insert) || await outcome(two, "COMMIT");
  });
  assert.deepEqual(first, ["", "", ""]);
});

test("a SERIALIZABLE transaction that only reads is never refused", async () => {
  await begin("SERIALIZABLE", { "/i/1": "a" });
  await count(two);
  await one.query("INSERT INTO i VALUES ('/i/2', 'b'); COMMIT");
  assert.equal(await count(two), 1);
  assert.equal(await outcome(two, "COMMIT"), "");
});

test("SELECT FOR UPDATE and FOR SHARE: a locked row that another client writes is refused at the commit", async () => {
  for (
    const clause of [
      "FOR UPDATE",
      "FOR NO KEY UPDATE",
      "FOR SHARE",
      "FOR KEY SHARE NOWAIT",
      "FOR UPDATE SKIP LOCKED",
    ]
  ) {
    const locked = (where: string) => `SELECT value FROM i WHERE ${where} ${clause}`;
    const outcomes = await atEachLevel(async (level) => {
      // Written itself.
      await begin(level, { "/i/1": "1", "/i/2": "2" });
      await one.query(locked("key = '/i/1'"));
      await etcd.put("/i/1", "50");
      const own = await outcome(one, "UPDATE i SET value = '2' WHERE key = '/i/1'") ||
        await outcome(one, "COMMIT");
      // Something else written, here or in PostgreSQL.
      await begin(level, { "/i/1": "1", "/i/2": "2" });
      await one.query(locked("key = '/i/1'"));
      await etcd.put("/i/1", "50");
      await one.query("UPDATE i SET value = 'x' WHERE key = '/i/2'");
      const other = await outcome(one, "COMMIT");
      await begin(level, { "/i/1": "1", "/i/2": "2" });
      await one.query(locked("key = '/i/1'") + "; CREATE TABLE made_meanwhile ()");
      await etcd.client.deletePrefix("/i/1");
      const local = await outcome(one, "COMMIT");
      return [own, other, local];
    });
    assert.deepEqual(outcomes, LEVELS.map(() => ["40001", "40001", "40001"]), clause);
  }
});

test("rows that are locked and stay as they are, or that no lock is asked for, refuse nothing", async () => {
  await db.sql(
    "CREATE TABLE IF NOT EXISTS beside AS SELECT '/i/' || n AS key, n FROM generate_series(1, 3) n",
  );
  const outcomes = await atEachLevel(async (level) => {
    if (level === "SERIALIZABLE") return ["", "", ""];
    const results = [];
    for (
      const query of [
        "SELECT value FROM i WHERE value <> '2' ORDER BY key LIMIT 1 FOR UPDATE",
        "SELECT * FROM beside JOIN i USING (key) WHERE n = 1 FOR UPDATE OF i",
        "SELECT * FROM beside JOIN i USING (key) FOR UPDATE OF beside",
      ]
    ) {
      await begin(level, { "/i/1": "1", "/i/2": "2", "/i/3": "3" });
      await one.query(query);
      await etcd.put("/i/2", "50");
      await etcd.put("/i/3", "50");
      await one.query("INSERT INTO i VALUES ('/i/4', 'x')");
      results.push(await outcome(one, "COMMIT"));
    }
    return results;
  });
  assert.deepEqual(outcomes, LEVELS.map(() => ["", "", ""]));
  // What the transaction has written itself is locked with it.
  await begin("READ COMMITTED", { "/i/1": "1" });
  await one.query("UPDATE i SET value = 'own' WHERE key = '/i/1'; INSERT INTO i VALUES ('/i/5', 'own')");
  assert.deepEqual((await one.query("SELECT key, value FROM i ORDER BY key FOR UPDATE")).rows, [
    { key: "/i/1", value: "own" },
    { key: "/i/5", value: "own" },
  ]);
  await one.query("UPDATE i SET value = value || '!'");
  assert.equal(await outcome(one, "COMMIT"), "");
  assert.deepEqual(await db.sql("SELECT value FROM i"), [{ value: "own!" }, { value: "own!" }]);
});

test("a row that changes between a statement's scan and its lock is looked at anew, or refused", async () => {
  await db.sql(`CREATE FUNCTION meanwhile(k text, v text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS
    $$ BEGIN IF v IS NULL THEN PERFORM etcd_delete(k); ELSE PERFORM etcd_put(k, v); END IF; RETURN true; END $$`);
  const query = (k: string, v: string) =>
    `SELECT key, value FROM i WHERE value < 'm' AND meanwhile('${k}', ${v}) ORDER BY key LIMIT 3 FOR UPDATE`;
  const rows = { "/i/1": "a", "/i/2": "b" };
  for (
    const [k, v, expected] of [
      ["/i/1", "'c'", [{ key: "/i/1", value: "c" }, { key: "/i/2", value: "b" }]],
      ["/i/1", "'z'", [{ key: "/i/2", value: "b" }]],
      ["/i/1", "NULL", [{ key: "/i/2", value: "b" }]],
    ] as const
  ) {
    await begin("READ COMMITTED", rows);
    // The row is asked for once more when it is looked at anew, and then the function writes it again.
    const { rows: found } = await one.query(query(k, v)).catch((error) => ({ rows: error.code }));
    assert.deepEqual(found, expected, v);
    await begin("REPEATABLE READ", rows);
    assert.equal(await outcome(one, query(k, v)), "40001");
  }
  await one.query("ROLLBACK");
  await two.query("ROLLBACK");
  const past = await etcd.revision();
  await db.sql(`SET etcd_fdw.revision = ${past}`);
  const error = await db.failure("SELECT * FROM i FOR SHARE");
  assert.equal(error.code, "0A000");
  assert.match(error.detail!, /past revision/);
  await db.sql("RESET etcd_fdw.revision");
});

test("partitions and views: rows are locked where they are", async () => {
  await db.sql(`CREATE TABLE parts (key text COLLATE "C", value text) PARTITION BY RANGE (key);
    CREATE FOREIGN TABLE parts_i PARTITION OF parts FOR VALUES FROM ('/i/') TO ('/i0') SERVER etcd OPTIONS (prefix '/i/');
    CREATE TABLE parts_l PARTITION OF parts FOR VALUES FROM ('/l/') TO ('/l0');
    CREATE VIEW seen AS SELECT value, key FROM i; INSERT INTO parts_l VALUES ('/l/1', 'l')`);
  for (const table of ["parts", "seen"]) {
    await begin("READ COMMITTED", { "/i/1": "1", "/i/2": "2" });
    await one.query(`SELECT value FROM ${table} WHERE key >= '/i/2' FOR UPDATE`);
    await etcd.put("/i/1", "50");
    await one.query("SAVEPOINT a; INSERT INTO i VALUES ('/i/8', 'x')");
    await etcd.put("/i/2", "50");
    assert.equal(await outcome(one, "COMMIT"), "40001", table);
  }
  await two.query("ROLLBACK");
  await db.sql("DROP TABLE parts");
});

test("8 sessions with 500 guarded increments each, repeated on 40001, end in exactly 4,000", async () => {
  await etcd.client.deletePrefix("/i/");
  await etcd.put("/i/counter", "0");
  let retries = 0;
  const work = async () => {
    const session = await db.connect();
    for (let done = 0; done < 500;) {
      try {
        await session.query("UPDATE i SET value = (value::int + 1)::text WHERE key = '/i/counter'");
        done++;
      } catch (error) {
        assert.equal((error as SqlError).code, "40001");
        retries++;
      }
    }
    await session.end();
  };
  await Promise.all(Array.from({ length: 8 }, work));
  assert.equal(new TextDecoder().decode((await etcd.get("/i/counter"))!.value), "4000");
  assert.ok(retries > 0, "there was no contention");
});

test("a serialization failure that PostgreSQL finds itself is told before etcd is written", async () => {
  await db.sql("CREATE TABLE mine (id int PRIMARY KEY, v int); INSERT INTO mine VALUES (1, 0), (2, 0)");
  await begin("SERIALIZABLE", {});
  for (const [session, id] of [[one, 1], [two, 2]] as const) {
    await session.query("SELECT sum(v) FROM mine");
    await session.query(`UPDATE mine SET v = v + 1 WHERE id = ${id}`);
    await session.query(`INSERT INTO i VALUES ('/i/${id}', 'written')`);
  }
  assert.equal(await outcome(one, "COMMIT"), "");
  assert.equal(await outcome(two, "COMMIT"), "40001");
  assert.notEqual(await etcd.get("/i/1"), null);
  assert.equal(await etcd.get("/i/2"), null);
  await two.query("ROLLBACK");
});

test("SERIALIZABLE: a read in a function that sets itself read-only counts, a read of the past does not", async () => {
  // PostgreSQL 17 and later know this of subtransactions only.
  const [{ version }] = await db.sql("SELECT current_setting('server_version_num')::int AS version");
  const setting = version < 170000 ? "SET transaction_read_only = on" : "";
  await db.sql(`CREATE FUNCTION readonly(k text) RETURNS text LANGUAGE sql ${setting}
    AS 'SELECT value FROM i WHERE key = k'`);
  await begin("SERIALIZABLE", { "/i/1": "a", "/i/2": "b" });
  if (version < 170000) await one.query("SELECT readonly('/i/2')");
  else {
    await one.query("SAVEPOINT a; SET TRANSACTION READ ONLY");
    await one.query("SELECT readonly('/i/2')");
    await one.query("RELEASE a");
  }
  await etcd.put("/i/2", "changed");
  await one.query("INSERT INTO i VALUES ('/i/3', 'rests on 2')");
  assert.equal(await outcome(one, "COMMIT"), "40001");
  const revision = await etcd.put("/i/1", "now");
  await etcd.put("/i/1", "later");
  await one.query(`ROLLBACK; SET etcd_fdw.revision = ${revision}; BEGIN ISOLATION LEVEL SERIALIZABLE`);
  assert.equal(await value(one), "now");
  await one.query("SET etcd_fdw.revision = 0; INSERT INTO i VALUES ('/i/4', 'rests on history')");
  assert.equal(await outcome(one, "COMMIT"), "");
  await one.query("RESET etcd_fdw.revision");
});
