// What a session holds in etcd: leases that are kept alive, locks, leaderships; beside other sessions, beside etcdctl, and
// after the session's end.

import assert from "node:assert/strict";
import { proxyPids } from "../helpers/proxy.ts";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("holdings");

await db.sql(`${etcd.createServerSql()}; CREATE USER MAPPING FOR PUBLIC SERVER etcd`);

const value = async (text: string) => Object.values((await db.sql(text))[0])[0];
type Session = Awaited<ReturnType<typeof db.connect>>;
const valueIn = async (session: Session, text: string) =>
  Object.values((await session.query(text)).rows[0])[0];
const until = (what: string, check: () => Promise<void>, timeoutMs = 10_000) =>
  waitFor(what, () => check().then(() => true), { timeoutMs });
/** How long it took, in milliseconds. */
async function timed<T>(work: Promise<T>): Promise<[T, number]> {
  const begun = performance.now();
  return [await work, performance.now() - begun];
}

test("a lease is granted, renewed, shown with its keys, and revoked", async () => {
  const lease = await value("SELECT etcd_lease_grant('100 s')") as string;
  const hex = BigInt(lease).toString(16);
  assert.match(await etcd.ctl("lease", "timetolive", hex), /granted with TTL\(100s\)/);
  await db.sql(`SELECT etcd_put('/l/a', 'x', ${lease}), etcd_put('/l/b', 'x', ${lease})`);
  const keys = await db.sql(`SELECT key, granted::text FROM etcd_lease_keys(${lease}) ORDER BY key`);
  assert.deepEqual(keys, [{ key: "/l/a", granted: "00:01:40" }, { key: "/l/b", granted: "00:01:40" }]);
  assert.deepEqual(await db.sql(`SELECT l = ${lease} AS same FROM etcd_leases() l WHERE l = ${lease}`), [{
    same: true,
  }]);
  assert.equal(await value(`SELECT etcd_lease_keepalive(${lease})::text`), "00:01:40");
  assert.equal(await value(`SELECT etcd_lease_revoke(${lease})`), true);
  assert.equal(await etcd.get("/l/a"), null);
  assert.equal(await value(`SELECT etcd_lease_revoke(${lease})`), false);
  assert.equal(await value(`SELECT etcd_lease_ttl(${lease})`), null);
  assert.equal(await value(`SELECT etcd_lease_keepalive(${lease})`), null);
  assert.deepEqual(await db.sql(`SELECT * FROM etcd_lease_keys(${lease})`), []);
  assert.equal(await value("SELECT etcd_lease_grant('100 s', id => 4711)"), "4711");
  assert.equal((await db.failure("SELECT etcd_lease_grant('100 s', id => 4711)")).code, "42710");
  assert.equal((await db.failure("SELECT etcd_lease_keep(4712)")).code, "42704");
});

test("a lease that is kept lives as long as the session, and no longer than its time after that", async () => {
  const session = await db.connect();
  const kept = await valueIn(session, "SELECT etcd_lease_grant('2 s', keep => true)") as string;
  const left = await valueIn(session, "SELECT etcd_lease_grant('2 s')") as string;
  await session.query(`SELECT etcd_put('/k/kept', 'x', ${kept}), etcd_put('/k/left', 'x', ${left})`);
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  assert.notEqual(await etcd.get("/k/kept"), null);
  assert.equal(await etcd.get("/k/left"), null);
  assert.deepEqual((await session.query("SELECT kind, lease, lost FROM etcd_held()")).rows, [
    { kind: "lease", lease: kept, lost: false },
  ]);
  await session.end();
  await until("the lease to run out", async () => assert.equal(await etcd.get("/k/kept"), null), 8_000);
});

test("one session has the lock, the next one waits for it, and gets it when the first ends", async () => {
  const [first, second] = [await db.connect(), await db.connect()];
  assert.equal(await valueIn(first, "SELECT etcd_lock('job')"), true);
  assert.equal(await valueIn(second, "SELECT etcd_try_lock('job')"), false);
  const [late, took] = await timed(valueIn(second, "SELECT etcd_lock('job', wait => '0.5 s')"));
  assert.equal(late, false);
  assert.ok(took > 450 && took < 2_000, `${took} ms`);
  assert.deepEqual((await etcd.client.list("job/")).length, 1, "who gave up left the queue");
  const waiting = valueIn(second, "SELECT etcd_lock('job')");
  await until(
    "the second in the queue",
    async () => assert.equal((await etcd.client.list("job/")).length, 2),
  );
  await first.end();
  const [got, delay] = await timed(waiting);
  assert.equal(got, true);
  assert.ok(delay < 2_000, `${delay} ms after the first session's end`);
  assert.equal(await valueIn(second, "SELECT etcd_unlock('job')"), true);
  await until("the lock's key to go", async () => assert.deepEqual(await etcd.client.list("job/"), []));
  await second.end();
});

