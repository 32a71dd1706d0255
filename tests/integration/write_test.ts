// INSERT, UPDATE, DELETE, COPY, TRUNCATE and RETURNING under PostgreSQL's transactions.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";
import { explain, property } from "../helpers/twin.ts";

const { db, etcd, test } = await suite("write");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE w (key text COLLATE "C", value text, create_revision bigint, mod_revision bigint, version bigint,
    lease bigint) SERVER etcd OPTIONS (prefix '/w/');
  CREATE FOREIGN TABLE kv (key text, value text) SERVER etcd OPTIONS (prefix '/w/')`);

/** What etcd holds under the prefix, as another client sees it. */
async function stored(prefix = "/w/"): Promise<Record<string, string>> {
  const text = new TextDecoder();
  return Object.fromEntries(
    (await etcd.client.list(prefix)).map(({ key, value }) => [text.decode(key), text.decode(value)]),
  );
}
async function reset(rows: Record<string, string> = {}): Promise<void> {
  await db.sql("ROLLBACK");
  await etcd.client.deletePrefix("/w/");
  for (const [key, value] of Object.entries(rows)) await etcd.put(key, value);
}

test("INSERT: one row, many rows, from a query, by COPY", async () => {
  await reset();
  await db.sql("INSERT INTO kv VALUES ('/w/1', 'a')");
  await db.sql("INSERT INTO kv VALUES ('/w/2', 'b'), ('/w/3', NULL)");
  await db.sql("INSERT INTO kv SELECT '/w/s' || i, i FROM generate_series(1, 3) i");
  assert.deepEqual(await stored(), {
    ...{ "/w/1": "a", "/w/2": "b", "/w/3": "" },
    ...{ "/w/s1": "1", "/w/s2": "2", "/w/s3": "3" },
  });
  await db.sql(String.raw`COPY kv FROM PROGRAM 'printf "/w/o1\tone\n/w/o2\t\\N\n"'`);
  assert.deepEqual(await stored("/w/o"), { "/w/o1": "one", "/w/o2": "" });
  await db.sql(
    "CREATE TABLE source AS SELECT '/w/c' || i AS key, 'x' || i AS value FROM generate_series(1, 2500) i",
  );
  await db.sql("INSERT INTO kv SELECT * FROM source");
  assert.equal((await db.sql("SELECT count(*) FROM kv WHERE key LIKE '/w/c%'"))[0].count, "2500");
  assert.equal(Object.keys(await stored("/w/c")).length, 2500);
});

test("INSERT of large rows takes no more memory than PostgreSQL's own for the rows of a batch", async () => {
  const [rows, bytes] = [1100, 40_000];
  await db.sql(`CREATE TABLE memory (bytes bigint);
    CREATE FUNCTION noted(i int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN
      IF i > 1050 THEN INSERT INTO memory SELECT sum(total_bytes) FROM pg_backend_memory_contexts; END IF;
      RETURN '/w/large/' || i; END $$`);
  await db.sql(`INSERT INTO kv SELECT noted(i), repeat('x', ${bytes}) FROM generate_series(1, ${rows}) i`);
  const [{ most }] = await db.sql("SELECT max(bytes)::int AS most FROM memory");
  // The batch has been sent: its frames, and what has not left yet, are smaller than it was.
  assert.ok(most < 1024 * bytes, String(most));
  // What a frame does not hold is told with the key that exists, wherever it is.
  assert.match(
    (await db.failure(
      `BEGIN; INSERT INTO kv SELECT '/w/large/' || i, repeat('y', ${bytes}) FROM generate_series(1000, 1200) i
      WHERE i = 1050 OR i > 1100 ORDER BY i = 1050, i`,
    )).detail!,
    /large\/1050/,
  );
  await db.sql("ROLLBACK");
  const client = await db.connect();
  const { rowCount } = await client.query(
    `INSERT INTO kv SELECT '/w/large/' || i, repeat('y', ${bytes}) FROM generate_series(1000, 1200) i ON CONFLICT DO NOTHING`,
  );
  await client.end();
  assert.equal(rowCount, 100);
  assert.deepEqual(
    await db.sql(
      `SELECT count(*)::int AS n, sum((left(value, 1) = 'y')::int)::int AS y, min(length(value)) AS bytes
      FROM w WHERE key >= '/w/large/' AND key < '/w/large0'`,
    ),
    [{ n: 1200, y: 100, bytes }],
  );
  await reset();
});

test("UPDATE of values and of keys, and what is not set stays", async () => {
  await reset({ "/w/1": "a", "/w/2": "b", "/w/3": "c" });
  await db.sql("UPDATE kv SET value = value || '!' WHERE key > '/w/1' COLLATE \"C\"");
  assert.deepEqual(await stored(), { "/w/1": "a", "/w/2": "b!", "/w/3": "c!" });
  await db.sql("UPDATE kv SET key = '/w/9' WHERE key = '/w/1'");
  assert.deepEqual(await stored(), { "/w/2": "b!", "/w/3": "c!", "/w/9": "a" });
  await db.sql("UPDATE kv SET key = key || 'x', value = upper(value)");
  assert.deepEqual(await stored(), { "/w/2x": "B!", "/w/3x": "C!", "/w/9x": "A" });
  const revisions = (await etcd.client.list("/w/")).map(({ modRevision }) => modRevision);
  assert.equal(new Set(revisions).size, 1, "all halves of a rename are one Txn");
  assert.equal((await db.failure("UPDATE kv SET key = '/w/3x' WHERE key = '/w/2x'")).code, "23505");
  assert.equal((await db.failure("UPDATE kv SET key = NULL")).code, "23502");
  assert.equal((await db.failure("UPDATE kv SET key = '/elsewhere'")).code, "44000");
});

test("DELETE by rows and by ranges, and TRUNCATE", async () => {
  const rows = Object.fromEntries(
    Array.from({ length: 30 }, (_, i) => [`/w/${String(i).padStart(2, "0")}`, String(i)]),
  );
  await reset(rows);
  const direct = await explain(db, "DELETE FROM w WHERE key < '/w/10'");
  assert.ok(direct.some((line) => /Foreign Delete/.test(line)), direct.join("\n"));
  assert.equal(property(direct, "Etcd Range"), '["/w/", "/w/10")');
  assert.equal(
    (await db.sql("WITH d AS (DELETE FROM w WHERE value = '29' RETURNING *) SELECT * FROM d")).length,
    1,
  );
  await db.sql("DELETE FROM w WHERE key < '/w/10'");
  assert.equal(Object.keys(await stored()).length, 19);
  await db.sql("DELETE FROM kv WHERE value LIKE '%5'");
  assert.equal(Object.keys(await stored()).length, 17);
  await etcd.put("/x", "outside");
  await db.sql("TRUNCATE kv");
  assert.deepEqual(await stored(), {});
  assert.deepEqual(await stored("/x"), { "/x": "outside" });
});

test("the number of rows is told", async () => {
  await reset({ "/w/1": "a", "/w/2": "b", "/w/3": "c" });
  const client = await db.connect();
  assert.equal((await client.query("INSERT INTO kv VALUES ('/w/4', ''), ('/w/5', '')")).rowCount, 2);
  assert.equal((await client.query("UPDATE kv SET value = 'x'")).rowCount, 5);
  assert.equal((await client.query("DELETE FROM kv WHERE key LIKE '/w/%'")).rowCount, 5);
  assert.equal((await client.query("DELETE FROM kv WHERE key = '/w/none'")).rowCount, 0);
  await client.end();
});

test("RETURNING shows what a read of the row would", async () => {
  await reset({ "/w/1": "a" });
  const created = (await etcd.get("/w/1"))!.createRevision;
  assert.deepEqual(await db.sql("INSERT INTO w (key, value) VALUES ('/w/2', 'b') RETURNING *"), [
    { key: "/w/2", value: "b", create_revision: null, mod_revision: null, version: "1", lease: "0" },
  ]);
  assert.deepEqual(await db.sql("UPDATE w SET value = 'c' WHERE key = '/w/1' RETURNING *"), [
    {
      key: "/w/1",
      value: "c",
      create_revision: String(created),
      mod_revision: null,
      version: "2",
      lease: "0",
    },
  ]);
  const [deleted] = await db.sql(
    "DELETE FROM w WHERE key = '/w/1' RETURNING key, value, version, mod_revision > 0 AS old",
  );
  assert.deepEqual(deleted, { key: "/w/1", value: "c", version: "2", old: true });
  assert.deepEqual(await db.sql("DELETE FROM kv WHERE key = '/w/2' RETURNING value || '?' AS v"), [{
    v: "b?",
  }]);
  // etcd has no NULL.
  assert.deepEqual(await db.sql("INSERT INTO kv (key) VALUES ('/w/3') RETURNING value"), [{ value: "" }]);
  assert.deepEqual(await db.sql("SELECT value FROM kv WHERE key = '/w/3'"), [{ value: "" }]);
});

test("own writes are visible to own reads, of every shape, and to nobody else before the commit", async () => {
  await reset({ "/w/1": "a", "/w/2": "b", "/w/3": "c" });
  await db.sql(
    "BEGIN; INSERT INTO w (key, value) VALUES ('/w/0', 'new'); UPDATE w SET value = 'B' WHERE key = '/w/2';" +
      " DELETE FROM w WHERE key = '/w/3'",
  );
  assert.deepEqual(
    (await db.sql("SELECT key, value FROM w ORDER BY key")).map((row) => `${row.key} ${row.value}`),
    [
      ...["/w/0 new", "/w/1 a", "/w/2 B"],
    ],
  );
  assert.deepEqual((await db.sql("SELECT key FROM w ORDER BY key DESC LIMIT 2")).map((row) => row.key), [
    "/w/2",
    "/w/1",
  ]);
  assert.deepEqual((await db.sql("SELECT count(*), min(key), max(key) FROM w"))[0], {
    count: "3",
    min: "/w/0",
    max: "/w/2",
  });
  assert.deepEqual(await db.sql("SELECT value FROM w WHERE key = '/w/0'"), [{ value: "new" }]);
  assert.deepEqual(await db.sql("SELECT value FROM w WHERE key IN ('/w/3', '/w/2') "), [{ value: "B" }]);
  assert.deepEqual(await db.sql("SELECT key FROM w WHERE mod_revision > 0"), [{ key: "/w/1" }]);
  assert.deepEqual(await db.sql("SELECT key, mod_revision FROM w WHERE mod_revision IS NULL ORDER BY key"), [
    { key: "/w/0", mod_revision: null },
    { key: "/w/2", mod_revision: null },
  ]);
  assert.deepEqual(
    (await db.sql("SELECT key FROM w ORDER BY mod_revision, key LIMIT 2")).map((row) => row.key),
    [
      ...["/w/1", "/w/0"],
    ],
  );
  assert.deepEqual((await db.sql("SELECT key FROM w ORDER BY value LIMIT 1"))[0].key, "/w/2");
  assert.deepEqual(await stored(), { "/w/1": "a", "/w/2": "b", "/w/3": "c" });
  await db.sql("COMMIT");
  assert.deepEqual(await stored(), { "/w/0": "new", "/w/1": "a", "/w/2": "B" });
});

test("ROLLBACK, a failed statement and a lost session leave nothing", async () => {
  await reset({ "/w/1": "a" });
  await db.sql("BEGIN; UPDATE kv SET value = 'x'; INSERT INTO kv VALUES ('/w/2', 'x'); ROLLBACK");
  assert.deepEqual(await stored(), { "/w/1": "a" });
  await db.failure("INSERT INTO kv SELECT '/w/n' || i, 1 / (3 - i) FROM generate_series(1, 5) i");
  assert.deepEqual(await stored(), { "/w/1": "a" });
  const lost = await db.connect();
  await lost.query("BEGIN; DELETE FROM kv");
  await lost.end();
  assert.deepEqual(await stored(), { "/w/1": "a" });
  assert.equal((await db.sql("SELECT count(*) FROM kv"))[0].count, "1");
});

test("savepoints to any depth", async () => {
  await reset();
  await db.sql(`BEGIN; INSERT INTO kv VALUES ('/w/1', 'top');
    SAVEPOINT a; INSERT INTO kv VALUES ('/w/2', 'a'); UPDATE kv SET value = 'a' WHERE key = '/w/1';
    SAVEPOINT b; DELETE FROM kv; SAVEPOINT c; INSERT INTO kv VALUES ('/w/3', 'c')`);
  assert.deepEqual(await db.sql("SELECT key FROM kv"), [{ key: "/w/3" }]);
  await db.sql("RELEASE c; ROLLBACK TO b");
  assert.deepEqual(
    (await db.sql("SELECT key, value FROM kv ORDER BY key")).map((row) => row.key + row.value),
    [
      ...["/w/1a", "/w/2a"],
    ],
  );
  await db.sql("ROLLBACK TO a; INSERT INTO kv VALUES ('/w/4', 'again'); COMMIT");
  assert.deepEqual(await stored(), { "/w/1": "top", "/w/4": "again" });
});

test("PL/pgSQL's exception blocks take their writes back", async () => {
  await reset({ "/w/1": "there" });
  await db.sql(`CREATE FUNCTION try_insert(k text) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
      INSERT INTO kv VALUES (k || 'x', 'first');
      INSERT INTO kv VALUES (k, 'second');
      RETURN 'inserted';
    EXCEPTION WHEN unique_violation THEN RETURN 'exists: ' || (SELECT value FROM kv WHERE key = k);
    END $$`);
  assert.equal((await db.sql("SELECT try_insert('/w/1')"))[0].try_insert, "exists: there");
  assert.equal((await db.sql("SELECT try_insert('/w/2')"))[0].try_insert, "inserted");
  assert.deepEqual(await stored(), { "/w/1": "there", "/w/2": "second", "/w/2x": "first" });
  await db.sql(`DO $$ BEGIN
    FOR i IN 1..200 LOOP
      BEGIN
        INSERT INTO kv VALUES ('/w/loop' || i, 'x');
        IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;
      EXCEPTION WHEN raise_exception THEN NULL;
      END;
    END LOOP; END $$`);
  assert.equal(Object.keys(await stored("/w/loop")).length, 100);
});

test("a key that exists is 23505: with the statement in a transaction, with the commit otherwise", async () => {
  await reset({ "/w/1": "a" });
  const single = await db.failure("INSERT INTO kv VALUES ('/w/1', 'b')");
  assert.equal(single.code, "23505");
  assert.match(single.message + single.detail, /\/w\/1/);
  await db.sql("BEGIN");
  assert.equal((await db.failure("INSERT INTO kv VALUES ('/w/1', 'b')")).code, "23505");
  await db.sql("ROLLBACK; BEGIN; INSERT INTO kv VALUES ('/w/2', 'mine')");
  await etcd.put("/w/2", "theirs");
  assert.equal((await db.failure("COMMIT")).code, "23505");
  assert.equal((await db.failure("INSERT INTO kv VALUES ('/w/5', 'a'), ('/w/5', 'b')")).code, "23505");
  assert.deepEqual(await stored(), { "/w/1": "a", "/w/2": "theirs" });
});

test("ON CONFLICT DO NOTHING, and upsert", async () => {
  await reset({ "/w/1": "a" });
  const client = await db.connect();
  const skipped = await client.query(
    "INSERT INTO kv VALUES ('/w/1', 'b'), ('/w/2', 'c'), ('/w/2', 'd') ON CONFLICT DO NOTHING",
  );
  assert.equal(skipped.rowCount, 1);
  assert.deepEqual(
    (await client.query(
      "INSERT INTO w (key, value) VALUES ('/w/2', 'x'), ('/w/3', 'y') ON CONFLICT DO NOTHING RETURNING key",
    ))
      .rows,
    [{ key: "/w/3" }],
  );
  await client.end();
  assert.deepEqual(await stored(), { "/w/1": "a", "/w/2": "c", "/w/3": "y" });
  await db.sql(
    "CREATE FOREIGN TABLE up (key text, value text) SERVER etcd OPTIONS (prefix '/w/', upsert 'true')",
  );
  await db.sql("INSERT INTO up VALUES ('/w/1', 'over'), ('/w/4', 'new'), ('/w/4', 'newer')");
  assert.deepEqual(await stored(), { "/w/1": "over", "/w/2": "c", "/w/3": "y", "/w/4": "newer" });
  const update = await db.failure(
    "INSERT INTO kv VALUES ('/w/1', 'b') ON CONFLICT (key) DO UPDATE SET value = 'x'",
  );
  assert.ok(["42P10", "0A000"].includes(update.code), update.code);
});

test("RETURNING and triggers show of an upsert what etcd will hold", async () => {
  const columns = "key text, value text, create_revision bigint, mod_revision bigint, version bigint";
  await db.sql(
    `CREATE FOREIGN TABLE over (${columns}) SERVER etcd OPTIONS (prefix '/w/', upsert 'true');
    CREATE FOREIGN TABLE over_now (${columns}) SERVER etcd OPTIONS (prefix '/w/', upsert 'true', write_mode 'immediate');
    CREATE TABLE seen (key text, create_revision bigint, version bigint);
    CREATE FUNCTION note_seen() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO seen VALUES (NEW.key, NEW.create_revision, NEW.version); RETURN NULL; END $$;
    CREATE TRIGGER note_seen AFTER INSERT OR UPDATE ON over FOR EACH ROW EXECUTE FUNCTION note_seen();
    CREATE TRIGGER note_seen AFTER INSERT OR UPDATE ON over_now FOR EACH ROW EXECUTE FUNCTION note_seen()`,
  );
  const shown = "RETURNING key, create_revision, version";
  const cases: [before: string, statement: string][] = [
    ["", `INSERT INTO $ (key, value) VALUES ('/w/1', 'x'), ('/w/new', 'x') ${shown}`],
    [
      "INSERT INTO $ (key, value) VALUES ('/w/1', 'x')",
      `INSERT INTO $ (key, value) VALUES ('/w/1', 'y') ${shown}`,
    ],
    ["DELETE FROM over", `INSERT INTO $ (key, value) VALUES ('/w/1', 'y') ${shown}`],
    ["", `UPDATE $ SET key = '/w/1' WHERE key = '/w/2' ${shown}`],
    ["", `UPDATE $ SET key = '/w/fresh' WHERE key = '/w/2' ${shown}`],
  ];
  for (const table of ["over", "over_now"]) {
    for (const [before, statement] of cases) {
      if (table === "over_now" && before !== "") continue;
      // What is written at once contradicts what SERIALIZABLE has read.
      for (const block of ["", "READ COMMITTED", table === "over" ? "SERIALIZABLE" : "REPEATABLE READ"]) {
        if (block === "" && before !== "") continue;
        await reset({ "/w/1": "a", "/w/2": "b" });
        await etcd.put("/w/1", "b");
        await db.sql("DELETE FROM seen");
        if (block !== "") await db.sql(`BEGIN ISOLATION LEVEL ${block}; ${before.replace("$", table)}`);
        await db.sql("DELETE FROM seen");
        const rows = await db.sql(statement.replace("$", table));
        const told = `${table} ${block}: ${before}; ${statement}`;
        assert.deepEqual(await db.sql("SELECT * FROM seen"), rows, told);
        if (block !== "") {
          const read = await db.sql("SELECT key, create_revision, version FROM over WHERE key = '/w/1'");
          if (rows[0].key === "/w/1" && table === "over") assert.deepEqual(read, [rows[0]], told);
          await db.sql("COMMIT");
        }
        for (const row of rows) {
          const held = (await etcd.get(row.key as string))!;
          assert.equal(row.version, String(held.version), told);
          const isNew = held.version === 1n && table === "over";
          assert.equal(row.create_revision, isNew ? null : String(held.createRevision), told);
        }
      }
    }
  }
});

test("what another client changed since the statement saw it is 40001", async () => {
  for (
    const statement of [
      "UPDATE kv SET value = 'mine' WHERE key = '/w/1'",
      "DELETE FROM kv WHERE key = '/w/1'",
      "UPDATE kv SET key = '/w/9' WHERE key = '/w/1'",
    ]
  ) {
    await reset({ "/w/1": "a" });
    await db.sql(`BEGIN; ${statement}`);
    await etcd.put("/w/1", "theirs");
    const error = await db.failure("COMMIT");
    assert.equal(error.code, "40001", statement);
    assert.ok(error.hint);
    assert.deepEqual(await stored(), { "/w/1": "theirs" });
  }
});

test("a row that a join finds twice is changed once", async () => {
  await reset({ "/w/1": "a" });
  await db.sql("UPDATE kv SET value = kv.value || n FROM generate_series(1, 3) n");
  assert.match((await stored())["/w/1"], /^a[123]$/);
  await db.sql(
    "BEGIN; UPDATE kv SET value = 'b'; UPDATE kv SET value = value || 'c'; DELETE FROM kv; " +
      "INSERT INTO kv VALUES ('/w/1', 'again'); COMMIT",
  );
  assert.deepEqual(await stored(), { "/w/1": "again" });
  assert.equal((await etcd.get("/w/1"))!.version > 1n, true);
});

test("a volatile function sees the rows that its statement has written before", async () => {
  await db.sql(
    `CREATE FUNCTION next_key(t text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$ DECLARE n int; BEGIN
      EXECUTE 'SELECT count(*) + 1 FROM ' || t INTO n; RETURN '/w/' || n; END $$;
    CREATE FOREIGN TABLE seen_at_once (key text, value text) SERVER etcd OPTIONS (prefix '/w/', write_mode 'immediate');
    CREATE FOREIGN TABLE numbered (key text DEFAULT next_key('kv'), value text) SERVER etcd OPTIONS (prefix '/w/');
    CREATE TABLE parted (key text, value text) PARTITION BY RANGE (key);
    CREATE FOREIGN TABLE parted_w PARTITION OF parted FOR VALUES FROM ('/w/') TO ('/w0') SERVER etcd OPTIONS (prefix '/w/')`,
  );
  for (
    const statement of [
      "INSERT INTO kv SELECT next_key('kv'), 'x' FROM generate_series(1, 3)",
      "INSERT INTO kv VALUES (next_key('kv'), 'x'), (next_key('kv'), 'x'), (next_key('kv'), 'x')",
      "INSERT INTO kv SELECT n, 'x' FROM (SELECT next_key('kv') AS n FROM generate_series(1, 3) OFFSET 0) s WHERE n <> ''",
      "INSERT INTO kv SELECT '/w/' || i, 'x' FROM generate_series(1, 3) i WHERE next_key('kv') = '/w/' || i",
      "INSERT INTO kv SELECT (SELECT next_key('kv') WHERE i > 0), 'x' FROM generate_series(1, 3) i",
      "INSERT INTO seen_at_once SELECT next_key('kv'), 'x' FROM generate_series(1, 3)",
      "INSERT INTO numbered (value) SELECT 'x' FROM generate_series(1, 3)",
      "INSERT INTO parted SELECT next_key('parted'), 'x' FROM generate_series(1, 3)",
      "COPY numbered (value) FROM PROGRAM 'printf \"x\\nx\\nx\\n\"'",
    ]
  ) {
    await reset();
    await db.sql(statement);
    assert.deepEqual(await stored(), { "/w/1": "x", "/w/2": "x", "/w/3": "x" }, statement);
  }
  await db.sql("DROP TABLE parted");
});

test("a scan does not see what its own statement writes", async () => {
  await reset(Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`/w/h${i}`, "x"])));
  await db.sql("UPDATE kv SET key = key || 'y'");
  const keys = Object.keys(await stored());
  assert.equal(keys.length, 3000);
  assert.ok(keys.every((key) => /^\/w\/h\d+y$/.test(key)));
  await db.sql("INSERT INTO kv SELECT key || 'z', value FROM kv");
  assert.equal(Object.keys(await stored()).length, 6000);
});

test("triggers, check options, defaults and generated columns", async () => {
  await reset({ "/w/1": "a" });
  await db.sql(
    `CREATE FOREIGN TABLE trig (key text DEFAULT '/w/default', value text GENERATED ALWAYS AS (upper(key)) STORED)
      SERVER etcd OPTIONS (prefix '/w/');
    INSERT INTO trig DEFAULT VALUES; INSERT INTO trig VALUES ('/w/g');
    CREATE FOREIGN TABLE tr (key text, value text) SERVER etcd OPTIONS (prefix '/w/t/');
    CREATE TABLE log (what text, old text, new text);
    CREATE FUNCTION before() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; NEW.value := NEW.value || '+'; RETURN NEW; END $$;
    CREATE FUNCTION after() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO log VALUES (TG_OP, OLD.value, NEW.value); RETURN NULL; END $$;
    CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON tr FOR EACH ROW EXECUTE FUNCTION before();
    CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON tr FOR EACH ROW EXECUTE FUNCTION after();
    INSERT INTO tr VALUES ('/w/t/1', 'i'); UPDATE tr SET value = 'u'; UPDATE tr SET key = '/w/t/2'; DELETE FROM tr;
    INSERT INTO tr VALUES ('/w/t/3', 'j')`,
  );
  assert.deepEqual(await stored(), {
    "/w/1": "a",
    "/w/default": "/W/DEFAULT",
    "/w/g": "/W/G",
    "/w/t/3": "j+",
  });
  assert.deepEqual(await db.sql("SELECT * FROM log"), [
    { what: "INSERT", old: null, new: "i+" },
    { what: "UPDATE", old: "i+", new: "u+" },
    { what: "UPDATE", old: "u+", new: "u++" },
    { what: "DELETE", old: "u++", new: null },
    { what: "INSERT", old: null, new: "j+" },
  ]);
  await db.sql(
    "CREATE VIEW narrow AS SELECT * FROM kv WHERE value <> 'bad' WITH CHECK OPTION; INSERT INTO narrow VALUES ('/w/v', 'good')",
  );
  assert.equal((await db.failure("INSERT INTO narrow VALUES ('/w/v2', 'bad')")).code, "44000");
  assert.equal((await db.failure("UPDATE narrow SET value = 'bad'")).code, "44000");
});

test("NULL, foreign keys' places, and what etcd maintains are refused by name", async () => {
  assert.equal((await db.failure("INSERT INTO kv VALUES (NULL, 'x')")).code, "23502");
  assert.equal((await db.failure("INSERT INTO kv (value) VALUES ('x')")).code, "23502");
  assert.equal((await db.failure("INSERT INTO kv VALUES ('/elsewhere', 'x')")).code, "44000");
  assert.equal((await db.failure("INSERT INTO w (key, version) VALUES ('/w/1', 7)")).code, "428C9");
  assert.equal((await db.failure("UPDATE w SET mod_revision = 7")).code, "428C9");
  await db.sql(
    "CREATE FOREIGN TABLE ro (key text, value text) SERVER etcd OPTIONS (prefix '/w/', updatable 'false')",
  );
  assert.equal((await db.failure("INSERT INTO ro VALUES ('/w/1', 'x')")).code, "55000");
  assert.equal((await db.failure("DELETE FROM ro")).code, "55000");
  assert.equal((await db.failure("BEGIN READ ONLY; INSERT INTO kv VALUES ('/w/1', 'x')")).code, "25006");
  await db.sql("ROLLBACK; SET max_prepared_transactions TO DEFAULT").catch(() => {});
  await db.sql("ROLLBACK");
  const large = await db.failure(`INSERT INTO kv VALUES ('/w/large', repeat('x', 3000000))`);
  assert.equal(large.code, "54000");
  assert.match(large.hint!, /max-request-bytes/);
});

test("PREPARE TRANSACTION is refused", async () => {
  await db.sql("BEGIN; INSERT INTO kv VALUES ('/w/p', 'x')");
  const error = await db.failure("PREPARE TRANSACTION 'p'");
  assert.ok(["0A000", "55000"].includes(error.code), error.code);
  await db.sql("ROLLBACK");
  assert.deepEqual(await stored("/w/p"), {});
});

test("leases: by id, by ttl, kept by UPDATE and by a rename", async () => {
  await reset();
  const lease = BigInt("0x" + (await etcd.ctl("lease", "grant", "600")).split(" ")[1]);
  await db.sql(`INSERT INTO w (key, value, lease) VALUES ('/w/1', 'x', ${lease})`);
  assert.equal((await etcd.get("/w/1"))!.lease, lease);
  await db.sql("UPDATE kv SET value = 'y'; UPDATE kv SET key = '/w/2'");
  assert.equal((await etcd.get("/w/2"))!.lease, lease);
  await db.sql("UPDATE w SET lease = NULL");
  assert.equal((await etcd.get("/w/2"))!.lease, 0n);
  await db.sql(
    `CREATE FOREIGN TABLE t (key text, value text, lease bigint, ttl interval) SERVER etcd OPTIONS (prefix '/w/');
    CREATE FOREIGN TABLE ts (key text, ttl int) SERVER etcd OPTIONS (prefix '/w/')`,
  );
  const [row] = await db.sql(
    "INSERT INTO t VALUES ('/w/3', 'x', NULL, '90 seconds') RETURNING lease, ttl::text",
  );
  assert.equal(row.ttl, "00:01:30");
  assert.equal(String((await etcd.get("/w/3"))!.lease), row.lease);
  const [left] = await db.sql("SELECT ttl FROM ts WHERE key = '/w/3'");
  assert.ok(left.ttl > 80 && left.ttl <= 90, String(left.ttl));
  assert.deepEqual(await db.sql("SELECT ttl FROM t WHERE key = '/w/2'"), [{ ttl: null }]);
  await db.sql("UPDATE ts SET ttl = 300 WHERE key = '/w/2'");
  assert.equal(new TextDecoder().decode((await etcd.get("/w/2"))!.value), "y");
  assert.ok((await db.sql("SELECT ttl FROM ts WHERE key = '/w/2'"))[0].ttl > 250);
  await db.sql("UPDATE t SET ttl = NULL WHERE key = '/w/2'");
  assert.equal((await etcd.get("/w/2"))!.lease, 0n);
  assert.equal((await db.failure("UPDATE ts SET ttl = 0")).code, "22023");
  const before = (await etcd.ctl("lease", "list")).trim().split("\n").length;
  await db.sql("BEGIN; INSERT INTO t VALUES ('/w/4', 'x', NULL, '1 hour'); ROLLBACK");
  for (let i = 0; i < 50 && (await etcd.ctl("lease", "list")).trim().split("\n").length > before; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal((await etcd.ctl("lease", "list")).trim().split("\n").length, before);
});

test("typed values, JSON fields and parts of keys are writable", async () => {
  await reset();
  await db.sql(`CREATE FOREIGN TABLE num (key text, value int) SERVER etcd OPTIONS (prefix '/w/n/');
    INSERT INTO num VALUES ('/w/n/1', 41); UPDATE num SET value = value + 1;
    CREATE FOREIGN TABLE bin (key bytea, value bytea) SERVER etcd OPTIONS (prefix '/w/b/', strip_prefix 'true');
    INSERT INTO bin VALUES ('\\xff00', '\\x0001')`);
  assert.deepEqual(await stored("/w/n/"), { "/w/n/1": "42" });
  assert.deepEqual(
    (await etcd.client.list("/w/b/"))[0].key,
    new Uint8Array([0x2f, 0x77, 0x2f, 0x62, 0x2f, 0xff, 0]),
  );
  assert.deepEqual([...(await etcd.client.list("/w/b/"))[0].value], [0, 1]);
  await etcd.put("/w/j/1", '{"keep": 12345678901234567890.12345, "port": 1, "db": {"host": "h", "x": [1]}}');
  await db.sql(
    `CREATE FOREIGN TABLE js (key text, port int OPTIONS (json 'port'), host text OPTIONS (json 'db.host'),
      tags jsonb OPTIONS (json 'tags'), deep numeric OPTIONS (json 'a.b.c'), "on" bool OPTIONS (json 'on'))
      SERVER etcd OPTIONS (prefix '/w/j/');
    UPDATE js SET port = port + 1; UPDATE js SET deep = 1.50, tags = '["t"]' WHERE key = '/w/j/1';
    INSERT INTO js (key, host, "on") VALUES ('/w/j/2', 'a"b', false)`,
  );
  const [one, two] = (await etcd.client.list("/w/j/")).map(({ value }) => new TextDecoder().decode(value));
  assert.match(one, /"keep": 12345678901234567890.12345/);
  assert.match(one, /"c": 1\.50/);
  assert.deepEqual(JSON.parse(one).db, { host: "h", x: [1] });
  assert.deepEqual([JSON.parse(one).port, JSON.parse(one).tags], [2, ["t"]]);
  assert.deepEqual(JSON.parse(two), { db: { host: 'a"b' }, on: false });
  await db.sql("UPDATE js SET host = NULL WHERE key = '/w/j/1'");
  assert.deepEqual(JSON.parse((await stored("/w/j/1"))["/w/j/1"]).db, { x: [1] });
  await db.sql(
    `CREATE FOREIGN TABLE pat (kind text, name text, value text) SERVER etcd OPTIONS (key_pattern '/w/k/{kind}/{name}');
    INSERT INTO pat VALUES ('pods', 'a', '1'), ('pods', 'b', '2'); UPDATE pat SET name = 'c' WHERE name = 'b';
    DELETE FROM pat WHERE name = 'a'`,
  );
  assert.deepEqual(await stored("/w/k/"), { "/w/k/pods/c": "2" });
  assert.equal((await db.failure("INSERT INTO pat VALUES ('a/b', 'c', '')")).code, "44000");
  assert.equal((await db.failure("INSERT INTO pat VALUES ('a', NULL, '')")).code, "23502");
  await db.sql(`CREATE FOREIGN TABLE twoways (kind text, name text, key text, value text) SERVER etcd
    OPTIONS (key_pattern '/w/k/{kind}/{name}'); UPDATE twoways SET name = 'd' WHERE name = 'c'`);
  assert.deepEqual(await stored("/w/k/"), { "/w/k/pods/d": "2" });
  await db.sql(
    "UPDATE twoways SET key = '/w/k/pods/c'; INSERT INTO twoways (key, value) VALUES ('/w/k/jobs/j', '3')",
  );
  assert.deepEqual(await stored("/w/k/"), { "/w/k/jobs/j": "3", "/w/k/pods/c": "2" });
  for (
    const wrong of [
      "INSERT INTO twoways VALUES ('a', 'b', '/w/k/x/y', '')",
      "UPDATE twoways SET name = 'q', key = '/w/k/pods/z'",
    ]
  ) {
    assert.equal((await db.failure(wrong)).code, "44000", wrong);
  }
  await db.sql(
    "INSERT INTO twoways VALUES ('a', 'b', '/w/k/a/b', ''); DELETE FROM twoways WHERE kind <> 'pods'",
  );
  assert.deepEqual(await stored("/w/k/"), { "/w/k/pods/c": "2" });
  await etcd.put("/w/k/other", "no row");
  await db.sql("DELETE FROM pat");
  assert.deepEqual(await stored("/w/k/"), { "/w/k/other": "no row" });
  assert.equal((await db.failure("TRUNCATE pat")).code, "0A000");
});

test("more than one Txn: split with a warning, or refused", async () => {
  await reset();
  const notices: string[] = [];
  const session = await db.connect();
  session.on("notice", (notice) => notices.push(`${notice.message}`));
  await session.query("INSERT INTO kv SELECT '/w/l' || i, 'x' FROM generate_series(1, 3000) i");
  assert.deepEqual(notices, []);
  const large = "repeat('x', 10000)";
  await session.query(`INSERT INTO kv SELECT '/w/m' || i, ${large} FROM generate_series(1, 300) i`);
  assert.deepEqual(notices, ["the transaction was written to etcd in 2 Txns"]);
  await session.end();
  await db.sql("ALTER SERVER etcd OPTIONS (ADD atomic 'require')");
  const error = await db.failure("UPDATE kv SET value = value || 'y' WHERE key LIKE '/w/m%'");
  assert.equal(error.code, "54000");
  assert.deepEqual([...new Set(Object.values(await stored("/w/m")))], ["x".repeat(10000)]);
  await db.sql("DELETE FROM kv WHERE value = 'x'");
  assert.deepEqual(await stored("/w/l"), {});
  await db.sql("DELETE FROM w WHERE key < '/w/n'");
  assert.deepEqual(await stored("/w/m"), {});
  await db.sql("ALTER SERVER etcd OPTIONS (DROP atomic, ADD max_staged_mb '1')");
  const full = await db.failure(
    "INSERT INTO kv SELECT '/w/f' || i, repeat('x', 100000) FROM generate_series(1, 20) i",
  );
  assert.equal(full.code, "53200");
  await db.sql("ALTER SERVER etcd OPTIONS (DROP max_staged_mb)");
  assert.deepEqual(await stored("/w/f"), {});
});

test("write_mode immediate writes at once, and cannot take it back", async () => {
  await reset();
  await db.sql(
    "CREATE FOREIGN TABLE im (key text, value text, mod_revision bigint) SERVER etcd OPTIONS (prefix '/w/', write_mode 'immediate')",
  );
  await db.sql("BEGIN; INSERT INTO im (key, value) SELECT '/w/i' || i, 'x' FROM generate_series(1, 5000) i");
  assert.equal(Object.keys(await stored("/w/i")).length, 5000);
  await db.sql("UPDATE im SET value = 'y' WHERE key = '/w/i1'; DELETE FROM im WHERE key = '/w/i2'");
  assert.equal((await stored())["/w/i1"], "y");
  await db.sql("ROLLBACK");
  assert.equal(Object.keys(await stored("/w/i")).length, 4999);
  const [row] = await db.sql("INSERT INTO im (key, value) VALUES ('/w/r', 'x') RETURNING mod_revision");
  assert.equal(row.mod_revision, String((await etcd.get("/w/r"))!.modRevision));
  assert.equal((await db.failure("INSERT INTO im (key, value) VALUES ('/w/r', 'x')")).code, "23505");
  const lines = await explain(db, "INSERT INTO im (key) VALUES ('/w/r')", "VERBOSE, ");
  assert.equal(property(lines, "Etcd Write"), "immediate");
});

test("a statement does not see what it writes at once, whichever of its parts comes first", async () => {
  await reset({ "/w/seed": "s" });
  await db.sql(`CREATE FOREIGN TABLE now (key text COLLATE "C", value text) SERVER etcd
      OPTIONS (prefix '/w/', write_mode 'immediate');
    CREATE FUNCTION count_now() RETURNS text LANGUAGE sql STABLE AS 'SELECT count(*)::text FROM now'`);
  const isolations = ["READ COMMITTED", "REPEATABLE READ"];
  for (const isolation of isolations) {
    await reset({ "/w/seed": "s" });
    await db.sql(`BEGIN ISOLATION LEVEL ${isolation}`);
    const rows = await db.sql(`INSERT INTO now SELECT '/w/n' || i, 'x' FROM generate_series(1, 200) i
      UNION ALL SELECT key || '_2', value FROM now RETURNING key`);
    assert.equal(rows.length, 201, isolation);
    await db.sql("COMMIT");
    await reset({ "/w/seed": "s" });
    await db.sql(`BEGIN ISOLATION LEVEL ${isolation}; INSERT INTO now SELECT '/w/n' || i,
      CASE WHEN i = 2500 THEN count_now() END FROM generate_series(1, 2500) i; COMMIT`);
    assert.equal((await stored())["/w/n2500"], "1");
  }
  await reset({ "/w/q/0": "v" });
  await db.sql(`CREATE TABLE moved (key text COLLATE "C", value text) PARTITION BY RANGE (key);
    CREATE TABLE moved_a PARTITION OF moved FOR VALUES FROM ('/w/p/') TO ('/w/q/');
    CREATE FOREIGN TABLE moved_b PARTITION OF moved FOR VALUES FROM ('/w/q/') TO ('/w/r/') SERVER etcd
      OPTIONS (prefix '/w/q/', write_mode 'immediate');
    INSERT INTO moved VALUES ('/w/p/1', 'v'), ('/w/p/2', 'v');
    UPDATE moved SET key = '/w/q/' || substr(key, 6) || 'm', value = value || 'x'`);
  assert.deepEqual(await stored(), { "/w/q/0m": "vx", "/w/q/1m": "vx", "/w/q/2m": "vx" });
  await db.sql("DROP TABLE moved; DROP FUNCTION count_now()");
});

test("rows that are not committed yet are not changed at once", async () => {
  await reset({ "/w/1": "a", "/w/2": "b" });
  await db.sql(`CREATE FOREIGN TABLE at_once (key text, value text) SERVER etcd
    OPTIONS (prefix '/w/', write_mode 'immediate')`);
  for (
    const before of ["INSERT INTO kv VALUES ('/w/own', 'x')", "UPDATE kv SET value = 'x' WHERE key = '/w/1'"]
  ) {
    const key = before.startsWith("INSERT") ? "/w/own" : "/w/1";
    const byRows = `WHERE key = '${key}' AND value <> '' RETURNING key`;
    for (
      const statement of [
        `UPDATE at_once SET value = 'y' ${byRows}`,
        `DELETE FROM at_once ${byRows}`,
        "DELETE FROM at_once",
        `DELETE FROM at_once WHERE key = '${key}'`,
        "TRUNCATE at_once",
      ]
    ) {
      await db.sql(`BEGIN; ${before}; UPDATE at_once SET value = 'now' WHERE key = '/w/2'; SAVEPOINT s`);
      const error = await db.failure(statement);
      assert.equal(error.code, "55000", `${before}; ${statement}`);
      assert.match(error.message, new RegExp(`key "${key}"`));
      assert.match(error.hint!, /transactional/);
      // What the transaction has not written is no matter.
      await db.sql("ROLLBACK TO s; DELETE FROM at_once WHERE key > '/w/1' AND key < '/w/o'; COMMIT");
      assert.equal((await stored())[key], "x");
      assert.equal((await stored())["/w/2"], undefined);
      await reset({ "/w/1": "a", "/w/2": "b" });
    }
  }
});

test("partitions: rows are routed, and moved between local and foreign ones", async () => {
  await reset();
  await db.sql(`CREATE TABLE pt (key text COLLATE "C", value text) PARTITION BY RANGE (key);
    CREATE FOREIGN TABLE pt_f PARTITION OF pt FOR VALUES FROM ('/w/') TO ('/w0') SERVER etcd OPTIONS (prefix '/w/');
    CREATE TABLE pt_l PARTITION OF pt FOR VALUES FROM ('/x/') TO ('/x0');
    INSERT INTO pt VALUES ('/w/1', 'f'), ('/x/1', 'l'); UPDATE pt SET value = value || '!';
    UPDATE pt SET key = '/w/2' WHERE key = '/x/1'`);
  assert.deepEqual(await stored(), { "/w/1": "f!", "/w/2": "l!" });
  // PostgreSQL does not move rows out of a foreign partition.
  assert.equal((await db.failure("UPDATE pt SET key = '/x/2' WHERE key = '/w/1'")).code, "44000");
  await db.sql("DELETE FROM pt WHERE value = 'l!'");
  assert.deepEqual(await db.sql("SELECT * FROM pt"), [{ key: "/w/1", value: "f!" }]);
  await db.sql("DROP TABLE pt");
});

test("parallel plans leave foreign tables to the leader, which sees its own writes", async () => {
  await reset({ "/w/1": "a", "/w/2": "b" });
  const major = Number((await db.sql("SHOW server_version_num"))[0].server_version_num) / 10000;
  await db.sql(`SET ${major >= 16 ? "debug_parallel_query" : "force_parallel_mode"} = on;
    SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
    CREATE TABLE par AS SELECT '/w/' || i AS k FROM generate_series(1, 20000) i; ANALYZE par`);
  await db.sql("BEGIN; INSERT INTO kv VALUES ('/w/3', 'own')");
  const query = "SELECT count(*), max(value) FROM par JOIN kv ON key = k";
  assert.deepEqual((await db.sql(query))[0], { count: "3", max: "own" });
  // A worker would have a connection of its own, and would not find the third.
  await db.sql(
    "UPDATE kv SET value = value || '!' FROM par WHERE key = k; COMMIT; RESET ALL; DROP TABLE par",
  );
  assert.deepEqual(await stored(), { "/w/1": "a!", "/w/2": "b!", "/w/3": "own!" });
});
