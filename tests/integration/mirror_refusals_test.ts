// What a mirror's target refuses: the key is named, and left out where somebody has said so.

import assert from "node:assert/strict";
import { mirrorsOf } from "../helpers/mirrors.ts";
import { proxyPids } from "../helpers/proxy.ts";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("refusals");

await db.sql(`${etcd.createServerSql("etcd")}; SET etcd_fdw.default_server = 'etcd'`);

const dataDirectory = (await db.sql("SHOW data_directory"))[0].data_directory as string;
const { seen, inState, same, rowsOf, endAll } = mirrorsOf(db);
const verified = async (name: string) => {
  const before = (await seen(name)).verified_at;
  await waitFor(`a verification of ${name}`, async () => {
    await etcd.put(`/tick`, String(performance.now()));
    const row = await seen(name);
    if (row.state === "failed") throw new Error(row.error as string);
    return row.verified_at !== null && String(row.verified_at) !== String(before);
  }, { intervalMs: 200, timeoutMs: 15_000 });
};
const leftOut = async (name: string, wanted: number) => {
  await waitFor(`${wanted} left out`, async () => Number((await seen(name)).left_out) === wanted);
};
const failsAt = async (name: string, key: string, revision: unknown, error: RegExp) => {
  const row = await inState(name, "failed");
  assert.match(row.error as string, error);
  assert.deepEqual([row.error_key, Number(row.error_revision)], [key, Number(revision)], row.error as string);
};
const skip = (name: string, revision: unknown) =>
  db.sql(`SELECT etcd_resume('${name}', skip => ${Number(revision)})`);

test("skip leaves out just what is refused of its revision, and is kept", async () => {
  await db.sql(`CREATE FOREIGN TABLE s (key text, value text) SERVER etcd OPTIONS (prefix '/s/');
    CREATE TABLE s_copy (key text PRIMARY KEY, value text CONSTRAINT small CHECK (length(value) < 5));
    SELECT etcd_mirror('s', 's_copy', 's', verify => '1 s')`);
  await inState("s", "running");
  await etcd.put("/s/1", "old");
  await rowsOf("SELECT value FROM s_copy", [["old"]]);
  const first = await etcd.put("/s/1", "too long");
  await failsAt("s", "/s/1", first, /^23514/);
  await skip("s", first);
  await leftOut("s", 1);
  assert.deepEqual(await db.sql("TABLE s_copy"), [], "what is left out is not there as it was before");
  await db.sql("SELECT etcd_pause('s')");
  await db.sql("SELECT etcd_resume('s')");
  await inState("s", "running");
  await verified("s");
  assert.deepEqual([Number((await seen("s")).left_out), (await seen("s")).repaired], [1, "0"]);
  // Another revision is not left out, neither as an event nor when all is compared.
  const second = await etcd.put("/s/2", "too long");
  await failsAt("s", "/s/2", second, /^23514/);
  await db.sql("ALTER TABLE s_copy DROP CONSTRAINT small; SELECT etcd_resume('s')");
  await rowsOf("SELECT key FROM s_copy", [["/s/2"]]);
  await db.sql(
    "ALTER TABLE s_copy ADD CONSTRAINT small CHECK (length(value) < 5) NOT VALID; DELETE FROM s_copy",
  );
  await failsAt("s", "/s/2", second, /^23514/);
  await skip("s", second);
  await leftOut("s", 2);
  await verified("s");
  // By another worker, too; and a key that changes is tried anew.
  await db.sql(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'etcd_fdw mirror'",
  );
  await etcd.put("/s/1", "ok");
  await rowsOf("SELECT key, value FROM s_copy", [["/s/1", "ok"]]);
  await leftOut("s", 1);
  const third = await etcd.put("/s/1", "too long again");
  await failsAt("s", "/s/1", third, /^23514/);
  await db.sql("UPDATE s SET value = 'ok' WHERE key = '/s/1'; DELETE FROM s WHERE key = '/s/2'");
  await skip("s", third);
  await rowsOf("SELECT key, value FROM s_copy", [["/s/1", "ok"]]);
  await leftOut("s", 0);
  assert.deepEqual(
    await db.sql(`SELECT 'etcd_fdw_left_out'::regclass::oid = ANY (extconfig) AS dumped FROM pg_extension
      WHERE extname = 'etcd_fdw'`),
    [{ dumped: true }],
  );
  await endAll();
  assert.deepEqual(await db.sql("TABLE etcd_fdw_left_out"), []);
});

