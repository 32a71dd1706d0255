// Mirrors: local tables kept equal to foreign tables.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { mirrorsOf } from "../helpers/mirrors.ts";
import { suite } from "../helpers/suite.ts";
import { proxyPids } from "../helpers/proxy.ts";
import { delay, waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("mirror");

await db.sql(`${etcd.createServerSql("etcd")};
  SET etcd_fdw.default_server = 'etcd';
  CREATE ROLE alice LOGIN; GRANT USAGE ON FOREIGN SERVER etcd TO alice; GRANT CREATE ON SCHEMA public TO alice`);

const [{ num: version }] = await db.sql("SELECT current_setting('server_version_num')::int AS num");
const dataDirectory = (await db.sql("SHOW data_directory"))[0].data_directory as string;
const revision = async () => Number(await etcd.revision());
const log = () => Deno.readTextFile(db.sandbox.description.postgres.log);
const { seen, inState, same, rowsOf, endAll } = mirrorsOf(db);

test("a mirror by key and value: snapshot, puts, deletes; unchanged rows are not touched", async () => {
  await db.sql(`CREATE FOREIGN TABLE kv (key text, value text) SERVER etcd OPTIONS (prefix '/kv/');
    CREATE TABLE kv_copy (key text PRIMARY KEY, value text, note text DEFAULT 'mine');
    INSERT INTO kv SELECT '/kv/' || i, i FROM generate_series(1, 50) i;
    INSERT INTO kv_copy VALUES ('/kv/1', '1', 'kept'), ('/kv/2', 'other', 'kept'), ('/kv/none', 'gone', 'kept')`);
  const [{ ctid }] = await db.sql("SELECT ctid FROM kv_copy WHERE key = '/kv/1'");
  await db.sql("SELECT etcd_mirror('kv', 'kv_copy', 'kv')");
  await same("SELECT key, value FROM kv_copy", "SELECT key, value FROM kv");
  assert.deepEqual(await db.sql("SELECT ctid, note FROM kv_copy WHERE key = '/kv/1'"), [{
    ctid,
    note: "kept",
  }]);
  assert.deepEqual(
    await db.sql("SELECT DISTINCT note FROM kv_copy WHERE key IN ('/kv/2', '/kv/3') ORDER BY 1"),
    [
      { note: "kept" },
      { note: "mine" },
    ],
  );
  await etcd.put("/kv/new", "n");
  await etcd.put("/kv/2", "changed");
  await etcd.delete("/kv/3");
  await etcd.put("/elsewhere", "x");
  await same("SELECT key, value FROM kv_copy", "SELECT key, value FROM kv");
  await db.sql("DELETE FROM kv WHERE key LIKE '/kv/1%'");
  await same("SELECT key, value FROM kv_copy", "SELECT key, value FROM kv");
  const row = await inState("kv", "running");
  assert.deepEqual([row.source, row.target, row.lag_events, row.error], ["kv", "kv_copy", "0", null]);
  await endAll();
  await etcd.put("/kv/late", "x");
  await delay(300);
  assert.deepEqual(await db.sql("SELECT FROM kv_copy WHERE key = '/kv/late'"), []);
  await waitFor(
    "no worker",
    async () =>
      (await db.sql("SELECT FROM pg_stat_activity WHERE backend_type LIKE 'etcd_fdw m%'")).length === 0,
  );
});

test("the mapping of a foreign table: JSON fields, a pattern of keys, domains, generated columns, identity", async () => {
  await db.sql(`CREATE DOMAIN port AS int CHECK (VALUE BETWEEN 1 AND 65535);
    CREATE FOREIGN TABLE services (kind text, name text, port int OPTIONS (json 'port'), tags jsonb OPTIONS (json 'tags'))
      SERVER etcd OPTIONS (key_pattern '/svc/{kind}/{name}');
    CREATE TABLE services_copy (id bigint GENERATED ALWAYS AS IDENTITY, name varchar(20), kind text, port port,
      tags jsonb, seen timestamptz DEFAULT now(), upper_name text GENERATED ALWAYS AS (upper(name)) STORED,
      UNIQUE (kind, name))`);
  await etcd.put("/svc/web/a", '{"port": 80, "tags": ["x"]}');
  await etcd.put("/svc/web/null", "{}");
  await etcd.put("/svc/not/of/the/pattern", "x");
  await db.sql("SELECT etcd_mirror('services', 'services_copy', 'services')");
  const query = "SELECT kind, name, upper_name, port, tags FROM services_copy ORDER BY 1, 2";
  await rowsOf(query, [["web", "a", "A", 80, ["x"]], ["web", "null", "NULL", null, null]]);
  await etcd.put("/svc/db/b", '{"port": 5432, "tags": {"a": 1}}');
  await etcd.put("/svc/web/a", '{"port": 81}');
  await etcd.delete("/svc/web/null");
  await rowsOf(query, [["db", "b", "B", 5432, { a: 1 }], ["web", "a", "A", 81, null]]);
  assert.deepEqual(await db.sql("SELECT id::int FROM services_copy WHERE name = 'a'"), [{ id: 1 }]);
  // What the domain refuses, and what would have to be cut, fails with the row's key.
  await etcd.put("/svc/web/bad", '{"port": 0}');
  const failed = await inState("services", "failed");
  assert.match(failed.error, /^23514/);
  assert.equal(failed.error_key, "/svc/web/bad");
  assert.equal(Number(failed.error_revision), await revision());
  await etcd.put("/svc/web/bad", '{"port": 1}');
  await etcd.put(`/svc/web/${"l".repeat(21)}`, '{"port": 1}');
  await db.sql("SELECT etcd_resume('services')");
  const cut = await waitFor("the long name", async () => {
    const row = await seen("services");
    return row.state === "failed" && row.error.startsWith("22001") ? row : null;
  });
  assert.equal(cut.error_key, `/svc/web/${"l".repeat(21)}`);
  await etcd.delete(`/svc/web/${"l".repeat(21)}`);
  await db.sql("SELECT etcd_resume('services')");
  await rowsOf("SELECT name FROM services_copy ORDER BY 1", [["a"], ["b"], ["bad"]]);
  await endAll();
});

test("several keys that are one row, as numbers can be, are an error where they come together", async () => {
  await db.sql(`CREATE FOREIGN TABLE n (id int, value text) SERVER etcd OPTIONS (key_pattern '/n/{id}');
    CREATE TABLE n_copy (id int PRIMARY KEY, value text)`);
  await etcd.put("/n/1", "one");
  await db.sql("SELECT etcd_mirror('n', 'n_copy', 'n')");
  await rowsOf("SELECT id, value FROM n_copy", [[1, "one"]]);
  await endAll();
  await etcd.put("/n/01", "other");
  await db.sql("DELETE FROM n_copy; SELECT etcd_mirror('n', 'n_copy', 'n')");
  assert.match((await inState("n", "failed")).error, /^21000: several keys/);
  assert.deepEqual(await db.sql("TABLE n_copy"), []);
  await etcd.delete("/n/01");
  await db.sql("SELECT etcd_resume('n')");
  await rowsOf("SELECT id, value FROM n_copy", [[1, "one"]]);
  await endAll();
});

test("a prefix instead of a foreign table; keys and values that are no text; keys alone", async () => {
  await db.sql("CREATE TABLE bytes_copy (key bytea PRIMARY KEY, value bytea, mod_revision bigint)");
  await etcd.put(Uint8Array.of(0x2f, 0x62, 0x2f, 0xff, 0), Uint8Array.of(0, 1, 255));
  await db.sql("SELECT etcd_mirror('bytes', 'bytes_copy', prefix => '/b/')");
  await rowsOf("SELECT encode(key, 'hex') AS k, encode(value, 'hex') AS v FROM bytes_copy", [[
    "2f622fff00",
    "0001ff",
  ]]);
  const put = Number(await etcd.put("/b/x", "y"));
  await rowsOf("SELECT mod_revision::int FROM bytes_copy WHERE key = '/b/x'", [[put]]);
  await db.sql(`CREATE FOREIGN TABLE keys_only (key text) SERVER etcd OPTIONS (prefix '/k/');
    CREATE TABLE keys_copy (key text COLLATE "C" PRIMARY KEY)`);
  await etcd.put("/k/1", "");
  await db.sql("SELECT etcd_mirror('keys', 'keys_copy', 'keys_only')");
  await etcd.put("/k/2", "");
  await rowsOf("SELECT key FROM keys_copy ORDER BY 1", [["/k/1"], ["/k/2"]]);
  await etcd.delete("/k/1");
  await etcd.put("/k/2", "again");
  await rowsOf("SELECT key FROM keys_copy ORDER BY 1", [["/k/2"]]);
  await endAll();
});

test("a filter: rows come and go with it", async () => {
  await db.sql(`CREATE FOREIGN TABLE f (key text, value text) SERVER etcd OPTIONS (prefix '/f/');
    CREATE TABLE f_copy (key text PRIMARY KEY, value text);
    INSERT INTO f VALUES ('/f/1', 'in'), ('/f/2', 'out')`);
  await db.sql("SELECT etcd_mirror('f', 'f_copy', 'f', filter => $$value = 'in'$$)");
  await rowsOf("SELECT key FROM f_copy", [["/f/1"]]);
  await etcd.put("/f/2", "in");
  await etcd.put("/f/1", "out");
  await rowsOf("SELECT key FROM f_copy", [["/f/2"]]);
  await etcd.put("/f/3", "in");
  await etcd.delete("/f/2");
  await rowsOf("SELECT key FROM f_copy", [["/f/3"]]);
  await endAll();
  await db.sql("TRUNCATE f_copy; SELECT etcd_mirror('f', 'f_copy', 'f', filter => 'false')");
  await inState("f", "running");
  assert.deepEqual(await db.sql("TABLE f_copy"), []);
  await endAll();
  for (
    const [filter, code] of [
      ["now() > '2000-01-01'", "0A000"],
      ["key IN (SELECT key FROM f_copy)", "0A000"],
      ["true; DROP TABLE f_copy", "42601"],
      ["count(*) > 1", "42803"],
      ["nothing = 1", "42703"],
      ["1", "42804"],
      ["true LIMIT 1", "42601"],
    ]
  ) {
    const error = await db.failure(`SELECT etcd_mirror('x', 'f_copy', 'f', filter => $$${filter}$$)`);
    assert.equal(error.code, code, `${filter}: ${error.message}`);
  }
  // The owner's names count at the call, not the worker's.
  await db.sql(
    `CREATE SCHEMA own; CREATE FUNCTION own.is_in(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 = ''in''';
    SET search_path = own, public;
    SELECT etcd_mirror('f', 'f_copy', 'f', filter => 'is_in(value)'); RESET search_path`,
  );
  await rowsOf("SELECT key FROM f_copy", [["/f/3"]]);
  await endAll();
});

test("partitions, triggers of rows and statements, foreign keys", async () => {
  await db.sql(`CREATE FOREIGN TABLE p (key text, value text) SERVER etcd OPTIONS (prefix '/p/');
    CREATE TABLE p_copy (key text COLLATE "C" PRIMARY KEY, value text) PARTITION BY RANGE (key);
    CREATE TABLE p_low PARTITION OF p_copy FOR VALUES FROM (MINVALUE) TO ('/p/5');
    CREATE TABLE p_high PARTITION OF p_copy FOR VALUES FROM ('/p/5') TO (MAXVALUE);
    CREATE TABLE told (n int GENERATED ALWAYS AS IDENTITY, what text, key text);
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$ BEGIN
      INSERT INTO told (what, key) VALUES (TG_WHEN || ' ' || TG_OP || ' ' || TG_LEVEL,
        CASE WHEN TG_LEVEL = 'ROW' THEN CASE WHEN TG_OP = 'DELETE' THEN OLD.key ELSE NEW.key END END);
      RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END; END $$;
    INSERT INTO p SELECT '/p/' || i, i FROM generate_series(1, 9) i;
    INSERT INTO p_copy SELECT '/p/' || i, i FROM generate_series(1, 8) i;
    CREATE TRIGGER r BEFORE INSERT OR UPDATE OR DELETE ON p_copy FOR EACH ROW EXECUTE FUNCTION tell();
    CREATE TRIGGER s AFTER INSERT ON p_copy FOR EACH STATEMENT EXECUTE FUNCTION tell();
    SELECT etcd_mirror('p', 'p_copy', 'p')`);
  await same("SELECT key, value FROM p_copy", "SELECT key, value FROM p");
  assert.deepEqual((await db.sql("SELECT what, key FROM told WHERE key IS NOT NULL")).map(Object.values), [
    ["BEFORE INSERT ROW", "/p/9"],
  ]);
  assert.ok((await db.sql("SELECT FROM told WHERE what = 'AFTER INSERT STATEMENT'")).length >= 1);
  await etcd.put("/p/1", "x");
  await etcd.delete("/p/9");
  await same("SELECT key, value FROM p_copy", "SELECT key, value FROM p");
  const ops = (await db.sql("SELECT what || ' ' || key AS t FROM told WHERE key IS NOT NULL")).map(({ t }) =>
    t
  );
  assert.ok(ops.includes("BEFORE UPDATE ROW /p/1") && ops.includes("BEFORE DELETE ROW /p/9"), ops.join());
  await endAll();

  await db.sql(`CREATE FOREIGN TABLE tree (key text, value text) SERVER etcd OPTIONS (prefix '/t/');
    CREATE TABLE tree_copy (key text PRIMARY KEY, value text REFERENCES tree_copy DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO tree VALUES ('/t/1', '/t/2'), ('/t/2', '/t/3'), ('/t/3', '/t/3');
    CREATE TABLE users (key text REFERENCES tree_copy); SELECT etcd_mirror('tree', 'tree_copy', 'tree')`);
  await same("SELECT key, value FROM tree_copy", "SELECT key, value FROM tree");
  await db.sql("INSERT INTO users VALUES ('/t/1')");
  await etcd.delete("/t/1");
  assert.match((await inState("tree", "failed")).error, /^23503/);
  await db.sql("DELETE FROM users; SELECT etcd_resume('tree')");
  await same("SELECT key, value FROM tree_copy", "SELECT key, value FROM tree");
  // At the commit only.
  await etcd.put("/t/4", "/t/nowhere");
  assert.match((await inState("tree", "failed")).error, /^23503/);
  await etcd.put("/t/nowhere", "/t/nowhere");
  await db.sql("SELECT etcd_resume('tree')");
  await same("SELECT key, value FROM tree_copy", "SELECT key, value FROM tree");
  await endAll();
});

test("one Txn of etcd is never seen in part, and readers are not held up", async () => {
  await db.sql(`CREATE FOREIGN TABLE pair (key text, value text) SERVER etcd OPTIONS (prefix '/pair/');
    CREATE TABLE pair_copy (key text PRIMARY KEY, value text);
    INSERT INTO pair SELECT '/pair/' || i, '0' FROM generate_series(1, 40) i;
    SELECT etcd_mirror('pair', 'pair_copy', 'pair')`);
  await same("TABLE pair_copy", "TABLE pair");
  const reader = await db.connect();
  let reads = 0;
  let writing = true;
  const reading = (async () => {
    while (writing) {
      const began = performance.now();
      const { rows } = await reader.query(
        "SELECT count(*)::int AS n, count(DISTINCT value)::int AS v FROM pair_copy",
      );
      assert.deepEqual(rows, [{ n: 40, v: 1 }]);
      assert.ok(performance.now() - began < 2_000);
      reads++;
    }
  })();
  for (let i = 1; i <= 60; i++) await db.sql("UPDATE pair SET value = $1", [String(i)]);
  await rowsOf("SELECT DISTINCT value FROM pair_copy", [["60"]]);
  writing = false;
  await reading;
  await reader.end();
  assert.ok(reads > 20, String(reads));
  await endAll();
});

test("a row that is refused stops its mirror alone; it goes on when the cause is mended, or by skipping", async () => {
  await db.sql(`CREATE FOREIGN TABLE r (key text, value text) SERVER etcd OPTIONS (prefix '/r/');
    CREATE TABLE r_copy (key text PRIMARY KEY, value text CONSTRAINT small CHECK (length(value) < 5));
    CREATE TABLE r_other (key text PRIMARY KEY, value text);
    SELECT etcd_mirror('r', 'r_copy', 'r'), etcd_mirror('other', 'r_other', 'r')`);
  await Promise.all(["r", "other"].map((name) => inState(name, "running")));
  await etcd.put("/r/1", "ok");
  const bad = Number(await etcd.put("/r/2", "too long"));
  await etcd.put("/r/3", "ok");
  const failed = await inState("r", "failed");
  assert.match(failed.error, /^23514: .*"small"/s);
  assert.deepEqual([failed.error_key, Number(failed.error_revision)], ["/r/2", bad]);
  await same("TABLE r_other", "TABLE r");
  await db.sql(`SELECT etcd_resume('r', skip => ${bad})`);
  await rowsOf("SELECT key FROM r_copy ORDER BY 1", [["/r/1"], ["/r/3"]]);
  await inState("r", "running");
  const second = Number(await etcd.put("/r/4", "too long"));
  assert.equal(Number((await inState("r", "failed")).error_revision), second);
  await db.sql("ALTER TABLE r_copy DROP CONSTRAINT small; SELECT etcd_resume('r')");
  await rowsOf("SELECT key FROM r_copy ORDER BY 1", [["/r/1"], ["/r/3"], ["/r/4"]]);
  await endAll();
  // In a snapshot.
  await db.sql(`TRUNCATE r_copy; ALTER TABLE r_copy ADD CONSTRAINT small CHECK (length(value) < 5);
    SELECT etcd_mirror('r', 'r_copy', 'r')`);
  const inSnapshot = await inState("r", "failed");
  assert.equal(inSnapshot.error_key, "/r/2");
  assert.equal(Number(inSnapshot.error_revision), bad);
  await db.sql(`SELECT etcd_resume('r', skip => ${bad})`);
  await waitFor("the other one", async () => (await seen("r")).error_key === "/r/4");
  await db.sql(`SELECT etcd_resume('r', skip => ${second})`);
  await rowsOf("SELECT key FROM r_copy ORDER BY 1", [["/r/1"], ["/r/3"]]);
  await inState("r", "running");
  await endAll();
});

test("triggers: one that raises, one that would escape its role, one that reads the foreign table", async () => {
  await db.sql(`CREATE ROLE member; GRANT member TO alice; SET ROLE alice;
    CREATE FOREIGN TABLE a (key text, value text) SERVER etcd OPTIONS (prefix '/a/');
    CREATE TABLE a_copy (key text PRIMARY KEY, value text);
    CREATE TABLE a_seen (key text, who text, session text, at_etcd text, rest int);
    CREATE FUNCTION a_look() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$ BEGIN
      IF NEW.value = 'role' THEN SET ROLE member; INSERT INTO a_seen VALUES (NEW.key, current_user); RETURN NEW; END IF;
      IF NEW.value = 'raise' THEN RAISE 'not this one'; END IF;
      IF NEW.value = 'escape' THEN SET ROLE postgres; END IF;
      EXECUTE 'RESET ROLE';
      PERFORM pg_advisory_unlock_all();
      INSERT INTO a_seen SELECT NEW.key, current_user, session_user, (SELECT value FROM a WHERE key = NEW.key),
        (SELECT count(*) FROM a);
      RETURN NEW; END $$;
    CREATE TRIGGER look BEFORE INSERT OR UPDATE ON a_copy FOR EACH ROW EXECUTE FUNCTION a_look();
    GRANT ALL ON a_seen, a_copy TO member;
    SELECT etcd_mirror('a', 'a_copy', 'a'); RESET ROLE`);
  await inState("a", "running");
  await etcd.put("/a/1", "1");
  await etcd.put("/a/2", "2");
  await rowsOf("SELECT key, who, session, at_etcd FROM a_seen ORDER BY key", [
    ["/a/1", "alice", "alice", "1"],
    ["/a/2", "alice", "alice", "2"],
  ]);
  assert.deepEqual(await db.sql("SELECT max(rest) AS rest FROM a_seen"), [{ rest: 2 }]);
  // A role that the owner may take lasts for the trigger's transaction alone.
  await etcd.put("/a/role", "role");
  await rowsOf("SELECT key FROM a_seen WHERE who = 'member'", [["/a/role"]]);
  await etcd.put("/a/1", "again");
  // Once for the row that is proposed, and once for the one that is changed.
  await rowsOf("SELECT who, count(*)::int FROM a_seen WHERE key = '/a/1' GROUP BY 1", [["alice", 3]]);
  await etcd.delete("/a/role");
  const raised = Number(await etcd.put("/a/3", "raise"));
  assert.match((await inState("a", "failed")).error, /^P0001: not this one/);
  await db.sql(`SELECT etcd_resume('a', skip => ${raised})`);
  await inState("a", "running");
  await etcd.put("/a/4", "escape");
  const escape = await waitFor("the refusal", async () => {
    const row = await seen("a");
    return row.error === null ? null : row;
  });
  assert.match(escape.error, /^42501: .*role "postgres"/);
  assert.deepEqual(
    await db.sql("SELECT FROM a_seen WHERE who NOT IN ('alice', 'member') OR session <> 'alice'"),
    [],
  );
  await endAll();
});

test("rights that are revoked, a target that is dropped, altered or locked: it waits and goes on", async () => {
  await db.sql(`SET ROLE alice;
    CREATE FOREIGN TABLE w (key text, value text) SERVER etcd OPTIONS (prefix '/w/');
    CREATE TABLE w_copy (key text PRIMARY KEY, value text); SELECT etcd_mirror('w', 'w_copy', 'w'); RESET ROLE`);
  await inState("w", "running");
  const retried = async (change: string, back: string, error: RegExp) => {
    await db.sql(change);
    const key = `/w/${performance.now()}`;
    await etcd.put(key, "x");
    await waitFor(`an error of ${change}`, async () => error.test((await seen("w")).error ?? ""), {
      timeoutMs: 40_000,
    });
    assert.equal((await seen("w")).state, "retrying");
    await db.sql(back);
    // A change of the table has it look again, as any does.
    await db.sql("SELECT etcd_resume('w')");
    await same("SELECT key, value FROM w_copy", "SELECT key, value FROM w", 35_000);
  };
  await retried("REVOKE INSERT ON w_copy FROM alice", "GRANT INSERT ON w_copy TO alice", /^42501: .*w_copy/);
  await retried(
    "ALTER TABLE w_copy DROP CONSTRAINT w_copy_pkey",
    "ALTER TABLE w_copy ADD PRIMARY KEY (key)",
    /^42P16/,
  );
  await retried(
    "REVOKE USAGE ON FOREIGN SERVER etcd FROM alice",
    "GRANT USAGE ON FOREIGN SERVER etcd TO alice",
    /^42501/,
  );
  // Columns may come and go.
  await db.sql("ALTER TABLE w_copy DROP value");
  await etcd.put("/w/altered", "x");
  await same("SELECT key FROM w_copy", "SELECT key FROM w");
  await db.sql(
    "ALTER TABLE w_copy ADD value text; SELECT etcd_unmirror('w'); SET ROLE alice; SELECT etcd_mirror('w', 'w_copy', 'w'); RESET ROLE",
  );
  await same("SELECT key, value FROM w_copy", "SELECT key, value FROM w");
  await db.sql("BEGIN; LOCK TABLE w_copy");
  await etcd.put("/w/locked", "x");
  await delay(1_500);
  await db.sql("COMMIT");
  await same("SELECT key, value FROM w_copy", "SELECT key, value FROM w");
  await db.sql("BEGIN; SELECT etcd_pause('w')");
  await etcd.put("/w/held", "x");
  await delay(500);
  await db.sql("ROLLBACK");
  await same("SELECT key, value FROM w_copy", "SELECT key, value FROM w", 5_000);
  assert.deepEqual([(await seen("w")).state, (await seen("w")).error], ["running", null]);
  await db.sql("DROP TABLE w_copy");
  await etcd.put("/w/dropped", "x");
  await waitFor("an error", async () => /^42P01/.test((await seen("w")).error ?? ""), { timeoutMs: 40_000 });
  await endAll();
  // A role that may not log in.
  await db.sql(`CREATE ROLE team; GRANT team TO alice; GRANT USAGE ON FOREIGN SERVER etcd TO team;
    GRANT CREATE ON SCHEMA public TO team; SET ROLE team; CREATE TABLE team_copy (key text PRIMARY KEY, value text);
    CREATE FOREIGN TABLE team_source (key text, value text) SERVER etcd OPTIONS (prefix '/w/')`);
  if (version < 170000) {
    assert.equal((await db.failure("SELECT etcd_mirror('team', 'team_copy', 'team_source')")).code, "28000");
    await db.sql("RESET ROLE");
  } else {
    await db.sql("SELECT etcd_mirror('team', 'team_copy', 'team_source'); RESET ROLE");
    await same("SELECT key, value FROM team_copy", "SELECT key, value FROM team_source");
    await endAll();
  }
  await db.sql("REVOKE team FROM alice");
  // An owner who may not connect any more: the view says so, and it goes on when he may.
  await db.sql(`REVOKE CONNECT ON DATABASE etcd_fdw FROM PUBLIC; GRANT CONNECT ON DATABASE etcd_fdw TO alice;
    DROP TABLE IF EXISTS w_copy; SET ROLE alice; CREATE TABLE w_copy (key text PRIMARY KEY, value text);
    SELECT etcd_mirror('w', 'w_copy', 'w'); RESET ROLE`);
  await inState("w", "running");
  await db.sql(`REVOKE CONNECT ON DATABASE etcd_fdw FROM alice;
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'etcd_fdw mirror'`);
  await waitFor("the reason", async () => /^28000: .*\n.*CONNECT/.test((await seen("w")).error ?? ""));
  await db.sql("GRANT CONNECT ON DATABASE etcd_fdw TO PUBLIC; SELECT etcd_resume('w')");
  await same("SELECT key, value FROM w_copy", "SELECT key, value FROM w");
  await endAll();
  await db.sql("DROP TABLE w_copy");
  // An owner who may not any more leaves no loop in the log.
  if (version < 170000) {
    await db.sql(`SET ROLE alice; CREATE TABLE w_copy (key text PRIMARY KEY, value text);
      SELECT etcd_mirror('w', 'w_copy', 'w'); RESET ROLE`);
    await inState("w", "running");
    await db.sql("ALTER ROLE alice NOLOGIN");
    const before = (await log()).length;
    const [{ pid }] = await db.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'etcd_fdw mirror'");
    await db.sql("SELECT pg_terminate_backend($1)", [pid]);
    await waitFor("the reason", async () => /^28000/.test((await seen("w")).error ?? ""));
    await delay(3_000);
    assert.ok((await log()).slice(before).split("\n").length < 12, (await log()).slice(before));
    await db.sql("ALTER ROLE alice LOGIN; SELECT etcd_resume('w')");
    await same("SELECT key, value FROM w_copy", "SELECT key, value FROM w");
    await endAll();
  }
});

test("a trigger that writes to etcd: on events, in a snapshot, and when a verification repairs", async () => {
  await db.sql(`CREATE FOREIGN TABLE asked (key text, value text) SERVER etcd OPTIONS (prefix '/asked/');
    CREATE FOREIGN TABLE answered (name text, value text) SERVER etcd OPTIONS (key_pattern '/answered/{name}');
    CREATE TABLE asked_copy (key text PRIMARY KEY, value text);
    CREATE FUNCTION answer() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$ BEGIN
      DELETE FROM answered WHERE name = substr(NEW.key, 8);
      INSERT INTO answered VALUES (substr(NEW.key, 8), 'seen ' || NEW.value); RETURN NULL; END $$;
    CREATE TRIGGER answer AFTER INSERT OR UPDATE ON asked_copy FOR EACH ROW EXECUTE FUNCTION answer();
    INSERT INTO asked VALUES ('/asked/1', 'a');
    SELECT etcd_mirror('asked', 'asked_copy', 'asked', verify => '1 s')`);
  await rowsOf("SELECT * FROM answered", [["1", "seen a"]]);
  await etcd.put("/asked/2", "b");
  await rowsOf("SELECT * FROM answered ORDER BY name", [["1", "seen a"], ["2", "seen b"]]);
  await etcd.put("/asked/1", "c");
  await rowsOf("SELECT * FROM answered ORDER BY name", [["1", "seen c"], ["2", "seen b"]]);
  await db.sql("DELETE FROM asked_copy WHERE key = '/asked/2'");
  await etcd.delete("/answered/2");
  await rowsOf("SELECT * FROM answered ORDER BY name", [["1", "seen c"], ["2", "seen b"]]);
  await same("TABLE asked_copy", "TABLE asked");
  assert.equal((await seen("asked")).repaired, "1");
  await endAll();
});

test("what is set for the owner's sessions does not lead its mirror astray", async () => {
  await db.sql(
    `SET ROLE alice; CREATE FOREIGN TABLE o (key text, value text) SERVER etcd OPTIONS (prefix '/o/');
    CREATE TABLE o_copy (key text PRIMARY KEY, value text); RESET ROLE;
    ALTER ROLE alice SET etcd_fdw.revision = '2'; ALTER ROLE alice SET default_transaction_read_only = on;
    ALTER ROLE alice SET default_transaction_isolation = serializable; ALTER ROLE alice SET statement_timeout = '1ms';
    ALTER ROLE alice SET enable_hashjoin = off`,
  );
  await etcd.put("/o/1", "1");
  await db.sql("SET ROLE alice; SELECT etcd_mirror('o', 'o_copy', 'o'); RESET ROLE");
  await same("TABLE o_copy", "TABLE o");
  await etcd.put("/o/2", "2");
  await etcd.delete("/o/1");
  await same("TABLE o_copy", "TABLE o");
  await endAll();
  await db.sql("ALTER ROLE alice RESET ALL");
});

test("two that make a mirror of one table at the same time", async () => {
  await db.sql(`CREATE TABLE two_copy (key text PRIMARY KEY, value text);
    CREATE FOREIGN TABLE two (key text, value text) SERVER etcd OPTIONS (prefix '/two/')`);
  const other = await db.connect();
  await other.query("BEGIN; SELECT etcd_mirror('two', 'two_copy', 'two')");
  const second = db.failure("SELECT etcd_mirror('three', 'two_copy', 'two')");
  await delay(300);
  await other.query("COMMIT");
  assert.equal((await second).code, "23505");
  await other.end();
  await endAll();
});

test("compacted while it paused: a new snapshot that writes what differs", async () => {
  await db.sql(`CREATE FOREIGN TABLE c (key text, value text) SERVER etcd OPTIONS (prefix '/c/');
    CREATE TABLE c_copy (key text PRIMARY KEY, value text);
    INSERT INTO c SELECT '/c/' || i, i FROM generate_series(1, 100) i;
    SELECT etcd_mirror('c', 'c_copy', 'c')`);
  await same("TABLE c_copy", "TABLE c");
  await db.sql("SELECT etcd_pause('c')");
  const before = new Map((await db.sql("SELECT key, ctid FROM c_copy")).map(({ key, ctid }) => [key, ctid]));
  await etcd.put("/c/1", "changed");
  await etcd.delete("/c/2");
  await etcd.put("/c/new", "x");
  await etcd.compact(await revision());
  const [proxy] = await proxyPids(dataDirectory);
  Deno.kill(proxy, "SIGKILL");
  await db.sql("SELECT etcd_resume('c')");
  await same("TABLE c_copy", "TABLE c");
  const touched = (await db.sql("SELECT key, ctid FROM c_copy")).filter(({ key, ctid }) =>
    before.get(key) !== ctid
  );
  assert.deepEqual(touched.map(({ key }) => key).sort(), ["/c/1", "/c/new"]);
  assert.match(await log(), /mirror "c" of etcd begins anew/);
  await etcd.put("/c/more", "x");
  await same("TABLE c_copy", "TABLE c");
  await endAll();
});

test("verification puts right what was spoilt, and counts it; a pause keeps it away", async () => {
  await db.sql(`CREATE FOREIGN TABLE v (key text, value text) SERVER etcd OPTIONS (prefix '/v/');
    CREATE TABLE v_copy (key text PRIMARY KEY, value text);
    INSERT INTO v SELECT '/v/' || i, i FROM generate_series(1, 100) i;
    SELECT etcd_mirror('v', 'v_copy', 'v', verify => '1 s')`);
  await same("TABLE v_copy", "TABLE v");
  await waitFor("a verification", async () => {
    await etcd.put("/v/tick", String(performance.now()));
    return (await seen("v")).verified_at !== null;
  }, { intervalMs: 200 });
  assert.equal((await seen("v")).repaired, "0");
  await db.sql(
    `DELETE FROM v_copy WHERE key = '/v/1'; UPDATE v_copy SET value = 'spoilt' WHERE key IN ('/v/2', '/v/3');
    INSERT INTO v_copy VALUES ('/v/none', 'x')`,
  );
  await waitFor("the repair", async () => (await seen("v")).repaired === "4", { timeoutMs: 40_000 });
  await same("TABLE v_copy", "TABLE v");
  assert.match(await log(), /mirror "v" differed from etcd in 4 rows/);
  await endAll();
});

test("what cannot be is an error at the call", async () => {
  await db.sql(`CREATE FOREIGN TABLE e (key text, value text) SERVER etcd OPTIONS (prefix '/e/');
    CREATE FOREIGN TABLE e_values (value text) SERVER etcd OPTIONS (prefix '/e/');
    CREATE FOREIGN TABLE e_past (key text, value text) SERVER etcd OPTIONS (prefix '/e/', revision '2');
    CREATE TABLE e_copy (key text PRIMARY KEY, value text);
    CREATE TABLE e_plain (key text, value text);
    CREATE TABLE e_partial (key text, value text); CREATE UNIQUE INDEX ON e_partial (key) WHERE value <> '';
    CREATE TABLE e_wide (key text, value text, UNIQUE (key, value));
    CREATE TABLE e_later (key text, value text, UNIQUE (key) DEFERRABLE);
    CREATE TABLE e_more (key text PRIMARY KEY, value text, more int NOT NULL);
    CREATE FOREIGN TABLE e_int (key text, value int) SERVER etcd OPTIONS (prefix '/e/');
    CREATE TABLE e_type (key text PRIMARY KEY, value point);
    CREATE TABLE e_number (key numeric PRIMARY KEY, value text);
    CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE e_folded (key text COLLATE folded PRIMARY KEY, value text);
    CREATE TEMP TABLE e_temp (key text PRIMARY KEY, value text);
    CREATE UNLOGGED TABLE e_unlogged (key text PRIMARY KEY, value text);
    CREATE VIEW e_view AS TABLE e_copy; CREATE TABLE e_alice (key text PRIMARY KEY, value text);
    GRANT SELECT ON e TO alice`);
  const code = async (args: string) => {
    const error = await db.failure(`SELECT etcd_mirror(${args})`);
    assert.notEqual(error.code, "XX000", error.message);
    return error.code;
  };
  assert.equal(await code("'e', 'e_plain', 'e'"), "42P16");
  assert.equal(await code("'e', 'e_partial', 'e'"), "42P16");
  assert.equal(await code("'e', 'e_wide', 'e'"), "42P16");
  assert.equal(await code("'e', 'e_later', 'e'"), "42P16");
  assert.equal(await code("'e', 'e_number', 'e'"), "42P16");
  assert.equal(await code("'e', 'e_folded', 'e'"), "42P16");
  assert.equal(await code("'e', 'e_more', 'e'"), "42703");
  assert.equal(await code("'e', 'e_type', 'e_int'"), "42846");
  assert.equal(await code("'e', 'e_temp', 'e'"), "42809");
  assert.equal(await code("'e', 'e_unlogged', 'e'"), "42809");
  assert.equal(await code("'e', 'e_view', 'e'"), "42809");
  assert.equal(await code("'e', 'e_copy', 'e_copy'"), "42809");
  assert.equal(await code("'e', 'e_copy', 'e_values'"), "55000");
  assert.equal(await code("'e', 'e_copy', 'e_past'"), "55000");
  assert.equal(await code("'e', 'e_copy'"), "22023");
  assert.equal(await code("'e', 'e_copy', 'e', prefix => '/x'"), "22023");
  assert.equal(await code("'e', NULL, 'e'"), "22004");
  assert.equal(await code("'e', 0, 'e'"), "42P01");
  assert.equal(await code("'e', 'e_copy', 'e', verify => '-1 s'"), "22023");
  assert.equal(await code("'e', 'e_copy', 'e', verify => '178000000 years'"), "22023");
  if (version >= 170000) assert.equal(await code("'e', 'e_copy', 'e', verify => 'infinity'"), "22023");
  assert.equal(await code("'e', 'e_copy', prefix => repeat('x', 2000000)"), "22023");
  // The parser takes more than conditions.
  for (const filter of ["*", "true AS x", "", "true, true", "true WHERE true", "f.*", "(f).*", "DEFAULT"]) {
    assert.match(await code(`'e', 'e_copy', 'e', filter => '${filter}'`), /^(42601|42804|0A000)$/, filter);
  }
  assert.equal(await code("'e', 'e_copy', 'e', filter => '*'"), "42601");
  assert.equal(await code(`'${"n".repeat(64)}', 'e_copy', 'e'`), "42622");
  const alice = await db.connect("alice");
  const refused = (args: string) =>
    alice.query(`SELECT etcd_mirror(${args})`).then(() => "", (error: SqlError) => error.code);
  assert.equal(await refused("'e', 'e_alice', 'e'"), "42501");
  await db.sql("GRANT ALL ON e_alice TO alice; REVOKE SELECT ON e FROM alice");
  assert.equal(await refused("'e', 'e_alice', 'e'"), "42501");
  await db.sql("GRANT SELECT ON e TO alice; REVOKE USAGE ON FOREIGN SERVER etcd FROM alice");
  assert.equal(await refused("'e', 'e_alice', 'e'"), "42501");
  await db.sql("GRANT USAGE ON FOREIGN SERVER etcd TO alice; SELECT etcd_mirror('e', 'e_copy', 'e')");
  assert.equal(await code("'e', 'e_alice', 'e'"), "42710");
  assert.equal(await code("'e2', 'e_copy', 'e'"), "55006");
  for (const call of ["etcd_unmirror('e')", "etcd_pause('e')", "etcd_resume('e')"]) {
    const error = await alice.query(`SELECT ${call}`).then(() => null, (thrown: SqlError) => thrown);
    assert.equal(error?.code, "42501");
  }
  assert.deepEqual((await alice.query("SELECT name FROM etcd_fdw_mirrors")).rows, []);
  await alice.end();
  await endAll();
});

test("a snapshot of 200,000 rows: memory that does not grow with it, and the time of a copy by hand", async () => {
  await etcd.putMany(
    Array.from({ length: 200_000 }, (_, i) => [`/big/${i}`, "v".repeat(100)] as [string, string]),
  );
  await db.sql(`CREATE FOREIGN TABLE big (key text, value text) SERVER etcd OPTIONS (prefix '/big/');
    CREATE TABLE by_hand (key text PRIMARY KEY, value text); CREATE TABLE big_copy (LIKE by_hand INCLUDING ALL)`);
  let began = performance.now();
  await db.sql("INSERT INTO by_hand SELECT * FROM big");
  const plain = performance.now() - began;
  began = performance.now();
  await db.sql("SELECT etcd_mirror('big', 'big_copy', 'big', verify => '1 s')");
  let highest = 0;
  const measure = async () => {
    const rows = await db.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'etcd_fdw mirror'");
    for (const { pid } of rows) {
      const text = await Deno.readTextFile(`/proc/${pid}/smaps_rollup`).catch(() => "");
      highest = Math.max(highest, Number(/Private_Dirty:\s+(\d+)/.exec(text)?.[1] ?? 0) / 1024);
    }
  };
  await waitFor("the snapshot", async () => {
    await measure();
    return (await seen("big")).state === "running";
  }, { timeoutMs: 60_000 });
  const took = performance.now() - began;
  await waitFor("a verification", async () => {
    await measure();
    await etcd.put("/big/tick", String(performance.now()));
    return (await seen("big")).verified_at !== null;
  }, { timeoutMs: 60_000, intervalMs: 100 });
  assert.equal((await seen("big")).repaired, "0");
  assert.ok(highest < 64, `${highest} MB`);
  assert.ok(took < 4 * plain + 2_000, `${took} ms, by hand ${plain} ms`);
  await same("SELECT key, value FROM big_copy", "SELECT key, value FROM big", 30_000);
  await endAll();
});

test("nobody's functions take the place of those that a filter names, and its constants stay what they are", async () => {
  await db.sql(
    `CREATE FOREIGN TABLE ft (key text, tags text[] OPTIONS (json 'tags'), d date OPTIONS (json 'd'))
      SERVER etcd OPTIONS (prefix '/ft/');
    CREATE TABLE ft_copy (key text PRIMARY KEY, tags text[], d date);
    SET search_path = pg_catalog; SET datestyle = 'SQL, DMY';
    SELECT public.etcd_mirror('ft', 'public.ft_copy', 'public.ft',
      filter => 'array_length(tags, 1) = 1 AND d = ''05/02/2020''');
    RESET search_path; RESET datestyle;
    SET ROLE alice; CREATE FUNCTION public.array_length(text[], int) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN EXECUTE 'ALTER ROLE alice SUPERUSER'; RETURN 1; END $$; RESET ROLE`,
  );
  await db.sql(`INSERT INTO ft VALUES ('/ft/a', '{x,y}', '2020-02-05'), ('/ft/b', '{x}', '2020-02-05'),
    ('/ft/c', '{x}', '2020-05-02')`);
  await rowsOf("SELECT key FROM ft_copy", [["/ft/b"]]);
  assert.deepEqual(await db.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'alice'"), [{
    rolsuper: false,
  }]);
  await db.sql("DROP FUNCTION public.array_length(text[], int)");
  await endAll();
});

