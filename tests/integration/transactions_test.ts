// Transactions on etcd as SQL sees them: one revision whatever their size, guards against other clients, leases.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("transactions");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE x (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/x/');
  CREATE FOREIGN TABLE im (key text, value text) SERVER etcd OPTIONS (prefix '/x/', write_mode 'immediate');
  CREATE FOREIGN TABLE leased (key text, value text, ttl int) SERVER etcd OPTIONS (prefix '/x/');
  CREATE FOREIGN TABLE leased_now (key text, value text, ttl int) SERVER etcd
    OPTIONS (prefix '/x/', write_mode 'immediate')`);

const text = new TextDecoder();
const stored = async () =>
  Object.fromEntries(
    (await etcd.client.list("/x/")).map(({ key, value }) => [text.decode(key), text.decode(value)]),
  );
async function reset(rows: Record<string, string> = {}): Promise<void> {
  await db.sql("ROLLBACK");
  await etcd.client.deletePrefix("/x/");
  for (const [key, value] of Object.entries(rows)) await etcd.put(key, value);
}
const leases = async () => (await etcd.ctl("lease", "list")).trim().split("\n").length - 1;

test("thousands of rows are one revision, and one that another client changed is the end of all of them", async () => {
  await reset();
  await db.sql("INSERT INTO x SELECT '/x/' || i, 'old' FROM generate_series(1, 5000) i");
  const revisions = new Set((await etcd.client.list("/x/")).map(({ modRevision }) => modRevision));
  assert.equal(revisions.size, 1);
  await db.sql("BEGIN; UPDATE x SET value = 'new'; DELETE FROM x WHERE key LIKE '/x/1%'");
  await etcd.put("/x/4321", "theirs");
  const error = await db.failure("COMMIT");
  assert.equal(error.code, "40001");
  assert.match(error.detail!, /\/x\/4321/);
  const after = await stored();
  assert.equal(Object.keys(after).length, 5000);
  assert.deepEqual([...new Set(Object.values(after))].sort(), ["old", "theirs"]);
});

test("DELETE of a table spares what another client made of rows that the transaction had changed", async () => {
  for (
    const change of ["UPDATE x SET value = 'own' WHERE key = '/x/2'", "INSERT INTO x VALUES ('/x/2', 'own')"]
  ) {
    const inserts = change.startsWith("INSERT");
    await reset({ "/x/1": "a", "/x/3": "c", ...(inserts ? {} : { "/x/2": "b" }) });
    await db.sql(`BEGIN; ${change}`);
    await etcd.put("/x/2", "theirs");
    await db.sql("DELETE FROM x");
    if (inserts) {
      await db.sql("COMMIT");
      assert.deepEqual(await stored(), { "/x/2": "theirs" });
    } else {
      assert.equal((await db.failure("COMMIT")).code, "40001");
      assert.deepEqual(await stored(), { "/x/1": "a", "/x/2": "theirs", "/x/3": "c" });
    }
  }
});

test("SERIALIZABLE: a key that is inserted and deleted again was read all the same", async () => {
  await reset();
  const [one, two] = [await db.connect(), await db.connect()];
  for (const [session, mine, other] of [[one, "/x/1", "/x/2"], [two, "/x/2", "/x/1"]] as const) {
    await session.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    await session.query(`SELECT * FROM x WHERE key IN ('${mine}', '${other}')`);
    await session.query(`INSERT INTO x VALUES ('${other}', 'x')`);
    await session.query(`DELETE FROM x WHERE key = '${other}' AND value = 'x'`);
    await session.query(`INSERT INTO x VALUES ('${mine}', 'mine')`);
  }
  await one.query("COMMIT");
  await assert.rejects(two.query("COMMIT"), { code: "40001" });
  assert.deepEqual(await stored(), { "/x/1": "mine" });
  await one.end();
  await two.end();
});

test("SERIALIZABLE: what was read and is gone is not inserted, and history is no obstacle", async () => {
  await reset({ "/x/1": "a" });
  await db.sql("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM x WHERE key = '/x/1'");
  await etcd.client.delete("/x/1");
  assert.equal((await db.failure("INSERT INTO x VALUES ('/x/1', 'again')")).code, "40001");
  await reset({ "/x/1": "a" });
  const past = await etcd.client.revision();
  await etcd.put("/x/1", "b");
  await db.sql(`CREATE FOREIGN TABLE past (key text, value text) SERVER etcd
    OPTIONS (prefix '/x/', revision '${past}')`);
  for (const [first, second] of [["past", "x"], ["x", "past"]]) {
    await db.sql(`BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM ${first}; SELECT * FROM ${second};
      INSERT INTO x VALUES ('/x/${first}', ''); COMMIT`);
  }
  assert.deepEqual(await stored(), { "/x/1": "b", "/x/past": "", "/x/x": "" });
});

test("rows of any size are written, as far as etcd takes them, and a larger one is told by its name", async () => {
  await reset();
  await db.sql("INSERT INTO x SELECT '/x/' || i, repeat('x', 20000) FROM generate_series(1, 1000) i");
  assert.equal(await etcd.client.count("/x/"), 1000);
  await reset();
  const sizes = "CASE WHEN i <= 256 THEN 10 ELSE 20000 END";
  await db.sql(`INSERT INTO im SELECT '/x/' || i, repeat('x', ${sizes}) FROM generate_series(1, 800) i`);
  assert.equal(await etcd.client.count("/x/"), 800);
  await reset();
  await db.sql("INSERT INTO x SELECT '/x/' || i, repeat('x', 1000000) FROM generate_series(1, 20) i");
  assert.equal(await etcd.client.count("/x/"), 20);
  await reset();
  const large = await db.failure("INSERT INTO x VALUES ('/x/1', ''), ('/x/large', repeat('x', 2000000))");
  assert.equal(large.code, "54000");
  assert.match(large.message, /\/x\/large/);
  // Some 300 MB stay below no limit, and harm nobody.
  const many = "INSERT INTO x SELECT '/x/' || i, repeat('x', 1000000) FROM generate_series(1, 300) i";
  assert.equal((await db.failure(many)).code, "53200");
  const huge = await db.failure("INSERT INTO x VALUES ('/x/huge', repeat('x', 300000000))");
  assert.equal(huge.code, "54000");
  assert.deepEqual(await stored(), {});
  await db.sql("INSERT INTO x VALUES ('/x/1', 'still here')");
  assert.deepEqual(await stored(), { "/x/1": "still here" });
});

test("leases: they end with the subtransaction, stay with rows that were written at once, and are shared", async () => {
  await reset();
  const before = await leases();
  await db.sql(`BEGIN; SAVEPOINT s; INSERT INTO leased VALUES ('/x/1', 'a', 600); ROLLBACK TO s;
    INSERT INTO leased VALUES ('/x/2', 'b', 700)`);
  await waitFor("the savepoint's lease is revoked", async () => await leases() === before + 1);
  await db.sql("COMMIT");
  assert.equal(await leases(), before + 1);
  await db.sql("BEGIN; INSERT INTO leased_now VALUES ('/x/3', 'c', 600); ROLLBACK");
  await db.sql(
    "BEGIN; INSERT INTO leased SELECT '/x/t' || i, '', 100 + i % 2 FROM generate_series(1, 100) i",
  );
  assert.equal(await leases(), before + 4);
  await db.sql("COMMIT");
  assert.equal(await etcd.client.count("/x/t"), 100);
  assert.equal((await stored())["/x/3"], "c");
  // Nothing is revoked behind its back either.
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(await leases(), before + 4);
  assert.equal((await stored())["/x/3"], "c");
});
