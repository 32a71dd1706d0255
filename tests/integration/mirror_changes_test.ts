// Mirrors whose foreign table, target or server become others, and tables that cannot be targets.

import assert from "node:assert/strict";
import { mirrorsOf } from "../helpers/mirrors.ts";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("changes");

await db.sql(`${etcd.createServerSql("etcd")}; SET etcd_fdw.default_server = 'etcd'`);

const { seen, inState, same, rowsOf, endAll } = mirrorsOf(db);
/** Any event, or any change of the mirror's row, has its worker look. */
const look = (name: string) => db.sql(`SELECT etcd_resume('${name}')`);

test("options, columns and names of the tables may change: the mirror becomes what they say", async () => {
  await db.sql(`CREATE FOREIGN TABLE o (key text, value text) SERVER etcd OPTIONS (prefix '/o/1/');
    CREATE TABLE o_copy (key text PRIMARY KEY, value text);
    INSERT INTO o_copy VALUES ('/o/none', '');
    SELECT etcd_mirror('o', 'o_copy', 'o')`);
  await etcd.put("/o/1/a", '{"n": 1}');
  await etcd.put("/o/2/b", '{"n": 2}');
  await rowsOf("SELECT key FROM o_copy", [["/o/1/a"]]);
  await db.sql("ALTER FOREIGN TABLE o OPTIONS (SET prefix '/o/2/')");
  await look("o");
  await rowsOf("SELECT key FROM o_copy", [["/o/2/b"]]);
  await etcd.put("/o/2/c", '{"n": 3}');
  await etcd.put("/o/1/a", '{"n": 4}');
  await rowsOf("SELECT key FROM o_copy ORDER BY 1", [["/o/2/b"], ["/o/2/c"]]);
  // A column that both have from now on, without anything that happens in etcd but another key.
  await db.sql(`ALTER FOREIGN TABLE o ADD n int OPTIONS (json 'n'); ALTER TABLE o_copy ADD n int`);
  await etcd.put("/o/2/d", '{"n": 5}');
  await rowsOf("SELECT key, n FROM o_copy ORDER BY 1", [["/o/2/b", 2], ["/o/2/c", 3], ["/o/2/d", 5]]);
  await db.sql(`ALTER FOREIGN TABLE o RENAME n TO number; ALTER TABLE o_copy RENAME n TO number`);
  await etcd.put("/o/2/b", '{"n": 6}');
  await rowsOf("SELECT key, number FROM o_copy ORDER BY 1", [["/o/2/b", 6], ["/o/2/c", 3], ["/o/2/d", 5]]);
  await db.sql("ALTER FOREIGN TABLE o ALTER number OPTIONS (SET json 'm'), ALTER number TYPE bigint");
  await etcd.put("/o/2/b", '{"m": 7}');
  await rowsOf("SELECT number::int FROM o_copy ORDER BY key", [[7], [null], [null]]);
  // What changes nothing begins nothing anew.
  const before = await db.sql("SELECT key, ctid FROM o_copy WHERE key <> '/o/2/e' ORDER BY 1");
  await db.sql(`CREATE INDEX ON o_copy (value); ANALYZE o_copy; ALTER TABLE o_copy RENAME TO o_other;
    ALTER FOREIGN TABLE o RENAME TO o_source; ALTER SERVER etcd OPTIONS (ADD request_timeout '29000')`);
  await etcd.put("/o/2/e", "{}");
  await rowsOf("SELECT count(*)::int FROM o_other", [[4]]);
  assert.deepEqual(await db.sql("SELECT key, ctid FROM o_other WHERE key <> '/o/2/e' ORDER BY 1"), before);
  const anew = (await Deno.readTextFile(db.sandbox.description.postgres.log)).match(
    /"o" of etcd begins anew/g,
  );
  assert.equal(anew?.length, 4);
  assert.equal((await inState("o", "running")).error, null);
  await endAll();
});

test("the columns of the key may get other names, and a pattern another order", async () => {
  await db.sql(
    `CREATE FOREIGN TABLE p (a text, b text, value text) SERVER etcd OPTIONS (key_pattern '/p/{a}/{b}');
    CREATE TABLE p_copy (a text, b text, value text, PRIMARY KEY (a, b));
    SELECT etcd_mirror('p', 'p_copy', 'p')`,
  );
  await etcd.put("/p/1/2", "x");
  await rowsOf("SELECT a, b FROM p_copy", [["1", "2"]]);
  await db.sql("ALTER FOREIGN TABLE p OPTIONS (SET key_pattern '/p/{b}/{a}')");
  await look("p");
  await rowsOf("SELECT a, b FROM p_copy", [["2", "1"]]);
  await db.sql(
    `BEGIN; ALTER FOREIGN TABLE p RENAME a TO c; ALTER FOREIGN TABLE p OPTIONS (SET key_pattern '/p/{b}/{c}');
    ALTER TABLE p_copy RENAME a TO c; COMMIT`,
  );
  await etcd.put("/p/3/4", "y");
  await rowsOf("SELECT c, b, value FROM p_copy ORDER BY 1", [["2", "1", "x"], ["4", "3", "y"]]);
  await endAll();
});

