// Which revision is read: one for all scans of a statement, of a transaction where PostgreSQL promises that, or the one
// that was asked for.

import assert from "node:assert/strict";
import { startEtcd } from "../helpers/etcd.ts";
import { suite } from "../helpers/suite.ts";
import { explain, property } from "../helpers/twin.ts";

const { db, etcd, test } = await suite("revision");

await etcd.putMany(Array.from({ length: 20 }, (_, i): [string, string] => [`/r/${i}`, "old"]));
await db.sql(`CREATE EXTENSION dblink`).catch(() => {});
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE r (key text COLLATE "C", value text, mod_revision bigint) SERVER etcd OPTIONS (prefix '/r/');
  CREATE FOREIGN TABLE n (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/n/')`);

/** Runs `act` while a statement of another session stands between its first and its second scan. */
async function between(query: string, act: () => Promise<unknown>) {
  const client = await db.connect();
  try {
    await client.query("BEGIN; SELECT pg_advisory_lock(1); COMMIT");
    // The lock in the middle of the statement is taken by the test until it has written.
    const running = db.sql(query);
    for (;;) {
      const { rows } = await client.query(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
      );
      if (rows.length > 0) break;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await act();
    await client.query("SELECT pg_advisory_unlock(1)");
    const result = await running;
    await db.sql("SELECT pg_advisory_unlock_all()");
    return result;
  } finally {
    await client.end();
  }
}

test("all scans of one statement see one state, while another client writes", async () => {
  const query = `WITH first AS MATERIALIZED (SELECT count(*) FILTER (WHERE value = 'old') AS n FROM r),
      wait AS MATERIALIZED (SELECT pg_advisory_lock(1) FROM first WHERE n >= 0),
      second AS MATERIALIZED (SELECT (SELECT count(*) FROM wait) AS w, r.value FROM r WHERE key = '/r/1'
        AND (SELECT count(*) FROM wait) = 1),
      third AS MATERIALIZED (SELECT count(*) AS keys FROM r WHERE (SELECT count(*) FROM wait) = 1),
      fourth AS MATERIALIZED (SELECT max(key) FROM n WHERE (SELECT count(*) FROM wait) = 1)
    SELECT n, second.value, keys, max FROM first, second, third, fourth`;
  const rows = await between(query, async () => {
    await etcd.put("/r/1", "new");
    await etcd.put("/r/more", "new");
    await etcd.put("/n/1", "new");
  });
  assert.deepEqual(rows, [{ n: "20", value: "old", keys: "20", max: null }]);
  assert.equal((await db.sql("SELECT value FROM r WHERE key = '/r/1'"))[0].value, "new");
  assert.equal((await db.sql("SELECT max(key) FROM n"))[0].max, "/n/1");
});

test("a self-join sees one state", async () => {
  for (let i = 0; i < 30; i++) {
    const writing = etcd.put("/r/2", `w${i}`);
    const rows = await db.sql(
      "SELECT a.value AS x, b.value AS y FROM r a JOIN r b USING (key) WHERE a.value <> b.value",
    );
    assert.deepEqual(rows, []);
    await writing;
  }
});

test("READ COMMITTED: each statement reads anew; REPEATABLE READ: the first one's revision", async () => {
  const value = async () => (await db.sql("SELECT value FROM r WHERE key = '/r/3'"))[0].value;
  for (const [level, sees] of [["READ COMMITTED", "2"], ["REPEATABLE READ", "1"], ["SERIALIZABLE", "1"]]) {
    await etcd.put("/r/3", "1");
    await db.sql(`BEGIN ISOLATION LEVEL ${level}`);
    assert.equal(await value(), "1");
    await etcd.put("/r/3", "2");
    assert.equal(await value(), sees, level);
    await db.sql("SAVEPOINT s");
    assert.equal(await value(), sees, level);
    await db.sql("ROLLBACK TO s");
    assert.equal((await db.sql("SELECT max(value) FROM r WHERE key IN ('/r/3', '/r/none')"))[0].max, sees);
    await db.sql("COMMIT");
    assert.equal(await value(), "2");
  }
});

test("a cursor keeps its revision, statements beside it do not", async () => {
  await etcd.put("/r/4", "1");
  await db.sql("BEGIN; DECLARE c CURSOR FOR SELECT key, value FROM r ORDER BY key DESC; FETCH 1 FROM c");
  await etcd.put("/r/4", "2");
  assert.equal((await db.sql("SELECT value FROM r WHERE key = '/r/4'"))[0].value, "2");
  const rest = await db.sql("FETCH ALL FROM c");
  assert.equal(rest.find((row) => row.key === "/r/4")!.value, "1");
  await db.sql("COMMIT");
});

test("a volatile function's query reads anew, a stable one's reads with its caller", async () => {
  await db.sql(`CREATE FUNCTION vol() RETURNS text LANGUAGE plpgsql VOLATILE AS
      $$ BEGIN PERFORM pg_advisory_lock(1); RETURN (SELECT value FROM r WHERE key = '/r/5'); END $$;
    CREATE FUNCTION sta() RETURNS text LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN (SELECT value FROM r WHERE key = '/r/5'); END $$`);
  await etcd.put("/r/5", "1");
  const rows = await between(
    "SELECT value AS before, vol() AS vol, sta() AS sta FROM r WHERE key = '/r/5'",
    () => etcd.put("/r/5", "2"),
  );
  assert.deepEqual(rows, [{ before: "1", vol: "2", sta: "1" }]);
});

test("etcd_fdw.revision travels in time, a table's own revision wins", async () => {
  await etcd.put("/r/6", "then");
  const then = await etcd.revision();
  await etcd.put("/r/6", "now");
  await db.sql(
    `CREATE FOREIGN TABLE pinned (key text, value text) SERVER etcd OPTIONS (prefix '/r/', revision '${then}')`,
  );
  const value = async (table = "r") =>
    (await db.sql(`SELECT value FROM ${table} WHERE key = '/r/6'`))[0].value;
  await db.sql(`SET etcd_fdw.revision = ${then}`);
  assert.equal(await value(), "then");
  assert.equal(property(await explain(db, "SELECT * FROM r"), "Etcd Revision"), String(then));
  await db.sql("SET etcd_fdw.revision = 2");
  assert.equal(await value("pinned"), "then");
  assert.equal((await db.sql("SELECT count(*) FROM r WHERE key = '/r/6' AND value = 'old'"))[0].count, "1");
  await db.sql("BEGIN; SET LOCAL etcd_fdw.revision = 0");
  assert.equal(await value(), "now");
  await db.sql("COMMIT; RESET etcd_fdw.revision");
  assert.equal(await value(), "now");
  for (const wrong of ["-1", "x", "1.5", "99999999999999999999"]) {
    assert.equal((await db.failure(`SET etcd_fdw.revision = '${wrong}'`)).code, "22023", wrong);
  }
});

test("etcd_fdw.revision counts as it is when a query begins, for all of its scans", async () => {
  await db.sql("CREATE TABLE names AS SELECT '/r/8' || i AS key FROM generate_series(1, 3) i; ANALYZE names");
  await etcd.putMany([1, 2, 3].map((i): [string, string] => [`/r/8${i}`, "old"]));
  const old = await etcd.revision();
  await etcd.putMany([1, 2, 3].map((i): [string, string] => [`/r/8${i}`, "new"]));
  for (
    const query of [
      "SELECT key, (SELECT value FROM r WHERE r.key = names.key) AS value FROM names",
      "SELECT key, value FROM r WHERE key IN ('/r/81', '/r/82', '/r/83')",
      "SELECT a.key, (SELECT value FROM r b WHERE b.key = a.key) AS value FROM r a WHERE key >= '/r/81' AND key <= '/r/83'",
    ]
  ) {
    for (const fetched of [1, 0]) {
      await db.sql(`BEGIN; DECLARE c CURSOR FOR ${query}; ${fetched ? "FETCH 1 FROM c;" : ""}
        SET LOCAL etcd_fdw.revision = ${old}`);
      const rows = await db.sql("FETCH ALL FROM c");
      assert.deepEqual(rows.map(({ value }) => value), Array(3 - fetched).fill("new"), query);
      assert.equal((await db.sql(query))[0].value, "old");
      await db.sql("COMMIT");
      // The other way round.
      await db.sql(`BEGIN; SET LOCAL etcd_fdw.revision = ${old}; DECLARE c CURSOR FOR ${query};
        ${fetched ? "FETCH 1 FROM c;" : ""} SET LOCAL etcd_fdw.revision = 0`);
      const past = await db.sql("FETCH ALL FROM c");
      assert.deepEqual(past.map(({ value }) => value), Array(3 - fetched).fill("old"), query);
      await db.sql("COMMIT");
    }
  }
});

test("etcd_fdw.revision of the caller does not reach a cursor that a SECURITY DEFINER function has opened", async () => {
  await etcd.put("/r/9", "secret");
  const secret = await etcd.revision();
  await etcd.put("/r/9", "public");
  await db.sql(`CREATE ROLE owner; CREATE ROLE caller LOGIN; GRANT SELECT ON r TO owner;
    GRANT CREATE ON SCHEMA public TO owner; SET ROLE owner;
    CREATE FUNCTION opened() RETURNS refcursor LANGUAGE plpgsql SECURITY DEFINER AS $$ DECLARE c refcursor := 'c';
      BEGIN OPEN c FOR SELECT value FROM r WHERE key = '/r/9'; RETURN c; END $$;
    CREATE FUNCTION opened_range() RETURNS refcursor LANGUAGE plpgsql SECURITY DEFINER AS $$ DECLARE c refcursor := 'c';
      BEGIN OPEN c FOR SELECT value FROM r WHERE key >= '/r/9' AND key < '/r/90'; RETURN c; END $$; RESET ROLE`);
  const caller = await db.connect("caller");
  try {
    for (const f of ["opened", "opened_range"]) {
      await caller.query(`BEGIN; SET LOCAL etcd_fdw.revision = ${secret}; SELECT ${f}()`);
      assert.deepEqual((await caller.query("FETCH ALL FROM c")).rows, [{ value: "public" }], f);
      await caller.query("COMMIT");
    }
  } finally {
    await caller.end();
  }
});

test("etcd_fdw.revision of the caller reaches neither policies nor the views of others", async () => {
  await etcd.put("/acl/reader", "ok");
  const allowed = String(await etcd.revision());
  await etcd.client.deletePrefix("/acl/");
  await db.sql(`CREATE ROLE keeper; CREATE ROLE reader LOGIN; GRANT CREATE ON SCHEMA public TO keeper, reader;
    CREATE FOREIGN TABLE acl (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/acl/');
    GRANT SELECT ON acl TO keeper, reader; SET ROLE keeper;
    CREATE TABLE docs (id int, body text); INSERT INTO docs VALUES (1, 'public'), (2, 'secret');
    CREATE VIEW shown AS SELECT id FROM docs WHERE id = 1 OR EXISTS (SELECT FROM acl WHERE key = '/acl/' || current_user);
    CREATE VIEW invoking WITH (security_invoker = true) AS SELECT key FROM acl;
    CREATE TABLE guarded AS TABLE docs; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
    CREATE POLICY p ON guarded USING (id = 1 OR EXISTS (SELECT FROM acl WHERE key = '/acl/' || current_user))
      WITH CHECK (EXISTS (SELECT FROM acl WHERE key = '/acl/reader'));
    CREATE VIEW over_guarded AS SELECT id FROM guarded;
    GRANT SELECT ON shown, invoking, over_guarded TO reader; GRANT ALL ON guarded TO reader; RESET ROLE`);
  const reader = await db.connect("reader");
  const read = async (text: string) => (await reader.query({ text, rowMode: "array" })).rows.flat();
  try {
    await reader.query(`CREATE VIEW own AS SELECT key FROM acl; SET etcd_fdw.revision = ${allowed}`);
    for (const query of ["SELECT id FROM shown", "SELECT id FROM guarded", "SELECT id FROM over_guarded"]) {
      assert.deepEqual(await read(query), [1], query);
    }
    await assert.rejects(reader.query("INSERT INTO guarded VALUES (3, 'x')"), { code: "42501" });
    assert.deepEqual(
      await read("UPDATE guarded SET body = 'x' RETURNING id").catch(({ code }) => code),
      "42501",
    );
    for (const own of ["acl", "own", "invoking"]) {
      assert.deepEqual(await read(`SELECT key FROM ${own}`), ["/acl/reader"], own);
    }
    const plan = async (table: string) => (await read(`EXPLAIN SELECT * FROM ${table}`)).join("\n");
    assert.match(await plan("own"), new RegExp(`Etcd Revision: ${allowed}`));
    assert.doesNotMatch(await plan("shown"), new RegExp(`Etcd Revision: ${allowed}`));
  } finally {
    await reader.end();
  }
  // The owner's own setting counts, as does an administrator's.
  await db.sql(`SET ROLE keeper; SET etcd_fdw.revision = ${allowed}`);
  assert.equal((await db.sql("SELECT count(*)::int AS n FROM invoking"))[0].n, 1);
  await db.sql(`RESET ROLE; SET etcd_fdw.revision = ${allowed}; SET ROLE reader`);
  assert.deepEqual(await db.sql("SELECT id FROM guarded"), [{ id: 1 }, { id: 2 }]);
  assert.deepEqual(await db.sql("SELECT id FROM over_guarded"), [{ id: 1 }, { id: 2 }]);
  await db.sql("RESET ROLE; RESET etcd_fdw.revision");
});

test("a compacted revision is an error with the oldest one that can be read", async () => {
  await etcd.put("/r/7", "1");
  const oldest = await etcd.revision();
  await etcd.put("/r/7", "2");
  await etcd.compact(oldest);
  await db.sql("SET etcd_fdw.revision = 2");
  for (
    const query of [
      "SELECT * FROM r",
      "SELECT count(*) FROM r",
      "SELECT * FROM r WHERE key IN ('/r/1', '/r/2')",
    ]
  ) {
    const error = await db.failure(query);
    assert.equal(error.code, "22023");
    assert.match(error.message, /revision 2 .*compacted/);
    assert.match(error.hint!, new RegExp(`oldest .* ${oldest}\\b`));
  }
  await db.sql(`SET etcd_fdw.revision = ${oldest}`);
  assert.equal((await db.sql("SELECT value FROM r WHERE key = '/r/7'"))[0].value, "1");
  await db.sql("RESET etcd_fdw.revision");
  const future = await db.failure("SET etcd_fdw.revision = 1000000; SELECT * FROM r");
  assert.equal(future.code, "22023");
  await db.sql("RESET etcd_fdw.revision");
});

test("a serializable read is served by one member alone", async () => {
  await db.sql(
    "CREATE FOREIGN TABLE ser (key text, value text) SERVER etcd OPTIONS (prefix '/r/', consistency 's')",
  );
  assert.equal(property(await explain(db, "SELECT * FROM ser"), "Etcd Consistency"), "serializable");
  assert.equal((await db.sql("SELECT value FROM ser WHERE key = '/r/7'"))[0].value, "2");
});

test("ALTER SERVER to another cluster: what has a revision of the old one goes on with it", async () => {
  const other = await startEtcd();
  try {
    // Far enough for the old cluster's revisions to be there too, with something else in them.
    await other.putMany(Array.from({ length: 400 }, (_, i): [string, string] => [`/x/${i}`, "x"]));
    for (let i = 0; i < 200; i++) await other.put("/r/3", "elsewhere");
    await etcd.put("/r/3", "here");
    const point = async (cluster: typeof etcd) => {
      const session = await db.connect();
      await session.query(`ALTER SERVER etcd OPTIONS (SET connstr '${cluster.endpoints[0]}')`);
      await session.end();
    };
    const value = async () => (await db.sql("SELECT value FROM r WHERE key = '/r/3'"))[0]?.value;
    const cases = [
      ["READ COMMITTED", "SELECT 1", "elsewhere"],
      ["READ COMMITTED", "DECLARE c CURSOR FOR SELECT * FROM r; FETCH 1 FROM c", "here"],
      ["READ COMMITTED", "INSERT INTO n VALUES ('/n/staged', '1')", "here"],
      ["REPEATABLE READ", "SELECT 1", "here"],
      ["REPEATABLE READ", "INSERT INTO n VALUES ('/n/staged', '1')", "here"],
      ["SERIALIZABLE", "SELECT 1", "here"],
    ];
    for (const [level, statement, sees] of cases) {
      await etcd.client.deletePrefix("/n/");
      await db.sql(`BEGIN ISOLATION LEVEL ${level}`);
      assert.equal(await value(), "here");
      await db.sql(statement);
      await point(other);
      try {
        assert.equal(await value(), sees, `${level}: ${statement}`);
        if (level !== "READ COMMITTED") {
          await db.sql("UPDATE r SET value = value || '!' WHERE key = '/r/3'");
          await db.sql("COMMIT");
          assert.equal(new TextDecoder().decode((await etcd.get("/r/3"))!.value), "here!");
          await etcd.put("/r/3", "here");
        } else await db.sql("COMMIT");
        assert.equal(await value(), "elsewhere", "after the transaction");
      } finally {
        await db.sql("ROLLBACK");
        await point(etcd);
      }
    }
    // A cursor whose pages come from the old cluster to the last.
    await etcd.putMany(Array.from({ length: 5000 }, (_, i): [string, string] => [`/r/page/${i}`, "here"]));
    await db.sql("BEGIN; DECLARE c CURSOR FOR SELECT * FROM r WHERE key LIKE '/r/page/%'; FETCH 1 FROM c");
    await point(other);
    await db.sql("SELECT etcd_put('etcd', '/beside', 'x')");
    assert.equal((await db.sql("FETCH ALL FROM c")).length, 4999);
    await db.sql("COMMIT");
    assert.notEqual(await other.get("/beside"), null, "what a function does belongs to no transaction");
    assert.equal(await value(), "elsewhere");
    await point(etcd);
    // A connection that must be made anew leads to the other cluster: that is told.
    await db.sql("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert.equal(await value(), "here");
    await point(other);
    await db.sql("SELECT etcd_fdw_disconnect()");
    const error = await db.failure("SELECT * FROM r");
    assert.equal(error.code, "40001");
    assert.match(error.message, /server "etcd"/);
    await db.sql("ROLLBACK");
    assert.equal(await value(), "elsewhere");
    await point(etcd);
  } finally {
    await other.stop();
  }
});
