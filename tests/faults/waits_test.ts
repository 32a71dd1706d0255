// Waits that never end by themselves: every one ends at once when the user asks, and says why when it gives up.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";
import { proxyPids } from "../helpers/proxy.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("waits");

await etcd.putMany(
  Array.from(
    { length: 20_000 },
    (_, i): [string, string] => [`/f/${String(i).padStart(6, "0")}`, "x".repeat(100)],
  ),
);
await db.sql(`
  CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${
  etcd.endpoints[0]
}', request_timeout '20');
  CREATE FOREIGN TABLE f (key text, value text) SERVER etcd OPTIONS (prefix '/f/');
  CREATE SERVER nobody FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '127.0.0.1:1', connect_timeout '1');
  CREATE FOREIGN TABLE nobody (key text) SERVER nobody;
  CREATE SERVER impatient FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${
  etcd.endpoints[0]
}', request_timeout '0.3');
  CREATE FOREIGN TABLE impatient (key text) SERVER impatient OPTIONS (prefix '/f/')`);
const dataDirectory = (await db.sql("SHOW data_directory"))[0].data_directory as string;
const count = async () => Number((await db.sql("SELECT count(*) FROM f"))[0].count);
const failure = (statement: string) => db.sql(statement).then(() => null, (e: SqlError) => e);
const cancel = await db.prepareCancel();

test("a stalled etcd: cancel ends the wait within 100 ms, and the session goes on", async () => {
  assert.equal(await count(), 20_000);
  await etcd.pause();
  try {
    const waiting = failure("SELECT count(*) FROM f");
    await new Promise((resolve) => setTimeout(resolve, 300));
    const asked = performance.now();
    await cancel();
    const error = await waiting;
    assert.equal(error?.code, "57014");
    assert.ok(performance.now() - asked < 100, `${performance.now() - asked} ms`);
  } finally {
    await etcd.resume();
  }
  assert.equal(await count(), 20_000);
});

test("a stalled etcd: statement_timeout ends the wait within 100 ms", async () => {
  await etcd.pause();
  try {
    await db.sql("SET statement_timeout = '300ms'");
    const asked = performance.now();
    assert.equal((await failure("SELECT count(*) FROM f"))?.code, "57014");
    const waited = performance.now() - asked;
    assert.ok(waited >= 290 && waited < 400, `${waited} ms`);
  } finally {
    await db.sql("RESET statement_timeout");
    await etcd.resume();
  }
  assert.equal(await count(), 20_000);
});

test("a stalled etcd: request_timeout is an error of the connection", async () => {
  await db.sql("SELECT count(*) FROM impatient");
  await etcd.pause();
  try {
    const asked = performance.now();
    const error = await failure("SELECT count(*) FROM impatient");
    assert.match(error!.code, /^08/);
    assert.ok(performance.now() - asked < 2000, `${performance.now() - asked} ms`);
  } finally {
    await etcd.resume();
  }
  assert.equal((await db.sql("SELECT count(*) FROM impatient"))[0].count, "20000");
});

test("an etcd that cannot be reached is 08001 with the endpoint, within connect_timeout", async () => {
  const asked = performance.now();
  const error = await failure("SELECT * FROM nobody");
  assert.equal(error?.code, "08001");
  assert.match(error!.message, /127\.0\.0\.1:1\b/);
  assert.ok(performance.now() - asked < 1500, `${performance.now() - asked} ms`);
});

test("an etcd that comes back is found by the next query", async () => {
  await etcd.kill(0);
  assert.match((await failure("SELECT count(*) FROM f"))!.code, /^08/);
  await etcd.restart(0);
  assert.equal(await count(), 20_000);
});

test("a proxy that is killed in mid-scan is a clean error, and the next query works", async () => {
  await db.sql("BEGIN; DECLARE c CURSOR FOR SELECT * FROM f; FETCH 1 FROM c");
  // The second page is larger than a socket holds, so it is not all here when the proxy dies.
  const [pid] = await proxyPids(dataDirectory);
  Deno.kill(pid, "SIGKILL");
  const error = await failure("FETCH ALL FROM c");
  assert.equal(error?.code, "08006");
  await db.sql("ROLLBACK");
  await waitFor("rows again", async () => (await count().catch(() => 0)) === 20_000, { timeoutMs: 5000 });
});

test("a proxy that is killed while a query waits for it is 08006", async () => {
  await etcd.pause();
  try {
    const waiting = failure("SELECT count(*) FROM f");
    await new Promise((resolve) => setTimeout(resolve, 300));
    for (const pid of await proxyPids(dataDirectory)) Deno.kill(pid, "SIGKILL");
    const error = await waiting;
    assert.equal(error?.code, "08006");
    assert.match(error!.message, /connection to the etcd proxy was lost/);
  } finally {
    await etcd.resume();
  }
  await waitFor("rows again", async () => (await count().catch(() => 0)) === 20_000, { timeoutMs: 5000 });
});

test("a stopped proxy does not hold a backend", async () => {
  const [pid] = await proxyPids(dataDirectory);
  Deno.kill(pid, "SIGSTOP");
  try {
    const waiting = failure("SELECT count(*) FROM f");
    await new Promise((resolve) => setTimeout(resolve, 200));
    const asked = performance.now();
    await cancel();
    assert.equal((await waiting)?.code, "57014");
    assert.ok(performance.now() - asked < 100, `${performance.now() - asked} ms`);
  } finally {
    Deno.kill(pid, "SIGCONT");
  }
  assert.equal(await count(), 20_000);
});

test("a terminated backend leaves nothing behind", async () => {
  const client = await db.connect();
  client.on("error", () => {});
  const { rows: [{ pid }] } = await client.query("SELECT pg_backend_pid() AS pid");
  await etcd.pause();
  try {
    const waiting = client.query("SELECT count(*) FROM f").then(() => null, (e: SqlError) => e);
    await new Promise((resolve) => setTimeout(resolve, 200));
    await db.sql("SELECT pg_terminate_backend($1)", [pid]);
    assert.ok(await waiting);
    await waitFor("the backend's end", async () => {
      return (await db.sql("SELECT 1 FROM pg_stat_activity WHERE pid = $1", [pid])).length === 0;
    }, { timeoutMs: 2000 });
  } finally {
    await etcd.resume();
    await client.end().catch(() => {});
  }
  assert.equal(await count(), 20_000);
});