test("what the mirror cannot be any more is its error: a filter's column, the key's type, an option", async () => {
  await db.sql(`CREATE FOREIGN TABLE f (key text, value text) SERVER etcd OPTIONS (prefix '/f/');
    CREATE TABLE f_copy (key text PRIMARY KEY, value text);
    SELECT etcd_mirror('f', 'f_copy', 'f', filter => $$value = 'in'$$)`);
  await etcd.put("/f/1", "in");
  await rowsOf("SELECT key FROM f_copy", [["/f/1"]]);
  await db.sql(
    "ALTER FOREIGN TABLE f ALTER value OPTIONS (ADD json 'v'); ALTER FOREIGN TABLE f RENAME value TO v",
  );
  await look("f");
  const { error } = await inState("f", "failed");
  assert.match(error as string, /^42703: .*value.*\n.*filter of mirror "f"/s);
  await db.sql(
    `ALTER FOREIGN TABLE f RENAME v TO value; ALTER FOREIGN TABLE f ALTER value OPTIONS (DROP json)`,
  );
  await look("f");
  await etcd.put("/f/1", "in");
  await inState("f", "running");
  await db.sql("ALTER FOREIGN TABLE f ALTER key TYPE bytea");
  await look("f");
  assert.match((await inState("f", "failed")).error as string, /^42P16: .*no key that tells/);
  await db.sql("ALTER FOREIGN TABLE f ALTER key TYPE text, OPTIONS (ADD revision '3')");
  await look("f");
  await waitFor("the option", async () => /^55000: .*never changes/.test((await seen("f")).error as string));
  await db.sql("ALTER FOREIGN TABLE f OPTIONS (DROP revision)");
  await look("f");
  await etcd.put("/f/2", "in");
  await rowsOf("SELECT key FROM f_copy ORDER BY 1", [["/f/1"], ["/f/2"]]);
  await endAll();
});

test("a server that has another name, or another prefix", async () => {
  await db.sql(`${etcd.createServerSql("first")}; CREATE FOREIGN TABLE s (key text, value text) SERVER first;
    ALTER SERVER first OPTIONS (ADD prefix '/s/1/');
    CREATE TABLE s_copy (key text PRIMARY KEY, value text); SELECT etcd_mirror('s', 's_copy', 's')`);
  await etcd.put("/s/1/a", "1");
  await etcd.put("/s/2/b", "2");
  await same("TABLE s_copy", "TABLE s");
  assert.equal((await db.sql("TABLE s_copy")).length, 1);
  await db.sql("ALTER SERVER first RENAME TO second");
  await etcd.put("/s/1/c", "3");
  await rowsOf("SELECT value FROM s_copy ORDER BY key", [["1"], ["3"]]);
  await waitFor("the name", async () => (await seen("s")).server === "second");
  await db.sql("ALTER SERVER second OPTIONS (SET prefix '/s/2/')");
  await look("s");
  await rowsOf("SELECT value FROM s_copy", [["2"]]);
  await endAll();
});

test("tables that cannot be targets: with rules, parts of others' targets, with a time left", async () => {
  await db.sql(
    `CREATE FOREIGN TABLE t (key text, value text, lease bigint, ttl interval) SERVER etcd OPTIONS (prefix '/t/');
    CREATE TABLE t_rules (key text PRIMARY KEY, value text);
    CREATE RULE r AS ON DELETE TO t_rules DO INSTEAD NOTHING;
    CREATE TABLE t_ttl (key text PRIMARY KEY, ttl interval);
    CREATE TABLE t_lease (key text PRIMARY KEY, lease bigint, time_left interval);
    CREATE TABLE t_all (key text PRIMARY KEY, value text) PARTITION BY RANGE (key);
    CREATE TABLE t_low PARTITION OF t_all FOR VALUES FROM (MINVALUE) TO ('/t/5') PARTITION BY RANGE (key);
    CREATE TABLE t_lowest PARTITION OF t_low FOR VALUES FROM (MINVALUE) TO ('/t/3');
    CREATE TABLE t_high PARTITION OF t_all FOR VALUES FROM ('/t/5') TO (MAXVALUE)`,
  );
  const code = async (target: string) => (await db.failure(`SELECT etcd_mirror('x', '${target}', 't')`)).code;
  assert.equal(await code("t_rules"), "42809");
  await db.sql(`CREATE TABLE t_parts (key text PRIMARY KEY, value text) PARTITION BY RANGE (key);
    CREATE UNLOGGED TABLE t_part PARTITION OF t_parts DEFAULT;
    CREATE TABLE t_hides (key text PRIMARY KEY, value text); ALTER TABLE t_hides ENABLE ROW LEVEL SECURITY;
    CREATE ROLE carol LOGIN; GRANT CREATE ON SCHEMA public TO carol; GRANT USAGE ON FOREIGN SERVER etcd TO carol;
    GRANT ALL ON t_hides TO carol; CREATE POLICY p ON t_hides USING (true)`);
  assert.equal(await code("t_parts"), "42809");
  await db.sql(
    `SET ROLE carol; CREATE FOREIGN TABLE hers (key text, value text) SERVER etcd OPTIONS (prefix '/t/')`,
  );
  const hides = await db.failure("SELECT etcd_mirror('x', 't_hides', 'hers')");
  await db.sql("RESET ROLE");
  assert.equal(hides.code, "0A000");
  assert.match(hides.hint!, /BYPASSRLS/);
  assert.equal(await code("t_ttl"), "0A000");
  await db.sql("SELECT etcd_mirror('low', 't_low', 't', filter => $$key < '/t/2'$$)");
  assert.equal(await code("t_all"), "55006");
  assert.equal(await code("t_lowest"), "55006");
  await db.sql(
    "SELECT etcd_mirror('high', 't_high', 't', filter => $$key >= '/t/5'$$), etcd_mirror('l', 't_lease', 't')",
  );
  await etcd.put("/t/1", "1");
  await etcd.put("/t/6", "6");
  await rowsOf("SELECT key FROM t_all ORDER BY 1", [["/t/1"], ["/t/6"]]);
  await rowsOf("SELECT key, lease::int FROM t_lease ORDER BY 1", [["/t/1", 0], ["/t/6", 0]]);
  await endAll();
});