test("a lock is taken as often as it is given back, and holds against etcdctl", async () => {
  assert.equal(await value("SELECT etcd_lock('twice')"), true);
  assert.equal(await value("SELECT etcd_try_lock('twice')"), true);
  assert.equal(await value("SELECT etcd_unlock('twice')"), true);
  assert.deepEqual(
    await db.sql("SELECT kind, name, ttl::text, lost FROM etcd_held()"),
    [{ kind: "lock", name: "twice", ttl: "00:01:00", lost: false }],
  );
  let theirs = false;
  const ctl = etcd.ctl("lock", "twice", "true").then(() => theirs = true);
  await until(
    "etcdctl in the queue",
    async () => assert.equal((await etcd.client.list("twice/")).length, 2),
  );
  assert.equal(theirs, false);
  assert.equal(await value("SELECT etcd_unlock('twice')"), true);
  await ctl;
  assert.equal(theirs, true);
  assert.equal(await value("SELECT etcd_unlock('twice')"), false);
});

test("waiting for a lock ends with cancel and statement_timeout, and leaves nothing behind", async () => {
  const owner = await db.connect();
  await owner.query("SELECT etcd_lock('busy')");
  await db.sql("SET statement_timeout = 500");
  const [error, took] = await timed(db.failure("SELECT etcd_lock('busy')"));
  await db.sql("RESET statement_timeout");
  assert.equal(error.code, "57014");
  assert.ok(took < 1_500, `${took} ms`);
  await until(
    "the queue to be left",
    async () => assert.equal((await etcd.client.list("busy/")).length, 1),
  );
  await owner.end();
});

test("a lock outlives the transaction and a failed one, and ends with disconnect", async () => {
  await db.sql("BEGIN");
  await db.sql("SELECT etcd_lock('tx')");
  await db.failure("SELECT 1 / 0");
  await db.sql("ROLLBACK");
  assert.equal((await etcd.client.list("tx/")).length, 1);
  await db.sql("ALTER SERVER etcd OPTIONS (ADD request_timeout '20')");
  assert.equal(await value("SELECT etcd_try_lock('tx')"), true, "still its own after ALTER SERVER");
  // One more endpoint, at which nobody listens.
  await db.sql(`ALTER SERVER etcd OPTIONS (SET connstr '${etcd.connstr},127.0.0.1:1')`);
  assert.equal(await value("SELECT etcd_try_lock('tx')"), true, "the same cluster, by other endpoints");
  await db.sql(`ALTER SERVER etcd OPTIONS (SET connstr '${etcd.connstr}')`);
  assert.ok(Number(await value("SELECT etcd_fdw_disconnect()")) >= 1);
  await until("the lock to end", async () => assert.deepEqual(await etcd.client.list("tx/"), []));
  assert.deepEqual(await db.sql("SELECT * FROM etcd_held()"), []);
});

