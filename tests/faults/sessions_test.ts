// What one request's trouble must not be: the session's, another session's, or a lie about what is held.

import assert from "node:assert/strict";
import { rangeResponse, startFakeEtcd } from "../helpers/fake_etcd.ts";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("sessions");

const options = { request_timeout: "1", max_retries: "0" };
await db.sql(`${etcd.createServerSql("etcd", options)};
  ${etcd.createServerSql("patient", { request_timeout: "60" })};
  SET etcd_fdw.default_server = 'etcd'`);
const value = async (text: string) => Object.values((await db.sql(text))[0])[0];
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const held = async () => (await db.sql("SELECT kind, lost FROM etcd_held() ORDER BY kind"));

test("a late request is that request's error: what the session holds stays", async () => {
  assert.equal(await value("SELECT etcd_lock('mine', ttl => '60 s')"), true);
  const [{ pid }] = await db.sql("SELECT pg_backend_pid() AS pid");
  await etcd.pause();
  try {
    assert.equal((await db.failure("SELECT etcd_get('/a')")).code, "08006");
    // By now nobody answers, so that it is not sent.
    assert.equal((await db.failure("SELECT etcd_put('/a', '1')")).code, "08001");
    assert.deepEqual(await held(), [{ kind: "lock", lost: false }]);
  } finally {
    await etcd.resume();
  }
  await waitFor("etcd to answer", async () => await value("SELECT coalesce(etcd_get('/a'), '-')"));
  assert.equal(await value("SELECT etcd_unlock('mine')"), true);
  assert.equal((await db.sql("SELECT pg_backend_pid() AS pid"))[0].pid, pid);
});

test("patient reads of other sessions that are stalled do not hold back a hasty one", async () => {
  await db.sql("SELECT etcd_get('patient', '/a'), etcd_get('etcd', '/a')");
  const others = await Promise.all([1, 2, 3].map(() => db.connect()));
  await etcd.pause();
  try {
    const stalled = others.map((session) => session.query("SELECT etcd_get('patient', '/a')"));
    await pause(200);
    const begun = performance.now();
    assert.equal((await db.failure("SELECT etcd_get('etcd', '/a')")).code, "08006");
    const took = performance.now() - begun;
    assert.ok(took > 900 && took < 1_500, `${took} ms`);
    await etcd.resume();
    await Promise.all(stalled);
  } finally {
    await etcd.resume();
    await Promise.all(others.map((session) => session.end()));
  }
});

test("a lock whose lease has run out is told as lost while etcd cannot be asked", async () => {
  await waitFor("etcd to answer", async () => await value("SELECT coalesce(etcd_get('/a'), '-')"));
  assert.equal(await value("SELECT etcd_lock('job', ttl => '3 s')"), true);
  assert.equal(await value("SELECT etcd_try_lock('job')"), true, "it is held");
  await etcd.pause();
  try {
    await pause(3_500);
    assert.deepEqual(await held(), [{ kind: "lock", lost: true }]);
    assert.match((await db.failure("SELECT etcd_try_lock('job')")).code!, /^08/);
  } finally {
    await etcd.resume();
  }
  await waitFor("the lock", async () => await value("SELECT etcd_try_lock('job', ttl => '60 s')") === true);
  assert.deepEqual(await held(), [{ kind: "lock", lost: false }]);
  assert.equal(await value("SELECT etcd_unlock('job')"), true);
});

test("a bounded wait for a lock ends with false, also when it is shorter than a request may take", async () => {
  const owner = await db.connect();
  await owner.query("SELECT etcd_lock('etcd', 'busy')");
  for (const [wait, least, most] of [["0.1 s", 90, 900], ["1.5 s", 1_450, 2_500]] as const) {
    const begun = performance.now();
    assert.equal(await value(`SELECT etcd_lock('busy', wait => '${wait}')`), false);
    const took = performance.now() - begun;
    assert.ok(took > least && took < most, `${wait}: ${took} ms`);
  }
  await owner.end();
});

