// Commits that are cut off: what PostgreSQL says is what etcd holds, or that it is not known.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";
import { proxyPids } from "../helpers/proxy.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("commit");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw
    OPTIONS (connstr '${etcd.endpoints[0]}', request_timeout '2', connect_timeout '2', max_retries '0');
  CREATE FOREIGN TABLE c (key text, value text) SERVER etcd OPTIONS (prefix '/c/');
  CREATE TABLE local (v text)`);
const dataDirectory = (await db.sql("SHOW data_directory"))[0].data_directory as string;

async function killProxy(): Promise<void> {
  const pids = await proxyPids(dataDirectory);
  for (const pid of pids) Deno.kill(pid, "SIGKILL");
  // Its end of the socket closes a moment later; certainly when the worker has seen its end and started another.
  await waitFor(
    "another proxy",
    async () => (await proxyPids(dataDirectory)).some((pid) => !pids.includes(pid)),
  );
}
const failure = (statement: string) => db.sql(statement).then(() => null, (error: SqlError) => error);
const held = async (key: string) => (await etcd.get(key)) !== null;

/** A transaction up to its commit, on both sides. */
async function begin(key: string): Promise<void> {
  await db.sql("ROLLBACK");
  await db.sql("TRUNCATE local");
  await db.sql(`BEGIN; INSERT INTO local VALUES ('${key}'); INSERT INTO c VALUES ('${key}', 'x')`);
}

/** An error of class 08 or 40 that leaves PostgreSQL's own part undone. */
async function assertAborted(error: SqlError | null, codes: string[]): Promise<void> {
  assert.ok(error !== null && codes.includes(error.code), `${error?.code}: ${error?.message}`);
  assert.ok(error.hint, error.message);
  await db.sql("ROLLBACK");
  assert.equal((await db.sql("SELECT count(*) FROM local"))[0].count, "0");
}

test("the proxy dies before the commit: nothing was written, and that is said", async () => {
  await begin("/c/1");
  await killProxy();
  await assertAborted(await failure("COMMIT"), ["08006"]);
  assert.equal(await held("/c/1"), false);
  await begin("/c/1b");
  await killProxy();
  const read = await failure("SELECT * FROM c");
  assert.equal(read?.code, "08006");
  await db.sql("ROLLBACK");
  assert.equal((await db.sql("SELECT count(*) FROM c"))[0].count, "0");
});

test("the proxy dies while etcd is at it: the outcome is not known", async () => {
  await begin("/c/2");
  await etcd.pause();
  const commit = failure("COMMIT");
  await new Promise((resolve) => setTimeout(resolve, 300));
  await killProxy();
  const error = await commit;
  await etcd.resume();
  await assertAborted(error, ["08007"]);
  assert.match(error!.hint!, /Read the rows/);
});

test("etcd does not answer the commit: the outcome is not known, and it is not tried again", async () => {
  await begin("/c/3");
  await etcd.pause();
  const error = await failure("COMMIT");
  await etcd.resume();
  await assertAborted(error, ["08007"]);
  const kv = await waitFor("etcd answers", () => etcd.get("/c/3").then((kv) => ({ kv })));
  assert.ok(kv.kv === null || kv.kv.version === 1n);
});

test("a commit that is cancelled: the outcome is not known", async () => {
  const cancel = await db.prepareCancel();
  await begin("/c/4");
  await etcd.pause();
  const commit = failure("COMMIT");
  await new Promise((resolve) => setTimeout(resolve, 300));
  await cancel();
  const error = await commit;
  await etcd.resume();
  await assertAborted(error, ["08007"]);
});

test("a commit that outlasts a timeout of the statement or the transaction: the outcome is not known", async () => {
  const [{ server_version_num: version }] = await db.sql("SHOW server_version_num");
  const writes = "INSERT INTO local VALUES ('x'); INSERT INTO c VALUES ('/c/timed', 'x');";
  const cases = [
    ["statement_timeout", "", `DO $$ BEGIN ${writes} COMMIT; END $$`],
    ["transaction_timeout", `BEGIN; ${writes}`, "COMMIT"],
  ];
  for (const [setting, before, commit] of cases) {
    if (setting === "transaction_timeout" && Number(version) < 170_000) continue;
    await db.sql("ROLLBACK");
    await db.sql(`TRUNCATE local; SET ${setting} = '1s'`);
    await db.sql(before);
    await etcd.pause();
    const error = await failure(commit);
    await etcd.resume();
    await assertAborted(error, ["08007"]);
    await db.sql(`RESET ${setting}; DELETE FROM c`);
  }
});

test("etcd is gone before the commit: nothing was written", async () => {
  await begin("/c/5");
  await etcd.kill(0);
  const error = await failure("COMMIT");
  await etcd.restart(0);
  await assertAborted(error, ["08001", "08006", "08007"]);
  if (error!.code !== "08007") assert.equal(await held("/c/5"), false);
});

test("after the commit nothing can take it back", async () => {
  await begin("/c/6");
  await db.sql("COMMIT");
  await killProxy();
  assert.equal(await held("/c/6"), true);
  assert.equal((await db.sql("SELECT count(*) FROM local"))[0].count, "1");
  assert.equal((await db.sql("SELECT count(*) FROM c WHERE key = '/c/6'"))[0].count, "1");
});

test("a statement that fails in PostgreSQL after etcd's part is staged leaves etcd alone", async () => {
  await db.sql(
    "ROLLBACK; CREATE TABLE checked (v int, CONSTRAINT late UNIQUE (v) DEFERRABLE INITIALLY DEFERRED)",
  );
  await db.sql("BEGIN; INSERT INTO c VALUES ('/c/7', 'x'); INSERT INTO checked VALUES (1), (1)");
  assert.equal((await failure("COMMIT"))?.code, "23505");
  assert.equal(await held("/c/7"), false);
});

test("two servers commit one after the other, with a warning once", async () => {
  await db.sql(`CREATE SERVER again FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
    CREATE FOREIGN TABLE d (key text, value text) SERVER again OPTIONS (prefix '/d/')`);
  const notices: string[] = [];
  const session = await db.connect();
  session.on("notice", (notice) => notices.push(`${notice.message}`));
  for (const n of [1, 2]) {
    await session.query(
      `BEGIN; INSERT INTO c VALUES ('/c/two${n}', 'x'); INSERT INTO d VALUES ('/d/${n}', 'x'); COMMIT`,
    );
  }
  await session.end();
  assert.deepEqual(notices, ["the transaction commits on 2 etcd servers, one after the other"]);
  assert.ok(await held("/c/two2") && await held("/d/2"));
});