test("a value that cannot be what its column wants has a key and a revision, in a snapshot as well", async () => {
  await db.sql(`CREATE FOREIGN TABLE c (key text, n int OPTIONS (json 'n'), m int OPTIONS (json 'm'))
      SERVER etcd OPTIONS (prefix '/c/');
    CREATE TABLE c_copy (key text PRIMARY KEY, n int, m int CHECK (m < 100));
    INSERT INTO c_copy VALUES ('/c/gone', 1)`);
  await etcd.put("/c/1", '{"n": 1}');
  const bad = await etcd.put("/c/2", '{"n": "x"}');
  await etcd.put("/c/3", '{"n": 3}');
  await db.sql("SELECT etcd_mirror('c', 'c_copy', 'c', verify => '1 s')");
  await failsAt("c", "/c/2", bad, /^22P02/);
  await skip("c", bad);
  await rowsOf("SELECT key, n FROM c_copy ORDER BY key", [["/c/1", 1], ["/c/3", 3]]);
  await leftOut("c", 1);
  await verified("c");
  const event = await etcd.put("/c/3", '{"n": "y"}');
  await failsAt("c", "/c/3", event, /^22P02/);
  await skip("c", event);
  await rowsOf("SELECT key, n FROM c_copy ORDER BY key", [["/c/1", 1]]);
  await verified("c");
  await endAll();
  // Where the filter wants the value, nothing can be deleted before it is left out.
  await db.sql(`TRUNCATE c_copy; INSERT INTO c_copy VALUES ('/c/gone', 1);
    SELECT etcd_mirror('c', 'c_copy', 'c', filter => 'n > 0')`);
  await failsAt("c", "/c/2", bad, /^22P02/);
  await skip("c", bad);
  await failsAt("c", "/c/3", event, /^22P02/);
  await skip("c", event);
  await rowsOf("SELECT key, n FROM c_copy ORDER BY key", [["/c/1", 1]]);
  await leftOut("c", 2);
  await endAll();
});

test("among many, the one that is refused is found, though others need what comes later", async () => {
  await db.sql(`CREATE FOREIGN TABLE many (key text, value text) SERVER etcd OPTIONS (prefix '/many/');
    CREATE TABLE many_copy (key text PRIMARY KEY, value text REFERENCES many_copy, CHECK (key <> '/many/1500' OR value = key))`);
  await etcd.putMany(
    Array.from(
      { length: 3000 },
      (_, i) => [`/many/${1000 + i}`, `/many/${i % 70 === 0 ? 3999 : 1000 + i}`] as [string, string],
    ),
  );
  const bad = await etcd.put("/many/1500", "/many/2500");
  await db.sql(`
    INSERT INTO many_copy VALUES ('/many/none', NULL);
    SELECT etcd_mirror('many', 'many_copy', 'many')`);
  await failsAt("many", "/many/1500", bad, /^23514/);
  await skip("many", bad);
  await same("SELECT key, value FROM many_copy", "SELECT key, value FROM many WHERE key <> '/many/1500'");
  await inState("many", "running");
  await endAll();
});

