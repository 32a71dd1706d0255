// The proxy's life: one per cluster, restarted when it dies, gone when the server is.

import assert from "node:assert/strict";
import { findPostgres } from "../../build/postgres.ts";
import { run } from "../../build/run.ts";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";
import { proxyPids } from "../helpers/proxy.ts";

const { db, etcd, test } = await suite("worker");

const setUp = async () => {
  await etcd.put("/w/a", "1");
  await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
    CREATE FOREIGN TABLE w (key text, value text) SERVER etcd OPTIONS (prefix '/w/')`);
};
await setUp();
const dataDirectory = (await db.sql("SHOW data_directory"))[0].data_directory as string;
const pids = () => proxyPids(dataDirectory);

test("however many backends race for it, one proxy runs", async () => {
  assert.deepEqual(await pids(), []);
  const clients = await Promise.all(Array.from({ length: 12 }, () => db.connect()));
  try {
    const results = await Promise.all(clients.map((client) => client.query("SELECT value FROM w")));
    for (const result of results) assert.deepEqual(result.rows, [{ value: "1" }]);
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
  assert.equal((await pids()).length, 1);
  const workers = await db.sql(
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'etcd_fdw proxy supervisor'",
  );
  assert.ok(Number(workers[0].count) <= 1);
});

test("only the server's user can open the socket", async () => {
  const directory = await Deno.stat(`${dataDirectory}/pg_stat_tmp/etcd_fdw`);
  const socket = await Deno.stat(`${dataDirectory}/pg_stat_tmp/etcd_fdw/proxy.sock`);
  assert.equal(directory.mode! & 0o777, 0o700);
  assert.equal(socket.mode! & 0o777, 0o600);
});

test("a killed proxy is back within a second", async () => {
  const [old] = await pids();
  Deno.kill(old, "SIGKILL");
  const started = performance.now();
  await waitFor("a new proxy", async () => {
    const now = await pids();
    return now.length === 1 && now[0] !== old;
  }, { timeoutMs: 5000 });
  assert.ok(performance.now() - started < 1000, `${performance.now() - started} ms`);
  await waitFor("a row again", async () => {
    const rows = await db.sql("SELECT value FROM w").catch(() => []);
    return rows.length === 1;
  }, { timeoutMs: 5000 });
});

test("a supervisor that is terminated takes its proxy along, and the next query starts another", async () => {
  const [old] = await pids();
  const supervisor = Number((await Deno.readTextFile(`/proc/${old}/stat`)).split(") ")[1].split(" ")[1]);
  Deno.kill(supervisor, "SIGTERM");
  await waitFor("the old proxy's end", async () => !(await pids()).includes(old), { timeoutMs: 3000 });
  await waitFor(
    "a row again",
    async () => (await db.sql("SELECT value FROM w").catch(() => [])).length === 1,
    {
      timeoutMs: 5000,
    },
  );
  assert.equal((await pids()).length, 1);
});

for (const mode of ["fast", "immediate", "kill"] as const) {
  test(`the proxy is gone within two seconds after the server stops (${mode})`, async () => {
    await waitFor("a proxy", async () => {
      await db.sql("SELECT value FROM w").catch(() => null);
      return (await pids()).length === 1;
    }, { timeoutMs: 10_000 });
    await db.stopServer(mode);
    const stopped = performance.now();
    await waitFor("the proxy's end", async () => (await pids()).length === 0, { timeoutMs: 5000 });
    assert.ok(performance.now() - stopped < 2000, `${performance.now() - stopped} ms`);
    await db.startServer();
    assert.deepEqual(await db.sql("SELECT value FROM w"), [{ value: "1" }]);
  });
}

test("a base backup takes nothing of the proxy's along, and stumbles over nothing", async () => {
  assert.equal((await pids()).length, 1);
  const { bindir } = await findPostgres();
  const { PGHOST, PGPORT } = db.sandbox.env();
  const folder = await Deno.makeTempDir();
  const { code, stderr } = await run(`${bindir}/pg_basebackup`, [
    ...["-h", PGHOST, "-p", PGPORT, "-U", "postgres", "-D", `${folder}/backup`, "-c", "fast"],
  ], { mayFail: true });
  assert.equal(code, 0, stderr);
  assert.doesNotMatch(stderr, /special file|proxy/);
  assert.deepEqual([...Deno.readDirSync(`${folder}/backup/pg_stat_tmp`)], []);
  await Deno.remove(folder, { recursive: true });
});
