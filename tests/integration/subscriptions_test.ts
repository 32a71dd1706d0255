// Subscriptions: events of etcd as notifications.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { Listener } from "../helpers/listener.ts";
import { proxyPids } from "../helpers/proxy.ts";
import { suite } from "../helpers/suite.ts";
import { delay, waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("subscriptions");

await db.sql(`${etcd.createServerSql("etcd")};
  SET etcd_fdw.default_server = 'etcd';
  CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher;
  GRANT USAGE ON FOREIGN SERVER etcd TO alice`);

const value = async (text: string) => Object.values((await db.sql(text))[0])[0];
const revision = async () => Number(await etcd.revision());
const state = async (name: string) =>
  (await db.sql(
    "SELECT state, error, revision::int, lag_events::int FROM etcd_fdw_subscriptions WHERE name = $1",
    [
      name,
    ],
  ))[0];
const inState = (name: string, wanted: string, timeoutMs = 10_000) =>
  waitFor(`${name} to be ${wanted}`, async () => {
    const seen = await state(name);
    return seen?.state === wanted ? seen : Promise.reject(new Error(JSON.stringify(seen)));
  }, { timeoutMs });
const history = async (prefix: string, after: number) =>
  (await db.sql(
    `SELECT kind, key, value, mod_revision::int FROM etcd_watch('etcd', '${prefix}', prefix => true,
    after_revision => ${after}, wait => '0')`,
  )) as {
    kind: string;
    key: string;
    value: string | null;
    mod_revision: number;
  }[];
const as = async (user: string, text: string) => {
  const client = await db.connect(user);
  try {
    const result = await client.query(`SET etcd_fdw.default_server = 'etcd'; ${text}`);
    const last = Array.isArray(result) ? result.at(-1) : result;
    return last.rows as Record<string, unknown>[];
  } finally {
    await client.end();
  }
};
const refusal = (user: string, text: string) =>
  as(user, text).then(() => "", (error: SqlError) => error.code);
const dataDirectory = await value("SHOW data_directory") as string;
const log = () => Deno.readTextFile(db.sandbox.description.postgres.log);
const workers = async () =>
  (await db.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'etcd_fdw follower'")).map(({ pid }) =>
    pid
  );

test("a put, a delete, what was before, a lease, bytes", async () => {
  const heard = await Listener.on(db, "shapes");
  const from = Number(await value("SELECT etcd_subscribe('shapes', '/s/', 'shapes', prev => true) AS r"));
  assert.equal(from, await revision());
  const put = Number(await etcd.put("/s/a", 'one "quoted" \u00e9\u20ac\n'));
  const lease = await value("SELECT etcd_lease_grant('60 s')");
  await db.sql(`SELECT etcd_put('/s/a', 'two', lease => ${lease})`);
  await etcd.put("/elsewhere", "x");
  await etcd.put(Uint8Array.of(0x2f, 0x73, 0x2f, 0xff), Uint8Array.of(0, 255));
  await etcd.delete("/s/a");
  const told = await heard.count(4);
  const common = { subscription: "shapes" };
  assert.deepEqual(told, [
    {
      ...common,
      kind: "put",
      key: "/s/a",
      mod_revision: put,
      value: 'one "quoted" \u00e9\u20ac\n',
      create_revision: put,
      version: 1,
    },
    {
      ...common,
      kind: "put",
      key: "/s/a",
      mod_revision: put + 1,
      value: "two",
      create_revision: put,
      version: 2,
      lease: String(lease),
      prev_value: 'one "quoted" \u00e9\u20ac\n',
    },
    {
      ...common,
      kind: "put",
      key_base64: "L3Mv/w==",
      mod_revision: put + 3,
      value_base64: "AP8=",
      create_revision: put + 3,
      version: 1,
    },
    { ...common, kind: "delete", key: "/s/a", mod_revision: put + 4, prev_value: "two" },
  ]);
  await waitFor("the position", async () => (await state("shapes")).revision === put + 4);
  const [row] = await db.sql("SELECT * FROM etcd_fdw_subscriptions WHERE name = 'shapes'");
  assert.equal(row.state, "running");
  assert.deepEqual([row.key, row.range_end, row.channel, row.events, row.lag_events, row.error], [
    "/s/",
    "/s0",
    "shapes",
    "4",
    "0",
    null,
  ]);
  await db.sql("SELECT etcd_unsubscribe('shapes')");
  assert.deepEqual(await db.sql("SELECT name FROM etcd_fdw_follower_status"), []);
  await heard.end();
});

test("what does not fit a notification is left out, and that is said", async () => {
  const heard = await Listener.on(db, "large");
  await db.sql("SELECT etcd_subscribe('large', '/l', 'large', prev => true)");
  const key = "/l".padEnd(9000, "k");
  const sizes = [7000, 7700, 7800, 7900, 8000, 100_000];
  for (const size of sizes) await etcd.put("/l/v", "v".repeat(size));
  await etcd.put("/l/small", "x");
  // Controls become six bytes each.
  await etcd.put("/l/controls", "\u0001".repeat(2000));
  await etcd.put(key, "x");
  const told = await heard.count(sizes.length + 3);
  // One Txn, and two payloads that say the same but for their number.
  await db.sql("SELECT etcd_txn($1)", [
    JSON.stringify({ success: ["m", "n"].map((end) => ({ put: { key: key + end, value: "x" } })) }),
  ]);
  const more = (await heard.count(sizes.length + 5)).splice(-2);
  assert.deepEqual(more.map(({ nth, omitted }) => [nth, omitted]), [[1, true], [2, true]]);
  for (const payload of heard.payloads) assert.ok(new TextEncoder().encode(payload).length < 7_900);
  // prev makes it two values.
  const whole = told.filter(({ omitted }) => !omitted).map(({ key, value }) => [key, value?.length]);
  assert.deepEqual(whole, [["/l/v", 7000], ["/l/small", 1]]);
  const cut = told.filter(({ omitted }) => omitted);
  assert.deepEqual(cut.map(({ key }) => key), [
    ...sizes.slice(1).map(() => "/l/v"),
    "/l/controls",
    undefined,
  ]);
  for (const event of cut) {
    assert.deepEqual(Object.keys(event).filter((name) => /value|version|create|lease/.test(name)), []);
  }
  await db.sql("SELECT etcd_unsubscribe('large')");
  await heard.end();
});

test("batches are arrays within the bound, in order; several subscriptions of one channel", async () => {
  const heard = await Listener.on(db, "shared");
  const from = await revision();
  await db.sql(
    `SELECT etcd_subscribe('b1', '/b/', 'shared', batch => true), etcd_subscribe('b2', '/b/1', 'shared'),
    etcd_subscribe('b3', NULL, 'shared', key => '/b/17'),
    etcd_subscribe('b4', NULL, 'shared', key => '/b/5', range_end => '/b/6')`,
  );
  await db.sql(`SELECT etcd_txn('etcd', success => array_agg(etcd_op_put('/b/' || i, repeat('v', 100))))
    FROM generate_series(1, 100) i`).catch(() => null);
  await Promise.all(Array.from({ length: 100 }, (_, i) => etcd.put(`/b/${i}`, "v".repeat(100))));
  const happened = await history("/b/", from);
  const of = (name: string) => heard.told.filter(({ subscription }) => subscription === name);
  const inB4 = happened.filter(({ key }) => key >= "/b/5" && key < "/b/6").length;
  const wanted: [string, number][] = [
    ["b1", happened.length],
    ["b2", happened.filter(({ key }) => key.startsWith("/b/1")).length],
    ["b3", happened.filter(({ key }) => key === "/b/17").length],
    ["b4", inB4],
  ];
  for (const [name, count] of wanted) {
    await waitFor(`${count} events of ${name}`, () => of(name).length >= count);
    assert.equal(of(name).length, count);
  }
  assert.deepEqual(
    of("b1").map(({ kind, key, value, mod_revision }) => ({ kind, key, value, mod_revision })),
    happened,
  );
  const batches = heard.payloads.filter((payload) => payload.startsWith("["));
  assert.ok(batches.length > 0 && batches.every((payload) => payload.length <= 7_900));
  await db.sql("SELECT etcd_unsubscribe(name) FROM etcd_fdw_subscriptions");
  await heard.end();
});

test("pause, resume and unsubscribe count from their commit on; what is rolled back leaves nothing", async () => {
  const heard = await Listener.on(db, "pauses");
  await db.sql("BEGIN; SELECT etcd_subscribe('none', '/p/', 'pauses'); ROLLBACK");
  await db.sql("SELECT etcd_subscribe('pauses', '/p/', 'pauses')");
  await etcd.put("/p/1", "1");
  await heard.count(1);
  await db.sql("SELECT etcd_pause('pauses')");
  assert.equal((await state("pauses")).state, "paused");
  await etcd.put("/p/2", "2");
  await delay(500);
  assert.equal(heard.told.length, 1);
  await db.sql("SELECT etcd_resume('pauses')");
  await heard.count(2);
  await db.sql("BEGIN; SELECT etcd_pause('pauses'); ROLLBACK");
  await etcd.put("/p/3", "3");
  await heard.count(3);
  // Within an open transaction nothing is told and nothing is lost; others go on.
  await db.sql("SELECT etcd_subscribe('beside', '/q/', 'pauses')");
  await db.sql("BEGIN; SELECT etcd_pause('pauses')");
  await etcd.put("/p/4", "4");
  for (let i = 0; i < 5; i++) {
    const began = performance.now();
    await etcd.put(`/q/${i}`, "");
    await heard.count(4 + i);
    assert.ok(performance.now() - began < 1_000, `${performance.now() - began} ms`);
    assert.equal(heard.told.at(-1)!.key, `/q/${i}`);
  }
  await db.sql("ROLLBACK");
  await heard.count(9);
  assert.equal(heard.told.at(-1)!.key, "/p/4");
  await db.sql("SELECT etcd_unsubscribe('pauses'), etcd_unsubscribe('beside')");
  await etcd.put("/p/5", "5");
  await delay(500);
  assert.equal(heard.told.length, 9);
  await waitFor("the worker to leave", async () => (await workers()).length === 0);
  // The next one comes at once.
  await db.sql("SELECT etcd_subscribe('again', '/p/', 'pauses')");
  const began = performance.now();
  await etcd.put("/p/6", "6");
  await heard.count(10);
  assert.ok(performance.now() - began < 3_000, `${performance.now() - began} ms`);
  await db.sql("SELECT etcd_unsubscribe('again')");
  await heard.end();
});

test("all keys there are, and those from one on", async () => {
  const heard = await Listener.on(db, "all");
  const from = await revision();
  await db.sql(`SELECT etcd_subscribe('all', '', 'all'),
    etcd_subscribe('end', NULL, 'all', key => '/v', range_end => '')`);
  await etcd.put("/a", "1");
  await etcd.put("/w", "1");
  await etcd.put(Uint8Array.of(255, 255), "1");
  const told = await heard.count(5);
  const revisions = (name: string) =>
    told.filter(({ subscription }) => subscription === name).map(({ mod_revision }) => mod_revision - from);
  assert.deepEqual([revisions("all"), revisions("end")], [[1, 2, 3], [2, 3]]);
  await db.sql("SELECT etcd_unsubscribe('all'), etcd_unsubscribe('end')");
  await heard.end();
});

test("after_revision: what has happened before is told, too", async () => {
  const heard = await Listener.on(db, "past");
  const from = await revision();
  await etcd.put("/past/1", "1");
  await etcd.put("/past/2", "2");
  await db.sql(`SELECT etcd_subscribe('past', '/past/', 'past', after_revision => ${from})`);
  await heard.count(2);
  heard.agreesWith(await history("/past/", from));
  await db.sql("SELECT etcd_unsubscribe('past')");
  await heard.end();
});

test("what cannot be is an error at the call", async () => {
  await etcd.put("/c", "1");
  await etcd.put("/c", "2");
  const now = await revision();
  await etcd.compact(now);
  const code = async (args: string) => (await db.failure(`SELECT etcd_subscribe(${args})`)).code;
  assert.equal(await code("NULL, '/', 'c'"), "22004");
  assert.equal(await code("'', '/', 'c'"), "22023");
  assert.equal(await code(`'${"n".repeat(64)}', '/', 'c'`), "42622");
  assert.equal(await code(`'n', '/', '${"c".repeat(64)}'`), "42622");
  assert.equal(await code("'n', '/', NULL"), "22023");
  assert.equal(await code("'n', '/', ''"), "22023");
  assert.equal(await code("'n', NULL, 'c'"), "22023");
  assert.equal(await code("'n', '/', 'c', key => '/k'"), "22023");
  assert.equal(await code("'n', '/', 'c', range_end => '/k'"), "22023");
  assert.equal(await code("'n', NULL, 'c', key => ''"), "22023");
  assert.equal(await code("'n', NULL, 'c', key => 'b', range_end => 'a'"), "22023");
  assert.equal(await code("'n', repeat('x', 2000000), 'c'"), "22023");
  await db.sql(`${etcd.createServerSql("second")}; SET etcd_fdw.default_server = ''`);
  const unclear = await db.failure("SELECT etcd_subscribe('n', '/', 'c')");
  assert.equal(unclear.code, "42P08");
  assert.match(unclear.hint!, /server => /);
  await db.sql("DROP SERVER second; SET etcd_fdw.default_server = 'etcd'");
  assert.equal(await code("'n', '/', 'c', server => 'nowhere'"), "42704");
  assert.equal(await code("'n', '/', 'c', after_revision => -1"), "22023");
  assert.equal(await code(`'n', '/', 'c', after_revision => ${now - 2}`), "22023");
  assert.equal(await code(`'n', '/', 'c', after_revision => ${now + 1000}`), "22023");
  await db.sql(`SELECT etcd_subscribe('${"n".repeat(63)}', '/', '${"c".repeat(63)}')`);
  assert.equal(await code(`'${"n".repeat(63)}', '/', 'c'`), "42710");
  await db.sql(`SELECT etcd_unsubscribe('${"n".repeat(63)}')`);
  for (const call of ["etcd_pause('n')", "etcd_resume('n')", "etcd_unsubscribe('n')"]) {
    assert.equal((await db.failure(`SELECT ${call}`)).code, "42704");
  }
  await db.sql("SELECT etcd_subscribe('n', '/', 'c')");
  assert.equal((await db.failure("SELECT etcd_unmirror('n')")).code, "42704");
  assert.equal((await db.failure("SELECT etcd_resume('n', skip => 3)")).code, "22023");
  assert.equal(
    (await db.failure("BEGIN READ ONLY; SELECT etcd_pause('n')").finally(() => db.sql("ROLLBACK"))).code,
    "25006",
  );
  await db.sql("SELECT etcd_unsubscribe('n')");
  assert.deepEqual(await db.sql("SELECT name FROM etcd_fdw_follower"), []);
});

test("a transaction that changes subscriptions cannot be prepared: nobody would see its commit", async () => {
  await db.sql("BEGIN; SELECT etcd_subscribe('prepared', '/', 'c')");
  assert.equal((await db.failure("PREPARE TRANSACTION 'p'")).code, "0A000");
  await db.sql("ROLLBACK");
});

test("another role neither changes a subscription nor sees it in the view", async () => {
  await as("alice", "SELECT etcd_subscribe('hers', '/h/', 'hers')");
  assert.equal(await refusal("bob", "SELECT etcd_subscribe('his', '/h/', 'hers')"), "42501");
  for (const call of ["etcd_pause('hers')", "etcd_resume('hers')", "etcd_unsubscribe('hers')"]) {
    assert.equal(await refusal("bob", `SELECT ${call}`), "42501");
  }
  for (
    const change of [
      "UPDATE etcd_fdw_follower SET owner = 'bob'",
      "DELETE FROM etcd_fdw_follower",
      "DELETE FROM etcd_fdw_follower_status",
      "INSERT INTO etcd_fdw_follower (name, kind, owner, server, key, revision) VALUES ('x', 'subscription', 'bob', 'etcd', '', 1)",
      "ALTER TABLE etcd_fdw_follower DISABLE TRIGGER ALL",
    ]
  ) {
    assert.equal(await refusal("bob", change), "42501");
    assert.equal(await refusal("alice", change), "42501");
  }
  const names = "SELECT name FROM etcd_fdw_subscriptions";
  assert.deepEqual(await as("alice", names), [{ name: "hers" }]);
  assert.deepEqual(await as("bob", names), []);
  assert.deepEqual(await as("watcher", names), [{ name: "hers" }]);
  assert.deepEqual(await db.sql(names), [{ name: "hers" }]);
});

test("the owner's rights are what it has: revoked, it waits; granted again, nothing is lost", async () => {
  const heard = await Listener.on(db, "hers");
  const from = await revision();
  await etcd.put("/h/1", "1");
  await heard.count(1);
  await db.sql("REVOKE USAGE ON FOREIGN SERVER etcd FROM alice");
  await etcd.put("/h/2", "2");
  await delay(100);
  await etcd.put("/h/3", "3");
  const seen = await inState("hers", "retrying");
  assert.match(seen.error, /^42501: permission denied for foreign server etcd/);
  const before = heard.told.length;
  assert.ok(before <= 2, "what was asked for before may be told");
  await etcd.put("/h/4", "4");
  await db.sql("GRANT USAGE ON FOREIGN SERVER etcd TO alice");
  await heard.count(4, 35_000);
  heard.agreesWith(await history("/h/", from));
  await inState("hers", "running");
  await as("alice", "SELECT etcd_unsubscribe('hers')");
  await heard.end();
});

test("an owner, a server, that is gone: the subscription waits, others go on", async () => {
  const heard = await Listener.on(db, "gone");
  await db.sql(
    `${etcd.createServerSql("second")}; CREATE ROLE carol LOGIN; GRANT USAGE ON FOREIGN SERVER etcd TO carol`,
  );
  await as("carol", "SELECT etcd_subscribe('carols', '/g/', 'gone')");
  await db.sql(
    "SELECT etcd_subscribe('seconds', '/g/', 'gone', server => 'second'), etcd_subscribe('stays', '/g/', 'gone')",
  );
  await etcd.put("/g/1", "1");
  await heard.count(3);
  await db.sql("REVOKE ALL ON FOREIGN SERVER etcd FROM carol; DROP ROLE carol; DROP SERVER second");
  await etcd.put("/g/2", "2");
  await heard.count(4);
  await etcd.put("/g/3", "3");
  await waitFor(
    "what stays",
    () => heard.told.some(({ subscription, key }) => subscription === "stays" && key === "/g/3"),
  );
  assert.match((await inState("carols", "retrying")).error, /role/);
  assert.match((await inState("seconds", "retrying")).error, /^42704: server "second" does not exist/);
  // Made again, and led elsewhere by ALTER SERVER.
  await db.sql(etcd.createServerSql("second"));
  await waitFor(
    "the second's",
    () => heard.told.filter(({ subscription }) => subscription === "seconds").at(-1)?.key === "/g/3",
    {
      timeoutMs: 35_000,
    },
  );
  await db.sql("ALTER SERVER second OPTIONS (SET connstr '127.0.0.1:1')");
  await etcd.put("/g/4", "4");
  await waitFor(
    "stays",
    () => heard.told.some(({ subscription, key }) => subscription === "stays" && key === "/g/4"),
  );
  await db.sql(`ALTER SERVER second OPTIONS (SET connstr '${etcd.connstr}')`);
  await waitFor(
    "the second's",
    () => heard.told.filter(({ subscription }) => subscription === "seconds").at(-1)?.key === "/g/4",
    {
      timeoutMs: 60_000,
    },
  );
  const seconds = heard.told.filter(({ subscription }) => subscription === "seconds").map(({ key }) => key);
  assert.deepEqual(seconds, ["/g/1", "/g/2", "/g/3", "/g/4"]);
  await db.sql("SELECT etcd_unsubscribe(name) FROM etcd_fdw_subscriptions");
  await db.sql("DROP SERVER second");
  await heard.end();
});

test("an error does not make the worker forget that it is the one", async () => {
  const heard = await Listener.on(db, "one");
  await db.sql(`${etcd.createServerSql("brief")};
    SELECT etcd_subscribe('good', '/o/', 'one'), etcd_subscribe('bad', '/o/', 'one', server => 'brief')`);
  await etcd.put("/o/1", "1");
  await heard.count(2);
  await db.sql("DROP SERVER brief");
  await etcd.put("/o/2", "2");
  await heard.count(3);
  await etcd.put("/o/3", "3");
  await waitFor("an error", async () => (await state("bad")).error !== null);
  assert.deepEqual([(await state("good")).state, (await state("bad")).state], ["running", "retrying"]);
  const [pid] = await workers();
  await db.sql("SELECT etcd_follow()");
  await delay(1_000);
  assert.deepEqual(await workers(), [pid]);
  await db.sql("SELECT etcd_unsubscribe('good'), etcd_unsubscribe('bad')");
  await heard.end();
});

test("what was compacted while it paused is told as resync, and what follows is told", async () => {
  const heard = await Listener.on(db, "sync");
  await db.sql("SELECT etcd_subscribe('sync', '/y/', 'sync')");
  await etcd.put("/y/1", "1");
  await heard.count(1);
  await db.sql("SELECT etcd_pause('sync')");
  for (let i = 0; i < 5; i++) await etcd.put("/y/2", String(i));
  await etcd.compact(await revision());
  // The proxy's own window would do.
  const [proxy] = await proxyPids(dataDirectory);
  Deno.kill(proxy, "SIGKILL");
  await waitFor("the proxy to end", async () => !(await proxyPids(dataDirectory)).includes(proxy));
  const now = await revision();
  await db.sql("SELECT etcd_resume('sync')");
  await heard.count(2);
  assert.deepEqual(heard.told[1], { subscription: "sync", kind: "resync", mod_revision: now });
  await etcd.put("/y/3", "3");
  await heard.count(3);
  assert.equal(heard.told[2].key, "/y/3");
  await db.sql("SELECT etcd_unsubscribe('sync')");
  await heard.end();
});

test("200 subscriptions and some thousand events", async () => {
  const heard = await Listener.on(db, "many");
  await db.sql(
    "SELECT etcd_subscribe('many' || i, '/m/' || i || '/', 'many') FROM generate_series(1, 200) i",
  );
  const from = await revision();
  const began = performance.now();
  for (let round = 0; round < 20; round++) {
    await etcd.putMany(
      Array.from({ length: 200 }, (_, i) => [`/m/${i + 1}/k`, String(round)] as [string, string]),
    );
  }
  await heard.count(4_000, 60_000);
  const took = performance.now() - began;
  assert.ok(took < 30_000, `${took} ms`);
  const happened = await history("/m/", from);
  const byName = new Map<string, number[]>();
  for (const { subscription, mod_revision } of heard.told) {
    byName.set(subscription, [...byName.get(subscription) ?? [], mod_revision]);
  }
  for (let i = 1; i <= 200; i++) {
    const wanted = happened.filter(({ key }) => key === `/m/${i}/k`).map(({ mod_revision }) => mod_revision);
    assert.deepEqual(byName.get(`many${i}`), wanted);
  }
  const [{ count }] = await db.sql(
    "SELECT count(*)::int FROM etcd_fdw_subscriptions WHERE state = 'running'",
  );
  assert.equal(count, 200);
  await db.sql("SELECT etcd_unsubscribe(name) FROM etcd_fdw_subscriptions");
  await heard.end();
});

test("200 quiet subscriptions: each is told at once, also after one had a large value", async () => {
  const heard = await Listener.on(db, "quiet");
  await db.sql(
    "SELECT etcd_subscribe('quiet' || i, '/quiet/' || i || '/', 'quiet') FROM generate_series(1, 200) i",
  );
  await waitFor("all of them to run", async () => {
    const [{ count }] = await db.sql(
      "SELECT count(*)::int FROM etcd_fdw_subscriptions WHERE state = 'running'",
    );
    return count === 200;
  });
  await delay(1_000);
  const late: string[] = [];
  const tell = async (n: number, text: string) => {
    const began = performance.now();
    const before = heard.told.length;
    await etcd.put(`/quiet/${n}/k`, text);
    await heard.count(before + 1, 40_000);
    const took = performance.now() - began;
    if (took > 1_000) late.push(`${n}: ${Math.round(took)} ms`);
  };
  await tell(5, "v".repeat(1_400_000));
  for (const n of [5, 1, 34, 61, 99, 128, 129, 163, 180, 199, 200]) await tell(n, "small");
  assert.deepEqual(late, []);
  await db.sql("SELECT etcd_unsubscribe(name) FROM etcd_fdw_subscriptions");
  await heard.end();
});

test("subscriptions that come and go all the time do not disturb the worker", async () => {
  const heard = await Listener.on(db, "churn");
  await db.sql("SELECT etcd_subscribe('churn', '/x/', 'churn')");
  const from = await revision();
  const before = (await log()).length;
  const clients = await Promise.all([0, 1, 2].map(() => db.connect()));
  const churn = Promise.all(clients.map(async (client, n) => {
    await client.query("SET etcd_fdw.default_server = 'etcd'");
    for (let i = 0; i < 40; i++) {
      await client.query(`SELECT etcd_subscribe('churn${n}', '/z/', 'none')`);
      await client.query(`SELECT etcd_unsubscribe('churn${n}')`);
    }
  }));
  for (let i = 0; i < 200; i++) await etcd.put("/x/k", String(i));
  await churn;
  await heard.count(200);
  heard.agreesWith(await history("/x/", from));
  assert.doesNotMatch((await log()).slice(before), /no background worker slot/);
  assert.doesNotMatch(await log(), /terminated by signal|PANIC/);
  await Promise.all(clients.map((client) => client.end()));
  await db.sql("SELECT etcd_unsubscribe('churn')");
  await heard.end();
});

test("without anything to follow no worker runs, and nobody can have one started in vain", async () => {
  await db.sql("SELECT etcd_subscribe('idle', '/idle/', 'idle')");
  await waitFor("a worker", async () => (await workers()).length === 1);
  await db.sql("SELECT etcd_pause('idle')");
  await waitFor("it to end", async () => (await workers()).length === 0);
  const before = (await log()).length;
  const counted = async () =>
    (await db.sql(
      "SELECT count(*)::int AS n FROM pg_stat_activity WHERE backend_type LIKE 'etcd_fdw follower%'",
    ))[0].n;
  const ask = await db.connect("bob");
  for (let i = 0; i < 50; i++) {
    await ask.query("SELECT etcd_follow()");
    if (i % 10 === 0) assert.equal(await counted(), 0);
  }
  const trigger =
    `CREATE TRIGGER t AFTER INSERT ON mine FOR EACH STATEMENT EXECUTE FUNCTION etcd_fdw_followers_changed()`;
  const refused = await ask.query(`CREATE TEMP TABLE mine (i int); ${trigger}`).then(
    () => "",
    (error: SqlError) => error.code,
  );
  assert.equal(refused, "42501");
  await ask.end();
  await db.sql(`CREATE TEMP TABLE mine (i int); ${trigger}`);
  assert.equal((await db.failure("INSERT INTO mine VALUES (1)")).code, "39P01");
  await db.sql("DROP TABLE mine");
  assert.doesNotMatch((await log()).slice(before), /no background worker slot/);
  await db.sql("SELECT etcd_resume('idle')");
  await inState("idle", "running");
  await db.sql("SELECT etcd_unsubscribe('idle')");
});

test("a database in another encoding: text where it can be written, bytes where not", async () => {
  await db.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
  const latin = await db.connect("postgres", "latin");
  await latin.query("CREATE EXTENSION IF NOT EXISTS plv8").catch(() => null);
  const told: { key?: string; value?: string; value_base64?: string }[] = [];
  latin.on("notification", ({ payload }) => told.push(JSON.parse(payload!)));
  await latin.query(`CREATE EXTENSION etcd_fdw; ${etcd.createServerSql("etcd")};
    LISTEN l; SELECT etcd_subscribe('\u00e4', '/\u00e9/', 'l')`);
  await etcd.put("/\u00e9/1", "\u00fc");
  await etcd.put("/\u00e9/2", "\u20ac");
  await waitFor("both", () => told.length === 2);
  assert.deepEqual(told.map(({ key, value, value_base64 }) => [key, value, value_base64]), [
    ["/\u00e9/1", "\u00fc", undefined],
    ["/\u00e9/2", undefined, "4oKs"],
  ]);
  await latin.query("SELECT etcd_unsubscribe('\u00e4')");
  await latin.end();
  await db.sql("DROP DATABASE latin WITH (FORCE)");
});

test("an extension that is dropped, and made again, leaves no worker and no loop behind", async () => {
  await db.sql(`CREATE DATABASE other`);
  const other = await db.connect("postgres", "other");
  const set = `CREATE EXTENSION IF NOT EXISTS plv8`;
  await other.query(set).catch(() => null);
  const followers = async () =>
    (await db.sql(
      "SELECT pid FROM pg_stat_activity WHERE backend_type = 'etcd_fdw follower' AND datname = 'other'",
    ))
      .length;
  await other.query(`CREATE EXTENSION etcd_fdw; ${etcd.createServerSql("etcd")};
    SELECT etcd_subscribe('o', '/other/', 'o')`);
  await waitFor("a worker", async () => await followers() === 1);
  await other.query("DROP EXTENSION etcd_fdw CASCADE");
  await other.query(
    `CREATE SCHEMA "s %s"; SET search_path = "s %s"; CREATE EXTENSION etcd_fdw; ${
      etcd.createServerSql("etcd")
    };
    SELECT etcd_subscribe('o', '/other/', 'o')`,
  );
  const told: string[] = [];
  other.on("notification", ({ payload }) => told.push(payload!));
  await other.query("LISTEN o");
  await etcd.put("/other/1", "1");
  await waitFor("an event", () => told.length === 1);
  await other.query("DROP EXTENSION etcd_fdw CASCADE");
  await waitFor("no worker", async () => await followers() === 0, { timeoutMs: 45_000 });
  await other.query(`CREATE EXTENSION etcd_fdw; ${etcd.createServerSql("etcd")};
    SELECT etcd_subscribe('o', '/other/', 'o')`);
  await waitFor("a worker", async () => await followers() === 1);
  await other.end();
  const before = (await log()).length;
  await db.sql("DROP DATABASE other WITH (FORCE)");
  await delay(7_000);
  const after = (await log()).slice(before);
  assert.equal(await followers(), 0);
  assert.doesNotMatch(after, /does not exist|etcd_fdw failed/);
  assert.ok(after.split("\n").filter((line) => /etcd_fdw follower/.test(line)).length <= 2, after);
});