test("what is malformed is told with the name of what is wrong", async () => {
  const cases: [string, RegExp][] = [
    [`etcd_txn('{"success": [{}]}')`, /an operation is one thing/],
    [
      `etcd_txn('{"success": [{"put": {"key": "a", "value": "b", "lease": "99999999999999999999"}}]}')`,
      /"lease"/,
    ],
    ["etcd_lock('')", /"name".* must not be empty/],
    ["etcd_try_lock('')", /"name".* must not be empty/],
    ["etcd_campaign('', 'v')", /"name".* must not be empty/],
  ];
  for (const [call, message] of cases) {
    const error = await db.failure(`SELECT ${call}`);
    assert.equal(error.code, "22023", call);
    assert.match(error.message, message);
  }
});

test("etcd_range asks for smaller pages when an answer is too large", async () => {
  const limits: number[] = [];
  const all = Array.from({ length: 40 }, (_, i) => ({ key: `/r/${String(i).padStart(2, "0")}`, value: "v" }));
  const fake = await startFakeEtcd(({ message }) => {
    const { key, limit } = rangeOf(message);
    limits.push(limit);
    if (limit > 100) return { status: 8, message: "etcdserver: message larger than max" };
    const rest = all.filter((row) => row.key >= key);
    return rangeResponse(rest.slice(0, 15), { revision: 7, more: rest.length > 15 });
  });
  try {
    await db.sql(`CREATE SERVER large FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${fake.endpoint}')`);
    const rows = await db.sql("SELECT key FROM etcd_range('large', '/r/', prefix => true)");
    assert.deepEqual(rows.map(({ key }) => key), all.map(({ key }) => key));
    assert.deepEqual(limits.slice(0, 3), [10_000, 625, 40]);
  } finally {
    await fake.stop();
  }
});

/** Key and limit of a RangeRequest, whose key stands in front. */
function rangeOf(message: Uint8Array): { key: string; limit: number } {
  const length = message[1];
  const key = new TextDecoder().decode(message.subarray(2, 2 + length));
  let at = 2 + length;
  let limit = 0;
  while (at < message.length) {
    const tag = message[at++];
    let number = 0;
    for (let shift = 0;; shift += 7) {
      number += (message[at] & 0x7f) * 2 ** shift;
      if (message[at++] < 0x80) break;
    }
    if (tag === (2 << 3 | 2)) at += number;
    if (tag === 3 << 3) limit = number;
  }
  return { key, limit };
}

test("the past of a prefix is complete for an etcd user who may read nothing else", async () => {
  await etcd.putMany(Array.from({ length: 3_000 }, (_, i): [string, string] => [`/app/${i}`, "x"]));
  await db.sql("SELECT etcd_put('/other', 'x')");
  for (let i = 0; i < 5; i++) await db.sql(`SELECT etcd_put('/app/one', '${i}')`);
  await etcd.ctl("user", "add", "root:r");
  await etcd.ctl("user", "grant-role", "root", "root");
  await etcd.ctl("user", "add", "app:a");
  await etcd.ctl("role", "add", "app");
  await etcd.ctl("role", "grant-permission", "app", "read", "/app/", "--prefix");
  await etcd.ctl("user", "grant-role", "app", "app");
  await etcd.ctl("auth", "enable");
  try {
    await db.sql(`${etcd.createServerSql("limited", { request_timeout: "20" })};
      CREATE USER MAPPING FOR PUBLIC SERVER limited OPTIONS (username 'app', password 'a')`);
    assert.equal(await value("SELECT count(*) FROM etcd_changes('limited', '/app/', 0)"), "3001");
    assert.equal(await value("SELECT count(*) FROM etcd_history('limited', '/app/one')"), "5");
    assert.equal(await value("SELECT count(*) FROM etcd_history('limited', '/app/never')"), "0");
    assert.equal((await db.failure("SELECT * FROM etcd_changes('limited', '/', 0)")).code, "42501");
  } finally {
    await etcd.ctl("--user", "root:r", "auth", "disable");
  }
});
