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