test("what a target may not be is found out later, too: row security, a table or partition that is unlogged", async () => {
  await db.sql(
    `CREATE ROLE dave LOGIN; GRANT CREATE ON SCHEMA public TO dave; GRANT USAGE ON FOREIGN SERVER etcd TO dave;
    SET ROLE dave;
    CREATE FOREIGN TABLE l (key text, value text) SERVER etcd OPTIONS (prefix '/l/');
    CREATE TABLE l_copy (key text PRIMARY KEY, value text);
    CREATE TABLE l_parts (key text PRIMARY KEY, value text) PARTITION BY RANGE (key);
    CREATE TABLE l_part PARTITION OF l_parts DEFAULT;
    SELECT etcd_mirror('l', 'l_copy', 'l', verify => '1 s'), etcd_mirror('parts', 'l_parts', 'l'); RESET ROLE`,
  );
  await etcd.put("/l/1", "x");
  await same("TABLE l_copy", "TABLE l");
  await same("TABLE l_parts", "TABLE l");
  const fails = async (name: string, change: string, back: string, error: RegExp) => {
    await db.sql(change);
    await look(name);
    await etcd.put("/l/1", String(performance.now()));
    assert.match((await inState(name, "failed")).error as string, error);
    await db.sql(`${back}; SELECT etcd_resume('${name}')`);
    await same("TABLE l_copy", "TABLE l");
    await same("TABLE l_parts", "TABLE l");
  };
  await fails(
    "l",
    `ALTER TABLE l_copy ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY p ON l_copy USING (value <> 'x') WITH CHECK (true)`,
    "ALTER TABLE l_copy NO FORCE ROW LEVEL SECURITY",
    /^0A000: table "l_copy" hides rows from role "dave"/,
  );
  await fails("l", "ALTER TABLE l_copy SET UNLOGGED", "ALTER TABLE l_copy SET LOGGED", /^42809: "l_copy"/);
  await fails(
    "parts",
    "ALTER TABLE l_part SET UNLOGGED",
    "ALTER TABLE l_part SET LOGGED",
    /^42809: .*"l_part"/,
  );
  await endAll();
});

test("rows of tables that inherit from the target are not its own, whenever these are made", async () => {
  await db.sql(`CREATE FOREIGN TABLE i (key text, value text) SERVER etcd OPTIONS (prefix '/i/');
    CREATE TABLE i_copy (key text PRIMARY KEY, value text); CREATE TABLE i_early () INHERITS (i_copy);
    INSERT INTO i_early VALUES ('/i/1', 'mine'), ('mine', 'early')`);
  await etcd.put("/i/1", "x");
  await etcd.put("/i/2", "x");
  await db.sql("SELECT etcd_mirror('i', 'i_copy', 'i', filter => $$value <> 'out'$$, verify => '1 s')");
  await same("TABLE ONLY i_copy", "TABLE i");
  await db.sql(`CREATE TABLE i_child (extra text) INHERITS (i_copy);
    INSERT INTO i_child VALUES ('/i/1', 'mine', 'x'), ('/i/2', 'mine', 'x'), ('mine', 'precious', 'x')`);
  await etcd.delete("/i/1");
  await etcd.put("/i/2", "out");
  await etcd.put("/i/3", "x");
  await rowsOf("SELECT key FROM ONLY i_copy", [["/i/3"]]);
  const before = (await seen("i")).verified_at;
  await waitFor("a verification", async () => {
    await etcd.put("/tick", "x");
    return String((await seen("i")).verified_at) !== String(before);
  }, { timeoutMs: 15_000 });
  assert.equal((await seen("i")).repaired, "0");
  await rowsOf("SELECT key FROM i_child ORDER BY 1", [["/i/1"], ["/i/2"], ["mine"]]);
  await rowsOf("SELECT key FROM i_early ORDER BY 1", [["/i/1"], ["mine"]]);
  await endAll();
});
