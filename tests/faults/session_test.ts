// The backend's session with the proxy: it ends by nothing but the proxy's end, and what fails on the way leaves a session
// that works.

import assert from "node:assert/strict";
import { runAs, serverUser } from "../../scripts/lib/servers.ts";
import type { SqlError } from "../helpers/database.ts";
import { proxyPids } from "../helpers/proxy.ts";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("session");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw
    OPTIONS (connstr '${etcd.endpoints[0]}', request_timeout '1', connect_timeout '1', max_retries '0');
  CREATE FOREIGN TABLE s (key text, value text) SERVER etcd OPTIONS (prefix '/s/');
  CREATE SERVER patient FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE big (key text, value text) SERVER patient OPTIONS (prefix '/big/');
  CREATE FOREIGN TABLE now (key text, value text) SERVER patient OPTIONS (prefix '/now/', write_mode 'immediate')`);
const dataDirectory = (await db.sql("SHOW data_directory"))[0].data_directory as string;
const failure = (statement: string) => db.sql(statement).then(() => null, (error: SqlError) => error);

test("a request that is late ends by itself: the session keeps its locks", async () => {
  await db.sql("SELECT etcd_lock('etcd', 'patience')");
  const [proxy] = await proxyPids(dataDirectory);
  Deno.kill(proxy, "SIGSTOP");
  const late = await failure("SELECT * FROM s").finally(() => Deno.kill(proxy, "SIGCONT"));
  assert.equal(late?.code, "08006");
  assert.match(late!.message, /does not answer/);
  assert.deepEqual(await db.sql("SELECT count(*) FROM s"), [{ count: "0" }]);
  const held = await db.sql("SELECT kind, lost FROM etcd_held('etcd')");
  assert.deepEqual(held, [{ kind: "lock", lost: false }]);
  assert.deepEqual(await db.sql("SELECT etcd_unlock('etcd', 'patience') AS kept"), [{ kept: true }]);
});

test("a transaction survives a request that is late", async () => {
  await db.sql("BEGIN; INSERT INTO s VALUES ('/s/kept', '1'); SAVEPOINT a");
  const [proxy] = await proxyPids(dataDirectory);
  Deno.kill(proxy, "SIGSTOP");
  const late = await failure("SELECT * FROM s").finally(() => Deno.kill(proxy, "SIGCONT"));
  assert.equal(late?.code, "08006");
  await db.sql("ROLLBACK TO SAVEPOINT a; INSERT INTO s VALUES ('/s/too', '2'); COMMIT");
  assert.deepEqual(await db.sql("SELECT key FROM s ORDER BY key"), [{ key: "/s/kept" }, { key: "/s/too" }]);
});

test("descriptors that run out are an error, and the session works when there are some again", async () => {
  const client = await db.connect();
  try {
    const pid = Number((await client.query("SELECT pg_backend_pid() AS pid")).rows[0].pid);
    await client.query("SELECT count(*) FROM s");
    const user = await serverUser();
    const limit = async (soft: string) => {
      const { code, stderr } = await runAs(user, "prlimit", [`--pid=${pid}`, `--nofile=${soft}`], "/");
      assert.equal(code, 0, stderr);
    };
    let errors = 0;
    let worked = 0;
    for (let spare = 0; spare < 6; spare++) {
      await client.query("SELECT etcd_fdw_disconnect()");
      const open = new Set([...Deno.readDirSync(`/proc/${pid}/fd`)].map(({ name }) => Number(name)));
      let end = 0;
      for (let free = 0; free < spare; end++) if (!open.has(end)) free++;
      await limit(`${end}:`);
      for (let twice = 0; twice < 2; twice++) {
        await client.query("SELECT count(*) FROM s").then(() => worked++, (error: SqlError) => {
          assert.notEqual(error.code, undefined, error.message);
          errors++;
        });
      }
      await limit("1024:");
      assert.deepEqual((await client.query("SELECT count(*) >= 0 AS ok FROM s")).rows, [{ ok: true }]);
    }
    assert.ok(errors > 0 && worked > 0, `${errors} errors, ${worked} worked`);
  } finally {
    await client.end();
  }
});

test("a cursor that is not read while much is written does not stop the session", async () => {
  const value = "x".repeat(1000);
  await db.sql(
    `BEGIN; INSERT INTO big SELECT '/big/' || lpad(i::text, 6, '0'), '${value}' FROM generate_series(1, 1000) i;
    COMMIT`,
  );
  for (let part = 1; part < 30; part++) {
    await db.sql(`INSERT INTO big SELECT '/big/' || lpad(i::text, 6, '0'), '${value}'
      FROM generate_series(${part * 1000 + 1}, ${part * 1000 + 1000}) i`);
  }
  await db.sql(
    "BEGIN; DECLARE c CURSOR FOR SELECT value FROM big; FETCH 1 FROM c; SET statement_timeout = '60s'",
  );
  await db.sql(`INSERT INTO now SELECT '/now/' || i, '${value}' FROM generate_series(1, 20000) i`);
  const rest = await db.sql("MOVE FORWARD ALL IN c; SELECT count(*) FROM now");
  assert.deepEqual(rest, [{ count: "20000" }]);
  await db.sql("COMMIT; RESET statement_timeout");
});

test("a proxy that answers no PING any more is given up, and the next one serves", async () => {
  const [proxy] = await proxyPids(dataDirectory);
  Deno.kill(proxy, "SIGSTOP");
  try {
    assert.equal((await failure("SELECT * FROM s"))?.code, "08006");
    // The statement waits for the PONG; a cancel ends that, as it ends every wait.
    const cancel = await db.prepareCancel();
    const waiting = failure("SELECT * FROM s");
    await new Promise((resolve) => setTimeout(resolve, 500));
    const started = performance.now();
    await cancel();
    assert.equal((await waiting)?.code, "57014");
    assert.ok(performance.now() - started < 1000);
  } finally {
    Deno.kill(proxy, "SIGKILL");
  }
  await waitFor("rows again", async () => (await failure("SELECT * FROM s")) === null, { timeoutMs: 10000 });
});