test("an election has one leader at a time, whom others observe", async () => {
  const [first, second] = [await db.connect(), await db.connect()];
  assert.deepEqual(await db.sql("SELECT * FROM etcd_leader('e')"), []);
  assert.deepEqual(await db.sql("SELECT * FROM etcd_observe('e', wait => '0.3 s')"), []);
  assert.equal(await valueIn(first, "SELECT etcd_campaign('e', 'one')"), true);
  const [leader] = await db.sql("SELECT value, mod_revision FROM etcd_leader('e')");
  assert.equal(leader.value, "one");
  assert.equal(await valueIn(second, "SELECT etcd_campaign('e', 'two', wait => '0.4 s')"), false);
  assert.equal(await valueIn(second, "SELECT etcd_proclaim('e', 'usurped')"), false);
  const seen = db.sql(
    `SELECT value, mod_revision FROM etcd_observe('e', ${leader.mod_revision}, wait => '10 s')`,
  );
  const candidate = valueIn(second, "SELECT etcd_campaign('e', 'two')");
  await until("the candidate", async () => assert.equal((await etcd.client.list("e/")).length, 2));
  assert.equal(await valueIn(first, "SELECT etcd_proclaim('e', 'one again')"), true);
  const [again] = await seen;
  assert.equal(again.value, "one again");
  const observed = (revision: string) =>
    db.sql(`SELECT value FROM etcd_observe('e', ${revision}, wait => '0.5 s')`);
  assert.deepEqual(await observed(again.mod_revision), []);
  assert.equal(await valueIn(first, "SELECT etcd_resign('e')"), true);
  assert.equal(await candidate, true);
  assert.equal(await valueIn(first, "SELECT etcd_resign('e')"), false);
  const [next] = await db.sql(`SELECT value FROM etcd_observe('e', ${again.mod_revision}, wait => '10 s')`);
  assert.equal(next.value, "two", "whose key is the older one of the two");
  await etcd.put("/later", "x");
  const now = String(await value("SELECT mod_revision FROM etcd_range('/later')"));
  assert.deepEqual(await observed(now), [], "the same leader as at that revision");
  await etcd.ctl("compact", now);
  assert.deepEqual(await observed(again.mod_revision), [{ value: "two" }]);
  const [held] = await db.sql("SELECT mod_revision FROM etcd_leader('e')");
  assert.deepEqual(await observed(held.mod_revision), [], "by its revision alone");
  assert.deepEqual(await observed("9000000000000000000"), []);
  await second.end();
  await until(
    "the leader to be gone",
    async () => assert.deepEqual(await db.sql("SELECT * FROM etcd_leader('e')"), []),
  );
  await first.end();
});

test("a lock whose lease etcd has ended, or whose key is gone, is told as lost long before the next renewal", async () => {
  await db.sql("SELECT etcd_lock('lost'), etcd_campaign('deleted', 'me')");
  await etcd.ctl("del", "--prefix", "deleted/");
  const kinds = "SELECT kind, lost FROM etcd_held() ORDER BY kind";
  await until(
    "the loss of the leadership",
    async () =>
      assert.deepEqual(await db.sql(kinds), [{ kind: "election", lost: true }, {
        kind: "lock",
        lost: false,
      }]),
    3_000,
  );
  assert.equal(await value("SELECT etcd_proclaim('deleted', 'still me')"), false);
  assert.deepEqual(await etcd.client.list("deleted/"), []);
  const [{ lease }] = await db.sql("SELECT lease FROM etcd_held()");
  await etcd.ctl("lease", "revoke", BigInt(lease).toString(16));
  await until(
    "the loss",
    async () => assert.deepEqual(await db.sql("SELECT lost FROM etcd_held()"), [{ lost: true }]),
    3_000,
  );
  assert.equal(await value("SELECT etcd_unlock('lost')"), false);
  assert.equal(await value("SELECT etcd_try_lock('lost')"), true);
  await db.sql("SELECT etcd_unlock('lost')");
});

test("with the proxy, what it held runs out", async () => {
  await db.sql("SELECT etcd_lock('dying', ttl => '2 s')");
  const [{ data_directory: data }] = await db.sql("SHOW data_directory");
  for (const pid of await proxyPids(data)) Deno.kill(pid, "SIGKILL");
  await until(
    "the lock to run out",
    async () => assert.deepEqual(await etcd.client.list("dying/"), []),
    10_000,
  );
  assert.deepEqual(await db.sql("SELECT * FROM etcd_held()"), []);
});

test("what DISCARD ALL leaves, etcd_fdw_disconnect() gives back", async () => {
  const session = await db.connect();
  await session.query(
    "SELECT etcd_lock('pooled'), etcd_campaign('office', 'me'), etcd_lease_grant('60 s', keep => true)",
  );
  await session.query("DISCARD ALL");
  assert.equal((await session.query("SELECT FROM etcd_held() WHERE NOT lost")).rowCount, 3);
  await session.query("SELECT etcd_fdw_disconnect()");
  assert.equal((await session.query("SELECT FROM etcd_held()")).rowCount, 0);
  await until(
    "the lock to be free",
    async () => assert.equal(await value("SELECT etcd_try_lock('pooled')"), true),
  );
  await db.sql("SELECT etcd_unlock('pooled')");
  await session.end();
});