test("a domain of the target cuts nothing", async () => {
  await db.sql(`CREATE FOREIGN TABLE dm (key text, value text) SERVER etcd OPTIONS (prefix '/dm/');
    CREATE DOMAIN six AS varchar(6); CREATE TABLE dm_copy (key text PRIMARY KEY, value six);
    SELECT etcd_mirror('dm', 'dm_copy', 'dm')`);
  await etcd.put("/dm/a", "123456");
  await rowsOf("SELECT value FROM dm_copy", [["123456"]]);
  await etcd.put("/dm/a", "1234567");
  const { error } = await inState("dm", "failed");
  assert.match(error as string, /22001/);
  await endAll();
});

test("other constraints see what happened in etcd's order, where a batch at once would be refused", async () => {
  await db.sql(`CREATE FOREIGN TABLE io (key text, value text, parent text OPTIONS (json 'parent'))
      SERVER etcd OPTIONS (prefix '/io/');
    CREATE TABLE io_copy (key text PRIMARY KEY, value text UNIQUE, parent text REFERENCES io_copy)`);
  const put = (key: string, fields: Record<string, unknown>) =>
    etcd.put(`/io/${key}`, JSON.stringify(fields));
  await put("a", { n: 1 });
  await put("b", { n: 2 });
  await put("z", { n: 3, parent: "/io/a" });
  await db.sql("SELECT etcd_mirror('io', 'io_copy', 'io')");
  await same("SELECT key, value, parent FROM io_copy", "SELECT key, value, parent FROM io");
  await db.sql("SELECT etcd_pause('io')");
  // Values pass from key to key, and the parent goes when nobody has it any more.
  await put("z", { n: 4, parent: "/io/b" });
  await put("b", { n: 3 });
  await put("c", { n: 2 });
  await db.sql("SELECT etcd_delete('/io/a')");
  await put("d", { n: 1 });
  await db.sql("SELECT etcd_resume('io')");
  await same("SELECT key, value, parent FROM io_copy", "SELECT key, value, parent FROM io");
  assert.equal((await seen("io")).state, "running");
  await endAll();
});