test("what constraints put off until the commit has a key, too", async () => {
  await db.sql(`CREATE FOREIGN TABLE d (key text, value text) SERVER etcd OPTIONS (prefix '/d/');
    CREATE TABLE d_copy (key text PRIMARY KEY, value text UNIQUE DEFERRABLE INITIALLY DEFERRED,
      FOREIGN KEY (value) REFERENCES d_copy DEFERRABLE INITIALLY DEFERRED);
    SELECT etcd_mirror('d', 'd_copy', 'd')`);
  await inState("d", "running");
  await db.sql("INSERT INTO d VALUES ('/d/1', '/d/2'), ('/d/2', '/d/1')");
  await same("TABLE d_copy", "TABLE d");
  await db.sql("SELECT etcd_pause('d')");
  // Within one Txn all may change; one of these is alone.
  await db.sql(
    "BEGIN; UPDATE d SET value = key; INSERT INTO d VALUES ('/d/3', '/d/4'), ('/d/4', '/d/3'); COMMIT",
  );
  const bad = await etcd.put("/d/5", "/d/nowhere");
  await etcd.put("/d/6", "/d/6");
  await db.sql("SELECT etcd_resume('d')");
  await failsAt("d", "/d/5", bad, /^23503/);
  await skip("d", bad);
  await same("TABLE d_copy", "SELECT key, value FROM d WHERE key <> '/d/5'");
  await leftOut("d", 1);
  await endAll();
  // In a snapshot.
  await etcd.delete("/d/3");
  await etcd.delete("/d/4");
  await db.sql("TRUNCATE d_copy; SELECT etcd_mirror('d', 'd_copy', 'd')");
  await failsAt("d", "/d/5", bad, /^23503/);
  await skip("d", bad);
  await same("TABLE d_copy", "SELECT key, value FROM d WHERE key <> '/d/5'");
  await endAll();
});

test("a deletion that is refused may be left out, and is done when it may be", async () => {
  await db.sql(`CREATE FOREIGN TABLE g (key text, value text) SERVER etcd OPTIONS (prefix '/g/');
    CREATE TABLE g_copy (key text PRIMARY KEY, value text); CREATE TABLE g_users (key text REFERENCES g_copy);
    INSERT INTO g VALUES ('/g/1', 'a'), ('/g/2', 'b');
    SELECT etcd_mirror('g', 'g_copy', 'g', verify => '1 s')`);
  await same("TABLE g_copy", "TABLE g");
  await db.sql("INSERT INTO g_users VALUES ('/g/1'), ('/g/2')");
  await etcd.delete("/g/1");
  const row = await inState("g", "failed");
  assert.deepEqual([row.error_key, Number(row.error_revision)], ["/g/1", Number(await etcd.revision())]);
  await skip("g", row.error_revision);
  await inState("g", "running");
  await verified("g");
  await verified("g");
  await rowsOf("SELECT key FROM g_copy ORDER BY 1", [["/g/1"], ["/g/2"]]);
  assert.equal(Number((await seen("g")).left_out), 1);
  await db.sql("DELETE FROM g_users WHERE key = '/g/1'");
  await rowsOf("SELECT key FROM g_copy ORDER BY 1", [["/g/2"]]);
  await leftOut("g", 0);
  // One that nobody has seen happen has the row's key.
  await db.sql("SELECT etcd_pause('g')");
  await etcd.delete("/g/2");
  await etcd.compact(Number(await etcd.revision()));
  for (const pid of await proxyPids(dataDirectory)) Deno.kill(pid, "SIGKILL");
  await db.sql("SELECT etcd_resume('g')");
  const unseen = await inState("g", "failed");
  assert.deepEqual([unseen.error_key, unseen.error_revision], ["/g/2", null]);
  assert.match(unseen.error as string, /^23503/);
  await db.sql("DELETE FROM g_users; SELECT etcd_resume('g')");
  await rowsOf("SELECT key FROM g_copy", []);
  await endAll();
});

