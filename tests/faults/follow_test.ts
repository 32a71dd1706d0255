// Subscriptions and mirrors while everything around them is killed, stopped, restored or moved: at the end all was told, once
// and in order, and mirrors are what etcd is.

import assert from "node:assert/strict";
import { findPostgres } from "../../build/postgres.ts";
import { TestAuthority } from "../../src/proxy/testing_certificates.ts";
import { TestEtcd } from "../../src/proxy/testing_etcd.ts";
import { freePort, runAs, serverUser, startPostgres, stopPostgres } from "../../scripts/lib/servers.ts";
import { run } from "../../build/run.ts";
import { Database } from "../helpers/database.ts";
import { startEtcd } from "../helpers/etcd.ts";
import { type Happened, Listener } from "../helpers/listener.ts";
import { proxyPids } from "../helpers/proxy.ts";
import { suite } from "../helpers/suite.ts";
import { delay, waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("follow");

const server = "ALTER DATABASE etcd_fdw SET etcd_fdw.default_server = 'etcd'";
await db.sql(`${etcd.createServerSql("etcd")}; ${server}; SET etcd_fdw.default_server = 'etcd'`);
const dataDirectory = (await db.sql("SHOW data_directory"))[0].data_directory as string;
const revision = async () => Number(await etcd.revision());
const history = async (prefix: string, after: number, by = db) =>
  (await by.sql(
    `SELECT kind, key, value, mod_revision::int FROM etcd_watch('etcd', '${prefix}', prefix => true,
    after_revision => ${after}, wait => '0')`,
  )) as unknown as Happened[];
const differing = async (one: string, other: string, by = db) =>
  Number(
    (await by.sql(`SELECT count(*) AS n FROM ((TABLE ${one} EXCEPT ALL TABLE ${other}) UNION ALL
    (TABLE ${other} EXCEPT ALL TABLE ${one})) d`))[0].n,
  );
const same = (one: string, other: string, timeoutMs = 30_000, by = db) =>
  waitFor(`${one} to be ${other}`, async () => await differing(one, other, by) === 0, { timeoutMs });
const inTouch = () =>
  waitFor("the server", () => db.sql("SELECT 1").catch(() => null), { timeoutMs: 30_000 });
/** All that has happened up to now was told. */
const caughtUp = async (heard: Listener, prefix: string, from: number, timeoutMs = 45_000, by = db) => {
  const happened = await history(prefix, from, by);
  await waitFor("all to be told", () => heard.last >= happened.at(-1)!.mod_revision, { timeoutMs });
  heard.agreesWith(happened);
  return happened;
};
/** Another database, or server, of the same installation. */
const elsewhere = (variables: Record<string, string>) =>
  new Database(Object.create(db.sandbox, { env: { value: () => ({ ...db.sandbox.env(), ...variables }) } }));
const endProcesses = async (type: string) => {
  await db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = $1", [type]);
};

test("worker, mirror, proxy, etcd and PostgreSQL are killed in turn while others write", async () => {
  await db.sql(`CREATE FOREIGN TABLE chaos (key text, value text) SERVER etcd OPTIONS (prefix '/chaos/');
    CREATE TABLE chaos_copy (key text PRIMARY KEY, value text);
    INSERT INTO chaos SELECT '/chaos/' || i, 'first' FROM generate_series(1, 200) i;
    SELECT etcd_mirror('copy', 'chaos_copy', 'chaos')`);
  const heard = await Listener.on(db, "chaos");
  const batches = await Listener.on(db, "batches");
  await db.sql(`SELECT etcd_subscribe('chaos', '/chaos/', 'chaos'),
    etcd_subscribe('batches', '/chaos/', 'batches', batch => true)`);
  const from = await revision();
  let writing = true;
  let written = 0;
  const put = async (writer: number) => {
    for (let i = 0; writing; i++) {
      const key = `/chaos/${(i * 7 + writer * 13) % 300}`;
      const done = i % 5 === 4 ? etcd.delete(key) : etcd.put(key, `${writer} ${i}`);
      await done.then(() => written++, () => delay(50));
      await delay(3);
    }
  };
  const insert = async () => {
    const client = { session: null as Awaited<ReturnType<Database["connect"]>> | null };
    while (writing) {
      try {
        client.session ??= await db.connect();
        await client.session.query(
          `BEGIN; UPDATE chaos SET value = 'sql ' || clock_timestamp() WHERE key LIKE '/chaos/1%';
          INSERT INTO chaos VALUES ('/chaos/sql/' || clock_timestamp(), 'x'); COMMIT`,
        );
        await client.session.query(
          "DELETE FROM chaos WHERE key LIKE '/chaos/sql/%' AND key < (SELECT max(key) FROM chaos)",
        );
        written++;
      } catch {
        await client.session?.query("ROLLBACK").catch(() => {});
        await client.session?.end().catch(() => {});
        client.session = null;
        await delay(100);
      }
      await delay(20);
    }
    await client.session?.end().catch(() => {});
  };
  const writers = Promise.all([put(1), put(2), insert()]);
  const killProxy = async () => {
    for (const pid of await proxyPids(dataDirectory)) Deno.kill(pid, "SIGKILL");
  };
  const restart = async (mode: "fast" | "immediate") => {
    await db.stopServer(mode);
    await delay(300);
    await db.startServer();
    await inTouch();
    await db.sql("SELECT etcd_follow()");
  };
  const steps: (() => Promise<unknown>)[] = [
    () => endProcesses("etcd_fdw follower"),
    killProxy,
    () => endProcesses("etcd_fdw mirror"),
    () => restart("immediate"),
    () => etcd.restart(0),
    killProxy,
    () => restart("fast"),
    () => endProcesses("etcd_fdw mirror"),
    () => etcd.restart(0),
    () => restart("immediate"),
  ];
  for (const step of steps) {
    await delay(1_500);
    await step();
  }
  await delay(2_000);
  writing = false;
  await writers;
  assert.ok(written > 500, String(written));
  await inTouch();
  const happened = await caughtUp(heard, "/chaos/", from);
  batches.agreesWith(happened);
  await same("chaos_copy", "chaos");
  const told = heard.told.length;
  assert.ok(told > happened.length / 3, `${told} of ${happened.length} heard`);
  await delay(300);
  assert.equal(heard.told.length, told);
  const rows = await db.sql("SELECT name, state, error FROM etcd_fdw_followers ORDER BY name");
  const running = { state: "running", error: null };
  assert.deepEqual(rows, ["batches", "chaos", "copy"].map((name) => ({ name, ...running })));
  await Promise.all([heard.end(), batches.end()]);
  await db.sql("SELECT etcd_unsubscribe('batches'), etcd_unsubscribe('chaos'), etcd_unmirror('copy')");
});

test("histories that are compacted while worker and proxy are killed: what was not told lies before a resync", async () => {
  await db.sql(`CREATE FOREIGN TABLE short (key text, value text) SERVER etcd OPTIONS (prefix '/short/');
    CREATE TABLE short_copy (key text PRIMARY KEY, value text);
    SELECT etcd_mirror('short_copy', 'short_copy', 'short')`);
  const heard = await Listener.on(db, "short");
  await db.sql("SELECT etcd_subscribe('short', '/short/', 'short')");
  const put: number[] = [];
  for (let round = 0; round < 6; round++) {
    if (round % 2 === 0) await db.sql("SELECT etcd_pause('short'), etcd_pause('short_copy')");
    else await endProcesses("etcd_fdw follower");
    for (let i = 0; i < 30; i++) put.push(Number(await etcd.put(`/short/${i % 11}`, `${round} ${i}`)));
    await etcd.delete(`/short/${round}`);
    await etcd.compact(await etcd.revision());
    for (const pid of await proxyPids(dataDirectory)) Deno.kill(pid, "SIGKILL");
    if (round % 2 === 0) await db.sql("SELECT etcd_resume('short'), etcd_resume('short_copy')");
    await etcd.put(`/short/${round}`, "again").then((revision) => put.push(Number(revision)));
    await delay(1_000);
  }
  const last = Number(await etcd.put("/short/last", "x"));
  await waitFor("the last", () => heard.last >= last, { timeoutMs: 30_000 });
  await same("short_copy", "short");
  const told = heard.told.map(({ mod_revision }) => mod_revision);
  assert.deepEqual(told, told.toSorted((a, b) => a - b));
  const events = heard.told.filter(({ kind }) => kind === "put").map(({ mod_revision }) => mod_revision);
  assert.equal(new Set(events).size, events.length);
  const gaps = heard.told.flatMap(({ kind, mod_revision }, i) =>
    kind === "resync" ? [{ from: heard.told[i - 1]?.mod_revision ?? 0, to: mod_revision }] : []
  );
  assert.ok(gaps.length >= 1);
  for (const revision of put) {
    const isTold = events.includes(revision);
    const inGap = gaps.some(({ from, to }) => revision > from && revision <= to);
    assert.ok(isTold !== inGap, `${revision}: ${isTold ? "told within a gap" : "not told"}`);
  }
  await heard.end();
  await db.sql("SELECT etcd_unsubscribe('short'), etcd_unmirror('short_copy')");
});

for (const [where, ahead] of [["lower", 0], ["higher", 3_000]] as const) {
  test(`another cluster, which is at a ${where} revision: resync, and a mirror that begins anew`, async () => {
    await using other = await startEtcd();
    await other.putMany(Array.from({ length: ahead }, (_, i): [string, string] => [`/elsewhere/${i}`, ""]));
    await other.put("/moved/there", "1");
    await db.sql(`${etcd.createServerSql("moved")};
    CREATE FOREIGN TABLE moved (key text, value text) SERVER moved OPTIONS (prefix '/moved/');
    CREATE TABLE moved_copy (key text PRIMARY KEY, value text);
    SELECT etcd_mirror('moving', 'moved_copy', 'moved')`);
    const heard = await Listener.on(db, "moved");
    await db.sql("SELECT etcd_subscribe('moved', '/moved/', 'moved', server => 'moved')");
    await etcd.put("/moved/here", "1");
    await heard.count(1);
    await same("moved_copy", "moved");
    await db.sql(`ALTER SERVER moved OPTIONS (SET connstr '${other.connstr}')`);
    // What they wait for now is answered first.
    await etcd.put("/moved/here", "2");
    await waitFor("resync", () => heard.told.some(({ kind }) => kind === "resync"), { timeoutMs: 40_000 });
    const at = heard.told.findIndex(({ kind }) => kind === "resync");
    assert.equal(heard.told[at].mod_revision, Number(await other.revision()));
    const key = "/moved/more";
    await other.put(key, "2");
    await waitFor("what follows", () => heard.told.at(-1)!.key === key);
    assert.equal(heard.told.length, at + 2);
    await same("moved_copy", "moved", 40_000);
    assert.equal(Number((await db.sql("SELECT count(*) AS n FROM moved_copy"))[0].n), 2);
    await heard.end();
    await db.sql("SELECT etcd_unsubscribe('moved'), etcd_unmirror('moving')");
    await db.sql("DROP SERVER moved CASCADE; DROP TABLE moved_copy");
  });
}

test("a user of etcd with rights to one prefix, whose token expires", async () => {
  await using fenced = await startEtcd({ extraArgs: ["--auth-token-ttl=2"] });
  await db.sql(`${fenced.createServerSql("fenced")};
    SELECT etcd_user_add('fenced', 'root', 'secret'), etcd_user_grant_role('fenced', 'root', 'root'),
      etcd_user_add('fenced', 'reader', 'r'), etcd_role_add('fenced', 'reading'),
      etcd_role_grant('fenced', 'reading', 'read', '/ours/', prefix => true),
      etcd_user_grant_role('fenced', 'reader', 'reading'), etcd_auth_enable('fenced');
    CREATE ROLE rooted; GRANT USAGE ON FOREIGN SERVER fenced TO rooted;
    CREATE USER MAPPING FOR rooted SERVER fenced OPTIONS (username 'root', password 'secret');
    CREATE USER MAPPING FOR postgres SERVER fenced OPTIONS (username 'reader', password 'r')`);
  const root = await db.connect();
  await root.query("SET ROLE rooted");
  const put = (key: string, value: string) => root.query("SELECT etcd_put('fenced', $1, $2)", [key, value]);
  assert.equal(
    (await db.failure("SELECT etcd_subscribe('all', '/', 'fenced', server => 'fenced')")).code,
    "42501",
  );
  const heard = await Listener.on(db, "fenced");
  await db.sql(`CREATE FOREIGN TABLE ours (key text, value text) SERVER fenced OPTIONS (prefix '/ours/');
    CREATE TABLE ours_copy (key text PRIMARY KEY, value text);
    SELECT etcd_subscribe('fenced', '/ours/', 'fenced', server => 'fenced'), etcd_mirror('ours', 'ours_copy', 'ours')`);
  for (let i = 0; i < 5; i++) {
    await put("/theirs", String(i));
    await put(`/ours/${i}`, String(i));
    await delay(1_500);
  }
  await heard.count(5);
  assert.deepEqual(heard.told.map(({ value }) => value), ["0", "1", "2", "3", "4"]);
  await same("ours_copy", "ours");
  // Silence for longer than the token, then a proxy that knows none.
  await delay(3_000);
  for (const pid of await proxyPids(dataDirectory)) Deno.kill(pid, "SIGKILL");
  await put("/ours/5", "5").catch(() => delay(500).then(() => put("/ours/5", "5")));
  await waitFor("the last", () => heard.told.at(-1)!.key === "/ours/5", { timeoutMs: 20_000 });
  await same("ours_copy", "ours");
  await heard.end();
  await db.sql("SELECT etcd_unsubscribe('fenced'), etcd_unmirror('ours')");
  await root.end();
});

test("by TLS, with a client's certificate: they go on after proxy and etcd have ended", async () => {
  const authority = await TestAuthority.create();
  const client = await authority.issue("client", "DNS:client");
  const secure = await TestEtcd.start({
    ...await authority.issue("server", "DNS:localhost,IP:127.0.0.1"),
    clientCa: authority.ca,
  });
  try {
    await db.sql(`CREATE SERVER secure FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${secure.secure.name}',
      cafile '${authority.ca}', certfile '${client.cert}', keyfile '${client.key}');
      CREATE FOREIGN TABLE sealed (key text, value text) SERVER secure OPTIONS (prefix '/sealed/');
      CREATE FOREIGN TABLE sealed_cached (key text, value text) SERVER secure OPTIONS (prefix '/sealed/', cache 'true');
      CREATE TABLE sealed_copy (key text PRIMARY KEY, value text);
      SELECT etcd_mirror('sealing', 'sealed_copy', 'sealed')`);
    const heard = await Listener.on(db, "sealed");
    await db.sql("SELECT etcd_subscribe('sealed', '/sealed/', 'sealed', server => 'secure')");
    for (let i = 0; i < 4; i++) {
      await waitFor(
        "a put",
        () => db.sql(`SELECT etcd_put('secure', '/sealed/${i}', 'x')`).catch(() => null),
        {
          timeoutMs: 30_000,
        },
      );
      await heard.count(i + 1, 30_000);
      await same("sealed_copy", "sealed");
      await same("sealed_cached", "sealed");
      if (i === 1) { for (const pid of await proxyPids(dataDirectory)) Deno.kill(pid, "SIGKILL"); }
      if (i === 2) {
        await secure.kill();
        await secure.restart();
      }
    }
    const inCache = async () =>
      (await db.sql("SELECT state, keys::int FROM etcd_fdw_cache WHERE server = 'secure'"))[0];
    await waitFor(
      "the cache",
      async () => (await db.sql("TABLE sealed_cached"), (await inCache())?.state === "LIVE"),
    );
    assert.equal((await inCache()).keys, 4);
    await heard.end();
    await db.sql("SELECT etcd_unsubscribe('sealed'), etcd_unmirror('sealing')");
  } finally {
    await secure.stop();
    await authority.remove();
  }
});

test("dumped and restored, or copied with the database, they wait; then they go on from where they were", async () => {
  const { bindir } = await findPostgres();
  await db.sql(`CREATE FOREIGN TABLE dumped (key text, value text) SERVER etcd OPTIONS (prefix '/dumped/');
    CREATE TABLE dumped_copy (key text PRIMARY KEY, value text); CREATE TABLE dumped_log (key text);
    CREATE FUNCTION dumped_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.dumped_log VALUES (NEW.key); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER UPDATE ON dumped_copy FOR EACH ROW EXECUTE FUNCTION dumped_note();
    INSERT INTO dumped SELECT '/dumped/' || i, i FROM generate_series(1, 100) i;
    SELECT etcd_mirror('dumped', 'dumped_copy', 'dumped'), etcd_subscribe('told', '/dumped/', 'told')`);
  await same("dumped_copy", "dumped");
  const from = await revision();
  const position = async () =>
    Number((await db.sql("SELECT revision FROM etcd_fdw_subscriptions WHERE name = 'told'"))[0].revision);
  await waitFor("all to be told", async () => await position() >= from, { timeoutMs: 40_000 });
  const states = async (by: Database) =>
    (await by.sql("SELECT state FROM etcd_fdw_followers ORDER BY name")).map(({ state }) => state);
  const dump = await run(`${bindir}/pg_dump`, ["-d", "etcd_fdw"], { env: db.sandbox.env() });
  await etcd.put("/dumped/1", "changed");
  await etcd.delete("/dumped/2");
  await db.sql("CREATE DATABASE restored");
  const restored = elsewhere({ PGDATABASE: "restored" });
  const session = await restored.connect();
  const told: { key: string }[] = [];
  session.on("notification", ({ payload }) => told.push(JSON.parse(payload!)));
  await session.query("LISTEN told");
  // Triggers come last, and what is before them may take long.
  const [tables, ...rest] = dump.stdout.replaceAll(/^\\(un)?restrict .*$/gm, "").split(
    /(?=^CREATE TRIGGER)/m,
  );
  await db.sandbox.sql(tables, "restored");
  await delay(3_000);
  await db.sandbox.sql(rest.join(""), "restored");
  await restored.sql(
    "CREATE ROLE stranger; SET ROLE stranger; SELECT etcd_follow(); RESET ROLE; DROP ROLE stranger",
  );
  await delay(1_000);
  assert.deepEqual(await states(restored), ["restored", "restored"]);
  assert.deepEqual([await differing("dumped_copy", "dumped", restored), told.length], [3, 0]);
  await restored.sql("SELECT etcd_resume('told')");
  await waitFor("what was missed", () => told.length >= 2, { timeoutMs: 20_000 });
  assert.deepEqual(told.map(({ key }) => key), ["/dumped/1", "/dumped/2"]);
  assert.deepEqual(await states(restored), ["restored", "running"]);
  await restored.sql("SELECT etcd_follow()");
  await same("dumped_copy", "dumped", 40_000, restored);
  assert.deepEqual(await restored.sql("TABLE dumped_log"), [{ key: "/dumped/1" }]);
  await etcd.put("/dumped/3", "for both");
  await waitFor("what comes", () => told.length === 3);
  await same("dumped_copy", "dumped", 10_000, restored);
  await same("dumped_copy", "dumped");
  assert.ok(from < await revision());
  await session.end();
  await restored.disconnect();
  await db.sql("DROP DATABASE restored WITH (FORCE)");

  // A copy is made while nobody is connected: what is paused holds no worker.
  await db.sql("SELECT etcd_unsubscribe('told'), etcd_pause('dumped')");
  await waitFor(
    "the workers to end",
    async () =>
      (await db.sql(
        "SELECT FROM pg_stat_activity WHERE backend_type LIKE 'etcd_fdw%' AND datname IS NOT NULL",
      ))
        .length === 0,
    { timeoutMs: 20_000 },
  );
  await db.sql("SET session_replication_role = replica; UPDATE etcd_fdw_follower SET state = 'running'");
  await db.disconnect();
  const outside = elsewhere({ PGDATABASE: "postgres" });
  await outside.sql("CREATE DATABASE copied TEMPLATE etcd_fdw");
  await outside.disconnect();
  const copied = elsewhere({ PGDATABASE: "copied" });
  await etcd.put("/dumped/4", "for both");
  await db.sql("SELECT etcd_follow()");
  await same("dumped_copy", "dumped");
  assert.deepEqual([await states(copied), await states(db)], [["restored"], ["running"]]);
  await copied.sql("SELECT etcd_follow()");
  await same("dumped_copy", "dumped", 10_000, copied);
  assert.deepEqual(await states(copied), ["running"]);
  await copied.disconnect();
  await db.sql("DROP DATABASE copied WITH (FORCE)");
  await db.sql("SELECT etcd_unmirror('dumped')");
});

test("with etcd_fdw in shared_preload_libraries they go on by themselves: after a restart, and on a promoted standby", async () => {
  const { bindir } = await findPostgres();
  await db.sql(`CREATE FOREIGN TABLE loaded (key text, value text) SERVER etcd OPTIONS (prefix '/loaded/');
    CREATE TABLE loaded_copy (key text PRIMARY KEY, value text)`);
  await db.sql("ALTER SYSTEM SET shared_preload_libraries = etcd_fdw");
  const from = await revision();
  const heard = await Listener.on(db, "loaded");
  await db.sql(
    "SELECT etcd_subscribe('loaded', '/loaded/', 'loaded'), etcd_mirror('copied', 'loaded_copy', 'loaded')",
  );
  await etcd.put("/loaded/1", "1");
  await heard.count(1);
  for (const mode of ["fast", "immediate"] as const) {
    await db.stopServer(mode);
    await etcd.put(`/loaded/${mode}`, "1");
    await db.startServer();
    await inTouch();
    await waitFor(
      "it to go on",
      async () =>
        (await db.sql("SELECT revision::int FROM etcd_fdw_subscriptions"))[0].revision >= await revision(),
      {
        timeoutMs: 20_000,
      },
    );
    await etcd.put(`/loaded/${mode}/after`, "1");
    await caughtUp(heard, "/loaded/", from);
    await same("loaded_copy", "loaded");
  }
  await heard.end();

  const primary = db.sandbox.description.postgres;
  const data = `${db.sandbox.folder}/standby`;
  const standby = { ...primary, data, port: freePort(), log: `${data}.log` };
  const user = await serverUser();
  const copy = await runAs(user, `${bindir}/pg_basebackup`, [
    ...["-h", primary.sockets, "-p", String(primary.port), "-U", "postgres", "-D", data, "-c", "fast", "-R"],
  ], "/");
  assert.equal(copy.code, 0, copy.stderr);
  await startPostgres(standby);
  const second = elsewhere({ PGPORT: String(standby.port) });
  try {
    await etcd.put("/loaded/before", "1");
    await waitFor(
      "the standby",
      async () => (await second.sql("SELECT FROM loaded_copy WHERE key = '/loaded/before'")).length === 1,
      {
        timeoutMs: 20_000,
      },
    );
    assert.equal((await second.failure("SELECT etcd_follow()")).code, "25006");
    assert.deepEqual(await second.sql("SELECT DISTINCT state FROM etcd_fdw_subscriptions"), [{
      state: "stopped",
    }]);
    await db.stopServer("immediate");
    await etcd.put("/loaded/between", "1");
    await second.sql("SELECT pg_promote()");
    // LISTEN is for primaries: what happened before the promotion is told to nobody.
    const after = await Listener.on(second, "loaded");
    await etcd.put("/loaded/after", "1");
    await waitFor("what comes", () => after.last > 0 && after.told.at(-1)!.key === "/loaded/after", {
      timeoutMs: 20_000,
    });
    assert.ok(after.told.length <= 2);
    const [{ events }] = await second.sql("SELECT events::int FROM etcd_fdw_subscriptions");
    assert.equal(events, (await history("/loaded/", from, second)).length);
    await same("loaded_copy", "loaded", 20_000, second);
    await after.end();
  } finally {
    await second.disconnect();
    await stopPostgres(standby, "immediate");
  }
});
