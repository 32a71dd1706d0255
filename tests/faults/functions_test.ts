// Functions when etcd stalls, cannot be reached, or the proxy dies: an error of the right class, in time, and nothing said
// twice.

import assert from "node:assert/strict";
import { proxyPids } from "../helpers/proxy.ts";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("fnfaults");

await db.sql(`${etcd.createServerSql("etcd", { request_timeout: "1", max_retries: "0" })};
  CREATE SERVER nobody FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '127.0.0.1:1', connect_timeout '1', max_retries '0');
  SET etcd_fdw.default_server = 'etcd'`);
const value = async (text: string) => Object.values((await db.sql(text))[0])[0];
const [{ data_directory: data }] = await db.sql("SHOW data_directory");
const cancel = await db.prepareCancel();
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The error and how long it took, in milliseconds. */
async function timed(text: string) {
  const begun = performance.now();
  const error = await db.failure(text);
  return { error, took: performance.now() - begun };
}

test("a stalled etcd: reads give up, writes say that nobody knows", async () => {
  await db.sql("SELECT etcd_put('/s', '1')");
  const cases = [
    ["etcd_get('/s')", "08006"],
    ["etcd_put('/s', '2')", "08007"],
    ["etcd_delete('/s')", "08007"],
    ["etcd_cas('/s', '1', '2')", "08007"],
    ['etcd_txn(\'{"success": [{"get": {"key": "/s"}}]}\')', "08006"],
    ["(SELECT count(*) FROM etcd_changes('/s', 0))", "08006"],
  ];
  for (const [call, sqlstate] of cases) {
    // Connected, so that it is the call that waits.
    await waitFor("etcd to answer", async () => await value("SELECT coalesce(etcd_get('/s'), '-')"));
    await etcd.pause();
    try {
      const { error, took } = await timed(`SELECT ${call}`);
      assert.equal(error.code, sqlstate, call);
      assert.ok(took > 900 && took < 3_000, `${call}: ${took} ms`);
    } finally {
      await etcd.resume();
    }
  }
});

test("a lock that others hold: cancel ends the wait within 100 ms, a lost etcd ends it too", async () => {
  const owner = await db.connect();
  await owner.query("SELECT etcd_lock('etcd', 'held')");
  const waiting = db.failure("SELECT etcd_lock('held')");
  await pause(300);
  const asked = performance.now();
  await cancel();
  assert.equal((await waiting).code, "57014");
  assert.ok(performance.now() - asked < 100, `${performance.now() - asked} ms`);
  const longer = db.sql("SELECT etcd_lock('held', wait => '3 s') AS got");
  await pause(100);
  assert.deepEqual(await longer, [{ got: false }], "longer than request_timeout");
  const lost = db.failure("SELECT etcd_lock('held')");
  await pause(300);
  await etcd.kill(0);
  try {
    assert.match((await lost).code, /^08/);
  } finally {
    await etcd.restart(0);
  }
  await owner.end();
});

test("a proxy that dies ends the wait, and the next call has another one", async () => {
  const owner = await db.connect();
  await owner.query("SELECT etcd_lock('etcd', 'dies', ttl => '2 s')");
  const waiting = db.failure("SELECT etcd_lock('dies', ttl => '2 s')");
  await pause(300);
  for (const pid of await proxyPids(data)) Deno.kill(pid, "SIGKILL");
  const error = await waiting;
  assert.equal(error.code, "08006");
  assert.match(error.message, /connection to the etcd proxy was lost/);
  await waitFor("the lock to run out", async () => await value("SELECT etcd_try_lock('dies')"), {
    timeoutMs: 15_000,
  });
  assert.equal((await owner.query("SELECT etcd_unlock('etcd', 'dies') AS held")).rows[0].held, false);
  await owner.end();
});

test("an etcd that cannot be reached is named", async () => {
  const { error, took } = await timed("SELECT etcd_get('nobody', '/a')");
  assert.equal(error.code, "08001");
  assert.match(error.message, /127\.0\.0\.1:1/);
  assert.ok(took < 2_000, `${took} ms`);
  const [row] = await db.sql("SELECT endpoint, error FROM etcd_status('nobody')");
  assert.match(row.error, /could not connect/);
  const parts = await db.sql(
    "SELECT component, version FROM etcd_fdw_version() WHERE component LIKE 'etcd nobody%'",
  );
  assert.match(parts[0].version, /could not connect/);
  assert.equal((await db.failure("SELECT * FROM etcd_snapshot_chunks('nobody')")).code, "08001");
});

test("what cannot be given back since etcd is gone is the failure of a connection that there was", async () => {
  await waitFor("etcd to answer", async () => await value("SELECT coalesce(etcd_get('/s'), '-')"));
  await db.sql("SELECT etcd_lock('back', ttl => '600 s'), etcd_campaign('office', 'me', ttl => '600 s')");
  await etcd.kill(0);
  try {
    // The first call may find the connection still there, and it break; the others find none.
    for (const call of ["etcd_get('/s')", "etcd_unlock('back')", "etcd_resign('office')"]) {
      const error = await db.failure(`SELECT ${call}`);
      if (call === "etcd_get('/s')") continue;
      assert.equal(error.code, "08006", `${call}: ${error.message}`);
      assert.match(error.hint!, /is given up here/);
    }
  } finally {
    await etcd.restart(0);
  }
});

test("a snapshot that breaks off leaves no file", async () => {
  const directory = await Deno.makeTempDir();
  await Deno.chmod(directory, 0o777);
  try {
    assert.equal((await db.failure(`SELECT etcd_snapshot('nobody', '${directory}/x')`)).code, "08001");
    assert.deepEqual([...Deno.readDirSync(directory)], []);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

test("a snapshot whose session ends meanwhile leaves no file", async () => {
  await db.sql(etcd.createServerSql("patient", { request_timeout: "60", max_retries: "0" }));
  const client = await db.connect();
  client.on("error", () => {});
  const [{ pid }] = (await client.query("SELECT pg_backend_pid() AS pid, etcd_get('patient', '/s')")).rows;
  const directory = await Deno.makeTempDir();
  await Deno.chmod(directory, 0o777);
  const files = () => [...Deno.readDirSync(directory)].map(({ name }) => name);
  await etcd.pause();
  try {
    const ended = client.query(`SELECT etcd_snapshot('patient', '${directory}/x')`)
      .then(() => "done", (error) => error.code);
    await waitFor("a file", () => Promise.resolve(files().length === 1));
    assert.deepEqual(files(), ["x.part"]);
    await db.sql(`SELECT pg_terminate_backend(${pid}, 10000)`);
    assert.equal(await ended, "57P01");
    assert.deepEqual(files(), []);
  } finally {
    await etcd.resume();
    await client.end().catch(() => {});
    await Deno.remove(directory, { recursive: true });
  }
});
