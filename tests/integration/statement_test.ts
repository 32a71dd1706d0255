// What one statement sees: of rescans, of its own other scans, of its functions, and what its writing parts find.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";
import { rangeResponse, startFakeEtcd } from "../helpers/fake_etcd.ts";

const { db, etcd, test } = await suite("statement");

const keys = Array.from({ length: 9 }, (_, i) => `/s/${i}`);
await etcd.putMany(keys.map((key): [string, string] => [key, key.slice(3)]));
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE s (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/s/');
  CREATE FOREIGN TABLE w (key text COLLATE "C", value text, ttl int) SERVER etcd OPTIONS (prefix '/w/')`);

test("LIMIT and OFFSET of an outer row are those of this row", async () => {
  const wanted = (rows: number[][]) => rows.map(([n, ...list]) => ({ n, list: list.map((i) => `/s/${i}`) }));
  assert.deepEqual(
    await db.sql(
      "SELECT n, ARRAY(SELECT key FROM s ORDER BY key LIMIT n) AS list FROM (VALUES (1), (3), (0), (2)) v(n)",
    ),
    wanted([[1, 0], [3, 0, 1, 2], [0], [2, 0, 1]]),
  );
  assert.deepEqual(
    await db.sql(`SELECT n, (SELECT array_agg(key) FROM (SELECT key FROM s ORDER BY key OFFSET n) x) AS list
      FROM (VALUES (7), (6), (8), (5)) v(n)`),
    wanted([[7, 7, 8], [6, 6, 7, 8], [8, 8], [5, 5, 6, 7, 8]]),
  );
  assert.deepEqual(
    await db.sql(`SELECT n, array_agg(key) AS list FROM (VALUES (1), (4), (2)) v(n),
      LATERAL (SELECT key FROM s ORDER BY key LIMIT n OFFSET n) x GROUP BY n ORDER BY n`),
    wanted([[1, 1], [2, 2, 3], [4, 4, 5, 6, 7]]),
  );
  assert.deepEqual(
    await db.sql(`SELECT n, ARRAY(SELECT key FROM s ORDER BY key DESC LIMIT NULLIF(n, 9) OFFSET 7) AS list
      FROM (VALUES (1), (9), (2)) v(n)`),
    wanted([[1, 1], [9, 1, 0], [2, 1, 0]]),
  );
});

test("UPDATE and DELETE in a WITH find their rows, whatever the statement is", async () => {
  await db.sql("CREATE TABLE kept (key text, value text)");
  await etcd.putMany([["/w/1", "a"], ["/w/2", "b"], ["/w/3", "c"]]);
  await db.sql(
    "WITH gone AS (DELETE FROM w WHERE value < 'b' RETURNING key, value) INSERT INTO kept SELECT * FROM gone",
  );
  assert.deepEqual(await db.sql("SELECT * FROM kept"), [{ key: "/w/1", value: "a" }]);
  await db.sql(`WITH changed AS (UPDATE w SET value = value || '!' RETURNING key, value)
    INSERT INTO kept SELECT * FROM changed`);
  assert.deepEqual(await db.sql("SELECT value FROM kept ORDER BY key"), [{ value: "a" }, { value: "b!" }, {
    value: "c!",
  }]);
  // Into the table itself.
  await db.sql(`WITH gone AS (DELETE FROM w WHERE key = '/w/2' RETURNING key, value)
    INSERT INTO w (key, value) SELECT key || 'x', value FROM gone`);
  assert.deepEqual(await db.sql("SELECT key, value FROM w ORDER BY key"), [
    { key: "/w/2x", value: "b!" },
    { key: "/w/3", value: "c!" },
  ]);
  await db.sql("TRUNCATE w");
});

test("an UPDATE keeps no more of its rows in memory than work_mem", async () => {
  const count = 1500;
  await db.sql(
    `INSERT INTO w (key, value) SELECT '/w/' || i, repeat(i::text, 500) FROM generate_series(1, ${count}) i;
    CREATE TABLE factor (n int); INSERT INTO factor VALUES (1), (2);
    CREATE TABLE memory (bytes bigint);
    CREATE FUNCTION note_memory() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.key = '/w/999' THEN INSERT INTO memory SELECT sum(total_bytes) FROM pg_backend_memory_contexts
        WHERE name = 'etcd_fdw rows' OR ident = 'etcd_fdw rows'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER note BEFORE UPDATE ON w FOR EACH ROW EXECUTE FUNCTION note_memory();
    SET work_mem = '64kB'`,
  );
  // Each row is found twice and changed once, in another order than it was found; its value is kept, its lease changes.
  for (const [ttl, join] of [["100 + n", "hashjoin"], ["200 + n", "nestloop"]]) {
    const others = ["hashjoin", "nestloop", "mergejoin"].filter((one) => one !== join);
    await db.sql(others.map((one) => `SET enable_${one} = off`).join("; "));
    const { length } = await db.sql(
      `UPDATE w SET ttl = 600 FROM (SELECT key AS k, ${ttl} AS x FROM w, factor ORDER BY md5(key)) o
      WHERE w.key = o.k RETURNING w.key`,
    );
    assert.equal(length, count);
  }
  await db.sql("RESET ALL; DROP TRIGGER note ON w");
  const memory = await db.sql("SELECT bytes::int AS bytes FROM memory");
  assert.equal(memory.length, 4);
  for (const { bytes } of memory) assert.ok(bytes > 0 && bytes < 1_000_000, String(bytes));
  assert.deepEqual(
    await db.sql(
      "SELECT count(*)::int AS n, bool_and(value = repeat(substr(key, 4), 500) AND ttl > 500) AS kept FROM w",
    ),
    [{ n: count, kept: true }],
  );
  await db.sql("SET work_mem = '64kB'");
  assert.deepEqual(
    await db.sql(`WITH gone AS (DELETE FROM w RETURNING key, value)
      SELECT count(*)::int AS n, bool_and(value = repeat(substr(key, 4), 500)) AS same FROM gone`),
    [{ n: count, same: true }],
  );
  // An error in the middle leaves no file behind.
  await db.sql(
    `INSERT INTO w (key, value) SELECT '/w/' || i, repeat('x', 1000) FROM generate_series(1, 500) i`,
  );
  assert.equal(
    (await db.failure("UPDATE w SET ttl = 600 / (CASE key WHEN '/w/99' THEN 0 ELSE 1 END)")).code,
    "22012",
  );
  const files = await db.sql("SELECT count(*)::int AS n FROM pg_ls_tmpdir()");
  assert.deepEqual(files, [{ n: 0 }]);
  await db.sql("RESET ALL; TRUNCATE w");
});

test("a STABLE function's reads are of the statement's one state, wherever the first one is", async () => {
  await db.sql(`CREATE EXTENSION IF NOT EXISTS plpgsql;
    CREATE FUNCTION sta() RETURNS text LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN (SELECT value FROM s WHERE key = '/s/0'); END $$;
    CREATE FUNCTION sql_sta() RETURNS text LANGUAGE sql STABLE AS
      $$ SELECT value FROM s WHERE key = '/s/0' AND length(current_database()) > 0 $$;
    CREATE FUNCTION vol() RETURNS text LANGUAGE plpgsql VOLATILE AS
      $$ BEGIN RETURN (SELECT value FROM s WHERE key = '/s/0'); END $$;
    CREATE FUNCTION meanwhile(text) RETURNS text LANGUAGE plpgsql VOLATILE AS
      $$ BEGIN PERFORM etcd_put('/s/0', $1); RETURN $1; END $$`);
  const query = (f: string) =>
    `SELECT ${f}() AS one, meanwhile('new') AS m, ${f}() AS two, (SELECT value FROM s
    WHERE key = '/s/0' AND length(m.w) > 0) AS three FROM (SELECT 'x'::text AS w) m`;
  for (const f of ["sta", "sql_sta"]) {
    await etcd.put("/s/0", "old");
    assert.deepEqual(await db.sql(query(f)), [{ one: "old", m: "new", two: "old", three: "old" }], f);
    // Each statement of a transaction has a state of its own.
    await etcd.put("/s/0", "old");
    await db.sql("BEGIN");
    assert.equal((await db.sql(`SELECT ${f}() AS v`))[0].v, "old");
    await etcd.put("/s/0", "later");
    assert.equal((await db.sql(`SELECT ${f}() AS v`))[0].v, "later");
    assert.deepEqual(await db.sql(query(f)), [{ one: "later", m: "new", two: "later", three: "later" }], f);
    await db.sql("COMMIT");
  }
  await etcd.put("/s/0", "old");
  assert.deepEqual((await db.sql(query("vol"))).map(({ one, two }) => [one, two]), [["old", "new"]]);
  // A volatile function's queries, one after the other, each read anew.
  await db.sql(
    `CREATE FUNCTION twice() RETURNS text[] LANGUAGE plpgsql VOLATILE AS $$ DECLARE a text; b text; BEGIN
    SELECT value INTO a FROM s WHERE key = '/s/0'; PERFORM etcd_put('/s/0', 'again');
    SELECT value INTO b FROM s WHERE key = '/s/0'; RETURN ARRAY[a, b]; END $$`,
  );
  assert.deepEqual(await db.sql("SELECT twice() AS t"), [{ t: ["new", "again"] }]);
  await etcd.put("/s/0", "0");
});

test("a STABLE function called in an expression, beside any query, reads one state too", async () => {
  await db.sql(`CREATE FUNCTION before_and_after(n int) RETURNS text LANGUAGE plpgsql STABLE AS $$
    DECLARE a text; b text; BEGIN
      SELECT value INTO a FROM s WHERE key = '/s/0';
      PERFORM etcd_put('/s/0', (a::int + n)::text);
      SELECT value INTO b FROM s WHERE key = '/s/0';
      RETURN a || ' ' || b; END $$;
    CREATE FUNCTION by_sql() RETURNS text LANGUAGE sql STABLE AS $$ SELECT before_and_after(1) $$;
    CREATE FUNCTION two_by_sql(OUT a text) LANGUAGE sql STABLE AS $$
      SELECT value FROM s WHERE key = '/s/0'; SELECT etcd_put('/s/0', '99')::text; SELECT value FROM s WHERE key = '/s/0' $$;
    CREATE TABLE noted (n int, what text);
    CREATE PROCEDURE note(n int, what text) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO noted VALUES (n, what); END $$;
    CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN NEW.what := before_and_after(1); RETURN NEW; END $$;
    CREATE TABLE watched (n int, what text DEFAULT before_and_after(1));
    CREATE TABLE triggered (n int, what text);
    CREATE TRIGGER note BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION note_row()`);
  const cases = [
    "DO $$ DECLARE x text; BEGIN x := before_and_after(1); INSERT INTO noted VALUES (1, x); END $$",
    "CALL note(1, before_and_after(1))",
    "INSERT INTO triggered VALUES (1); INSERT INTO noted SELECT * FROM triggered",
    "INSERT INTO watched (n) VALUES (1); INSERT INTO noted SELECT * FROM watched",
    "PREPARE p (text) AS INSERT INTO noted VALUES (1, $1); EXECUTE p (before_and_after(1))",
    "DO $$ DECLARE x text; BEGIN x := by_sql(); INSERT INTO noted VALUES (1, x); END $$",
    "DO $$ DECLARE x text; BEGIN x := two_by_sql(); INSERT INTO noted VALUES (1, x || ' ' || x); END $$",
    // What other expressions have read meanwhile, each under a snapshot of its own.
    `DO $$ DECLARE x text; BEGIN FOR i IN 1..100 LOOP x := before_and_after(0); END LOOP;
      x := before_and_after(1); INSERT INTO noted VALUES (1, x); END $$`,
  ];
  for (const statement of cases) {
    await etcd.put("/s/0", "1");
    await db.sql(statement);
    assert.deepEqual(await db.sql("DELETE FROM noted RETURNING what"), [{ what: "1 1" }], statement);
  }
  // The statements of a volatile SQL function see what functions before them have done.
  await db.sql(`CREATE FUNCTION one_after_another() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT value FROM s WHERE key = '/s/0'; SELECT etcd_put('/s/0', 'new'); SELECT value FROM s WHERE key = '/s/0' $$`);
  assert.deepEqual(await db.sql("SELECT one_after_another() AS v"), [{ v: "new" }]);
  await db.sql("DROP TABLE watched, triggered");
  await etcd.put("/s/0", "0");
});

test("no snapshot is held for what a statement has read", async () => {
  const other = await db.connect();
  try {
    await db.sql("BEGIN");
    const [{ pid }] = await db.sql("SELECT pg_backend_pid() AS pid");
    await db.sql("SELECT sta(), value FROM s WHERE key = '/s/1'");
    const held = "SELECT backend_xmin::text AS xmin FROM pg_stat_activity WHERE pid = $1";
    assert.deepEqual((await other.query(held, [pid])).rows, [{ xmin: null }]);
    await db.sql("SAVEPOINT a; SELECT sta(); SELECT 1/0").catch(() => {});
    await db.sql("ROLLBACK TO a; SELECT sta()");
    assert.deepEqual((await other.query(held, [pid])).rows, [{ xmin: null }]);
    await db.sql("COMMIT");
  } finally {
    await other.end();
  }
});

// A server with assertions ends where a snapshot that is to be moved on is still held.
test("what follows a read under the same snapshot runs: of rules, SQL functions and DO", async () => {
  const [{ n }] = await db.sql("SELECT count(*)::int AS n FROM s");
  await db.sql(`CREATE TABLE r (n bigint); CREATE TABLE by_rule (n bigint);
    CREATE FUNCTION stable_count() RETURNS bigint LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN (SELECT count(*) FROM s WHERE length(value) > 0); END $$;
    CREATE RULE a AS ON INSERT TO r DO ALSO INSERT INTO by_rule SELECT count(*) FROM s;
    CREATE RULE b AS ON INSERT TO r DO ALSO INSERT INTO by_rule SELECT stable_count();
    CREATE RULE c AS ON INSERT TO r DO ALSO INSERT INTO by_rule SELECT count(*) FROM s WHERE value <> '';
    CREATE FUNCTION three() RETURNS bigint LANGUAGE sql VOLATILE AS $$
      INSERT INTO r SELECT count(*) FROM s; INSERT INTO r SELECT stable_count(); SELECT count(*) FROM s $$`);
  await db.sql("INSERT INTO r SELECT stable_count() FROM s LIMIT 1");
  assert.deepEqual(await db.sql("SELECT three()::int AS n"), [{ n }]);
  assert.deepEqual(await db.sql("SELECT three()::int AS n FROM generate_series(1, 2)"), [{ n }, { n }]);
  await db.sql(`DO $$ BEGIN
    EXECUTE 'INSERT INTO r SELECT stable_count(); INSERT INTO r SELECT count(*) FROM s; SELECT stable_count()';
    BEGIN PERFORM stable_count() / 0; EXCEPTION WHEN division_by_zero THEN INSERT INTO r SELECT stable_count(); END;
    END $$`);
  assert.deepEqual(
    await db.sql(
      "SELECT (SELECT count(*)::int FROM r WHERE n = $1) AS r, count(*)::int AS n FROM by_rule WHERE n = $1",
      [n],
    ),
    [{ r: 10, n: 30 }],
  );
});

test("ON CONFLICT DO NOTHING leaves the row alone on a table with upsert too", async () => {
  await db.sql(
    "CREATE FOREIGN TABLE up (key text, value text) SERVER etcd OPTIONS (prefix '/w/', upsert 'true')",
  );
  await etcd.put("/w/up", "old");
  assert.deepEqual(
    await db.sql(
      "INSERT INTO up VALUES ('/w/up', 'new'), ('/w/up2', 'new') ON CONFLICT DO NOTHING RETURNING key",
    ),
    [{ key: "/w/up2" }],
  );
  await db.sql("INSERT INTO up VALUES ('/w/up2', 'newer')");
  assert.deepEqual(await db.sql("SELECT * FROM up ORDER BY key"), [
    { key: "/w/up", value: "old" },
    { key: "/w/up2", value: "newer" },
  ]);
  await db.sql("TRUNCATE w");
});

test("an older cursor does not see rows of a later COPY", async () => {
  await db.sql(
    "BEGIN; INSERT INTO w (key, value) VALUES ('/w/a', 'a'); DECLARE c CURSOR FOR SELECT key FROM w",
  );
  await db.sql(String.raw`COPY w (key, value) FROM PROGRAM 'printf "/w/b\tb\n"'`);
  assert.deepEqual(await db.sql("SELECT key FROM w ORDER BY key"), [{ key: "/w/a" }, { key: "/w/b" }]);
  assert.deepEqual(await db.sql("FETCH ALL FROM c"), [{ key: "/w/a" }]);
  await db.sql("ROLLBACK");
});

/** The varint field 4 (revision) or 7 (serializable) of a RangeRequest without bytes of these values in its key. */
function numbers(message: Uint8Array): Record<number, number> {
  const result: Record<number, number> = {};
  for (let at = 0; at < message.length;) {
    const field = message[at] >> 3;
    if ((message[at] & 7) === 2) at += 2 + message[at + 1];
    else {
      let value = 0;
      let shift = 0;
      do value += (message[++at] & 0x7f) << shift, shift += 7; while (message[at] & 0x80);
      result[field] = value;
      at++;
    }
  }
  return result;
}

test("what a serializable read has seen binds no linearizable one, nor the other way round", async () => {
  // A member that lags behind: its own state is at 5, the cluster's at 9.
  const fake = await startFakeEtcd(({ path, message }) => {
    if (!path.endsWith("/Range")) return { status: 12 };
    const request = numbers(message);
    const revision = request[4] ?? 0;
    if (request[7] === 1 && revision > 5) {
      return { status: 11, message: "etcdserver: mvcc: required revision is a future revision" };
    }
    const at = revision || (request[7] === 1 ? 5 : 9);
    return rangeResponse([{ key: "/k/a", value: String(at) }], { revision: request[7] === 1 ? 5 : 9 });
  });
  try {
    await db.sql(`CREATE SERVER lagging FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${fake.endpoint}');
      CREATE FOREIGN TABLE sure (key text, value text) SERVER lagging OPTIONS (prefix '/k/');
      CREATE FOREIGN TABLE quick (key text, value text) SERVER lagging OPTIONS (prefix '/k/', consistency 's')`);
    const read = (table: string, condition: string) =>
      `SELECT value FROM ${table} WHERE key ${condition} '/k/a'`;
    for (const op of [">=", "="]) {
      const both = (a: string, b: string) =>
        `WITH a AS MATERIALIZED (${read(a, op)}), b AS MATERIALIZED (${
          read(b, op)
        } AND (SELECT value FROM a) IS NOT NULL)
        SELECT a.value AS a, b.value AS b, (${read(a, op)}) AS c FROM a, b`;
      assert.deepEqual(await db.sql(both("quick", "sure")), [{ a: "5", b: "9", c: "5" }]);
      assert.deepEqual(await db.sql(both("sure", "quick")), [{ a: "9", b: "5", c: "9" }]);
      await db.sql("BEGIN ISOLATION LEVEL REPEATABLE READ");
      assert.equal((await db.sql(read("quick", op)))[0].value, "5");
      assert.equal((await db.sql(read("sure", op)))[0].value, "9");
      assert.equal((await db.sql(read("quick", op)))[0].value, "5");
      await db.sql("COMMIT");
    }
  } finally {
    await fake.stop();
  }
});