test("what a trigger refuses when all is compared is no compaction, whatever it raises", async () => {
  await db.sql(`CREATE FOREIGN TABLE v (key text, value text) SERVER etcd OPTIONS (prefix '/v/');
    CREATE TABLE v_copy (key text PRIMARY KEY, value text);
    CREATE FUNCTION v_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      RAISE invalid_parameter_value USING MESSAGE = 'not this one'; END $$`);
  const put = await etcd.put("/v/1", "x");
  await db.sql("SELECT etcd_mirror('v', 'v_copy', 'v', verify => '1 s')");
  await same("TABLE v_copy", "TABLE v");
  await db.sql(`DELETE FROM v_copy;
    CREATE TRIGGER refuse BEFORE INSERT ON v_copy FOR EACH ROW EXECUTE FUNCTION v_refuse()`);
  await failsAt("v", "/v/1", put, /^22023: not this one/);
  await endAll();
});

test("what a trigger does to its own mirror is refused at that call, and the view says why", async () => {
  await db.sql(`CREATE FOREIGN TABLE o (key text, value text) SERVER etcd OPTIONS (prefix '/o/');
    CREATE TABLE o_copy (key text PRIMARY KEY, value text);
    CREATE FUNCTION o_call() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      EXECUTE pg_catalog.format('SELECT public.%s', NEW.value); RETURN NEW; END $$;
    CREATE TRIGGER call BEFORE INSERT OR UPDATE ON o_copy FOR EACH ROW EXECUTE FUNCTION o_call();
    SELECT etcd_subscribe('other', '/other/', 'other'), etcd_mirror('o', 'o_copy', 'o')`);
  await inState("o", "running");
  for (const call of ["etcd_pause('o')", "etcd_unmirror('o')", "etcd_resume('o')"]) {
    const put = await etcd.put("/o/1", call);
    await failsAt("o", "/o/1", put, /^55000: mirror "o" cannot be changed by what its own worker runs/);
    await etcd.put("/o/1", "etcd_pause('other')");
    await db.sql("SELECT etcd_resume('o')");
    await inState("o", "running");
    await same("TABLE o_copy", "TABLE o");
  }
  await waitFor(
    "the other to pause",
    async () => (await db.sql("SELECT state FROM etcd_fdw_subscriptions"))[0].state === "paused",
  );
  await db.sql("SELECT etcd_unsubscribe('other')");
  await endAll();
});

test("while somebody holds the mirror's row, the view says why nothing happens", async () => {
  await db.sql(`CREATE FOREIGN TABLE h (key text, value text) SERVER etcd OPTIONS (prefix '/h/');
    CREATE TABLE h_copy (key text PRIMARY KEY, value text); SELECT etcd_mirror('h', 'h_copy', 'h')`);
  await inState("h", "running");
  const holder = await db.connect();
  await holder.query("BEGIN; SELECT etcd_pause('h')");
  await etcd.put("/h/1", "x");
  assert.match((await inState("h", "retrying")).error as string, /^40001: mirror "h" is being changed/);
  await holder.query("ROLLBACK");
  await same("TABLE h_copy", "TABLE h");
  assert.equal((await inState("h", "running")).error, null);
  await holder.end();
  await endAll();
});

test("a unique value that moves along is taken after a compaction, too", async () => {
  await db.sql(`CREATE FOREIGN TABLE u (key text, value text) SERVER etcd OPTIONS (prefix '/u/');
    CREATE TABLE u_copy (key text PRIMARY KEY, value text UNIQUE)`);
  await etcd.put("/u/a", "1");
  await etcd.put("/u/b", "2");
  await db.sql("SELECT etcd_mirror('u', 'u_copy', 'u')");
  await same("TABLE u_copy", "TABLE u");
  await db.sql("SELECT etcd_pause('u')");
  await etcd.put("/u/b", "3");
  await etcd.put("/u/a", "2");
  await etcd.compact(Number(await etcd.revision()));
  for (const pid of await proxyPids(dataDirectory)) Deno.kill(pid, "SIGKILL");
  await db.sql("SELECT etcd_resume('u')");
  await same("TABLE u_copy", "TABLE u");
  assert.equal((await inState("u", "running")).error, null);
  await endAll();
});
