// IMPORT FOREIGN SCHEMA: directories of keys as tables.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("import");

await etcd.putMany([
  ["/registry/pods/default/web", "p1"],
  ["/registry/pods/kube-system/dns", "p2"],
  ["/registry/services/default/web", "s1"],
  ['/registry/Odd "name"\'s\\/x', "o1"],
  ["/registry/ärzte/x", "u1"],
  ["/registry/file", "no directory"],
  ["/elsewhere/x/y", "e1"],
]);
await etcd.putMany(Array.from({ length: 3000 }, (_, i): [string, string] => [`/registry/events/e${i}`, "e"]));
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}')`);

/** Imports into a schema of its own; the tables' names. */
let schemas = 0;
async function imported(clauses: string, options = "", directory = "/registry/") {
  const schema = `i${++schemas}`;
  await db.sql(`CREATE SCHEMA ${schema};
    IMPORT FOREIGN SCHEMA "${directory}" ${clauses} FROM SERVER etcd INTO ${schema} ${options}`);
  const rows = await db.sql(
    `SELECT relname FROM pg_class WHERE relnamespace = '${schema}'::regnamespace ORDER BY relname COLLATE "C"`,
  );
  return { schema, names: rows.map((row) => row.relname) };
}
const ALL = ['Odd "name"\'s\\', "events", "pods", "services", "ärzte"];

test("a table for each directory, with its keys", async () => {
  const { schema, names } = await imported("");
  assert.deepEqual(names, ALL);
  const value = async (table: string) =>
    (await db.sql(`SELECT value FROM ${schema}.${table} ORDER BY key`))[0].value;
  assert.equal(await value("pods"), "p1");
  assert.equal(await value("ärzte"), "u1");
  assert.equal(await value(`"Odd ""name""'s\\"`), "o1");
  assert.equal((await db.sql(`SELECT count(*) FROM ${schema}.events`))[0].count, "3000");
  const columns = await db.sql(
    `SELECT attname, collname FROM pg_attribute LEFT JOIN pg_collation c ON c.oid = attcollation
    WHERE attrelid = '${schema}.pods'::regclass AND attnum > 0 ORDER BY attnum`,
  );
  assert.deepEqual(columns.map((row) => row.attname), [
    ...["key", "value", "create_revision", "mod_revision", "version", "lease"],
  ]);
  assert.equal(columns[0].collname, "C");
});

test("LIMIT TO and EXCEPT", async () => {
  assert.deepEqual((await imported("LIMIT TO (pods, services, nothing)")).names, ["pods", "services"]);
  assert.deepEqual(
    (await imported("EXCEPT (pods, events)")).names,
    ALL.filter((n) => n !== "pods" && n !== "events"),
  );
});

test("depth, strip_prefix, value_type, and a directory without its slash", async () => {
  const { schema, names } = await imported(
    'LIMIT TO ("pods/default", "pods/kube-system")',
    "OPTIONS (depth '2', strip_prefix 'true', value_type 'bytea')",
    "/registry",
  );
  assert.deepEqual(names, ["pods/default", "pods/kube-system"]);
  assert.deepEqual(await db.sql(`SELECT key, value::text FROM ${schema}."pods/default"`), [
    { key: "web", value: "\\x7031" },
  ]);
});

test("under a server's prefix", async () => {
  await db.sql("ALTER SERVER etcd OPTIONS (ADD prefix '/registry')");
  const { schema, names } = await imported("", "", "/pods/");
  assert.deepEqual(names, ["default", "kube-system"]);
  assert.equal(
    (await db.sql(`SELECT value FROM ${schema}.default`.replace("default", '"default"')))[0].value,
    "p1",
  );
  await db.sql("ALTER SERVER etcd OPTIONS (DROP prefix)");
});

test("an empty directory brings nothing, wrong options are told", async () => {
  assert.deepEqual((await imported("", "", "/nowhere/")).names, []);
  const statement = 'IMPORT FOREIGN SCHEMA "/registry/" FROM SERVER etcd INTO public OPTIONS';
  assert.equal((await db.failure(`${statement} (deep '1')`)).code, "HV00D");
  assert.equal((await db.failure(`${statement} (depth '-1')`)).code, "22023");
});

test("names that are no text are left out with a warning", async () => {
  await etcd.put("/bin/ok/1", "1");
  await etcd.put(Uint8Array.of(...new TextEncoder().encode("/bin/"), 0xff, 0x2f, 0x31), "1");
  const notices: string[] = [];
  const session = await db.connect();
  session.on("notice", (notice) => notices.push(`${notice.message}`));
  await session.query(`CREATE SCHEMA bin; IMPORT FOREIGN SCHEMA "/bin/" FROM SERVER etcd INTO bin`);
  await session.end();
  assert.deepEqual(notices, ['skipped directory "\\xff" of etcd: its name is not text']);
  assert.equal((await db.sql("SELECT value FROM bin.ok"))[0].value, "1");
});

test("directories whose names PostgreSQL cannot tell apart are tables all the same", async () => {
  const long = "a".repeat(62);
  await etcd.putMany(
    [`${long}x`, `${long}xy`, `${long}é`, `${long}ü`, `${long.slice(2)}_1`, "b".repeat(70)].map((
      name,
      i,
    ) => [`/long/${name}/k`, String(i)]),
  );
  const notices: string[] = [];
  const session = await db.connect();
  session.on("notice", (notice) => notices.push(`${notice.message}`));
  await session.query(`CREATE SCHEMA long; IMPORT FOREIGN SCHEMA "/long/" FROM SERVER etcd INTO long`);
  const tables = await db.sql(`SELECT relname FROM pg_class WHERE relnamespace = 'long'::regnamespace
    ORDER BY relname COLLATE "C"`);
  const shown: Record<string, string> = {};
  for (const { relname } of tables) {
    shown[relname] = (await db.sql(`SELECT value FROM long."${relname}"`))[0].value;
  }
  const a = (length: number) => "a".repeat(length);
  assert.deepEqual(shown, {
    [`${a(60)}_1`]: "4",
    [`${a(61)}_1`]: "1",
    [`${a(61)}_2`]: "3",
    [`${a(62)}`]: "2",
    [`${a(62)}x`]: "0",
    ["b".repeat(63)]: "5",
  });
  assert.deepEqual(notices.filter((text) => /directory/.test(text)), [
    `directory "${long}xy" of etcd is imported as foreign table "${a(61)}_1"`,
    `directory "${long}ü" of etcd is imported as foreign table "${a(61)}_2"`,
  ]);
  notices.length = 0;
  await session.query(`CREATE SCHEMA one; IMPORT FOREIGN SCHEMA "/long/" LIMIT TO ("${a(61)}_2")
    FROM SERVER etcd INTO one`);
  assert.equal((await db.sql(`SELECT value FROM one."${a(61)}_2"`))[0].value, "3");
  assert.equal(notices.filter((text) => /directory/.test(text)).length, 1);
  await session.end();
});

test("no rights on the server, no import", async () => {
  await db.sql("CREATE ROLE nobody; CREATE SCHEMA theirs AUTHORIZATION nobody; SET ROLE nobody");
  const error = await db.failure('IMPORT FOREIGN SCHEMA "/registry/" FROM SERVER etcd INTO theirs');
  assert.equal(error.code, "42501");
  await db.sql("RESET ROLE");
});
