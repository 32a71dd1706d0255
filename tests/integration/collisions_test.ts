// Rows of one statement, or of one transaction, that meet on a key: nothing is lost without an error.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("collisions");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE t (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/t/');
  CREATE FOREIGN TABLE over (key text, value text) SERVER etcd OPTIONS (prefix '/t/', upsert 'true')`);

async function begin(rows: Record<string, string>): Promise<void> {
  await etcd.client.deletePrefix("/t/");
  for (const [key, value] of Object.entries(rows)) await etcd.put(key, value);
}
const code = (statement: string) => db.sql(statement).then(() => "", (error: SqlError) => error.code);
const held = async () =>
  Object.fromEntries((await db.sql("SELECT key, value FROM t")).map(({ key, value }) => [key, value]));

for (const block of [false, true]) {
  const run = async (statement: string) => {
    if (!block) return await code(statement);
    await db.sql("BEGIN");
    const result = await code(statement);
    return result || await code("COMMIT") || (await db.sql("ROLLBACK"), "");
  };
  const where = block ? "in a transaction block" : "by itself";

  test(`an UPDATE that renames a key onto another one of the statement is refused, ${where}`, async () => {
    const rows = { "/t/1": "a", "/t/2": "b", "/t/3": "c" };
    for (
      const key of ["CASE key WHEN '/t/1' THEN '/t/2' ELSE '/t/1' END", "'/t/' || (substr(key, 4)::int + 1)"]
    ) {
      await begin(rows);
      assert.equal(
        await run(`UPDATE t SET key = ${key} WHERE key <> '/t/3' OR ${key} LIKE '/t/4'`),
        "23505",
        key,
      );
      await db.sql("ROLLBACK");
      assert.deepEqual(await held(), rows);
    }
  });

  test(`an INSERT that collides with a row which the statement deletes is refused, ${where}`, async () => {
    await begin({ "/t/1": "old" });
    const statement = "WITH d AS (DELETE FROM t WHERE key = '/t/1') INSERT INTO t VALUES ('/t/1', 'new')";
    assert.equal(await run(statement), "23505");
    await db.sql("ROLLBACK");
    assert.deepEqual(await held(), { "/t/1": "old" });
  });
}

test("an INSERT of a key that exists is refused, though the transaction deletes it again", async () => {
  await begin({ "/t/1": "old" });
  assert.equal(await code("DO $$ BEGIN INSERT INTO t VALUES ('/t/1', 'x'); DELETE FROM t; END $$"), "23505");
  assert.equal(
    await code("DO $$ BEGIN INSERT INTO t VALUES ('/t/1', 'x'); DELETE FROM t WHERE key = '/t/1'; END $$"),
    "23505",
  );
  assert.deepEqual(await held(), { "/t/1": "old" });
});

test("on a table with upsert, rows change places", async () => {
  await begin({ "/t/1": "a", "/t/2": "b" });
  assert.equal(await code("UPDATE over SET key = CASE key WHEN '/t/1' THEN '/t/2' ELSE '/t/1' END"), "");
  assert.deepEqual(await held(), { "/t/1": "b", "/t/2": "a" });
});

/** What a statement does to a table of each kind that has these rows: its error if any, and what is there then. */
async function onTable(table: string, rows: Record<string, string>, statements: string[]) {
  await db.sql(`TRUNCATE ${table}`);
  for (const [key, value] of Object.entries(rows)) {
    await db.sql(`INSERT INTO ${table} VALUES ($1, $2)`, [key, value]);
  }
  const results = [];
  for (const statement of statements) {
    results.push(
      await db.sql(statement.replaceAll("%", table)).then(
        (found) => ({ found }),
        ({ code, message, hint }: SqlError) => ({ code, message, hint }),
      ),
    );
  }
  await db.sql("ROLLBACK").catch(() => {});
  return { results, rows: await db.sql(`SELECT key, value FROM ${table} ORDER BY key COLLATE "C"`) };
}

/** Functions that change rows of a table of their own statement; `%` is the table. */
await db.sql("CREATE TABLE l (key text PRIMARY KEY, value text)");
for (const table of ["l", "t"]) {
  await db.sql(
    `CREATE FUNCTION fee_%(k text) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN UPDATE % SET value = (value::int - 1)::text WHERE key = k; RETURN 0; END $$;
      CREATE FUNCTION gone_%(k text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN DELETE FROM % WHERE key = k; RETURN ''; END $$;
      CREATE FUNCTION range_%(k text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN DELETE FROM % WHERE key >= k AND key <= k; RETURN ''; END $$;
      CREATE FUNCTION back_%(k text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        BEGIN UPDATE % SET value = 'no' WHERE key = k; RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN NULL; END;
        RETURN 0; END $$;
      CREATE FUNCTION other_%(k text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        UPDATE % SET value = value || 'i' WHERE key = CASE k WHEN '/t/1' THEN '/t/2' ELSE '/t/1' END; RETURN ''; END $$;
      CREATE FUNCTION before_%() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE % SET value = '7' WHERE key = OLD.key AND value <> '7'; RETURN COALESCE(NEW, OLD); END $$;
      CREATE FUNCTION caught_%() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        UPDATE % SET value = (value::int - 50 - fee_%(key))::text; RETURN 'changed';
        EXCEPTION WHEN triggered_data_change_violation THEN RETURN 'refused'; END $$`.replaceAll("%", table),
  );
}

const OWN_CHANGES: [name: string, statements: string[]][] = [
  ["an UPDATE of a row that its function updates", [
    "UPDATE % SET value = (value::int - 50 - fee_%(key))::text WHERE key = '/t/1'",
  ]],
  ["a row after the first", ["UPDATE % SET value = CASE key WHEN '/t/2' THEN fee_%(key) ELSE 5 END"]],
  ["an UPDATE of a row that its function deletes", [
    "UPDATE % SET value = '5' || gone_%(key) WHERE key = '/t/1'",
  ]],
  ["one that its function deletes by a range", [
    "UPDATE % SET value = '5' || range_%(key) WHERE key = '/t/1'",
  ]],
  ["a DELETE of a row that its function updates", ["DELETE FROM % WHERE fee_%(key) = 0"]],
  ["a DELETE of a row that its function deletes", ["DELETE FROM % WHERE gone_%(key) = ''"]],
  ["a DELETE by a range that its function changes", [
    "DELETE FROM % WHERE key = (SELECT '/t/1' || gone_%('/t/1'))",
  ]],
  ...["DELETE FROM % WHERE key IN (SELECT key FROM a)", "UPDATE % SET value = '5' FROM a WHERE %.key = a.key"]
    .map(
      (
        change,
      ): [string, string[]] => [`a row that a function deletes and the statement inserts again: ${change}`, [
        `WITH a AS (INSERT INTO % VALUES ('/t/1', gone_%('/t/1') || '7') RETURNING key) ${change}`,
      ]],
    ),
  ["two rows whose functions update each other", ["UPDATE % SET value = value || 'o' || other_%(key)"]],
  ["a row that was written before", [
    "BEGIN",
    "UPDATE % SET value = '70'",
    "UPDATE % SET value = (value::int - 50 - fee_%(key))::text WHERE key = '/t/1'",
  ]],
  ["a row of the transaction's own", [
    "BEGIN",
    "INSERT INTO % VALUES ('/t/3', '30')",
    "UPDATE % SET value = '5' || gone_%(key) WHERE key = '/t/3'",
  ]],
  ["an error that is caught", ["SELECT caught_%() AS r", "SELECT caught_%() AS r"]],
  ["a change of the function that was taken back", ["UPDATE % SET value = '5' || back_%(key)"]],
  ["functions that change rows after the statement has", [
    "UPDATE % SET value = CASE key WHEN '/t/2' THEN fee_%('/t/1') ELSE 5 END WHERE key <> '/t/none'",
  ]],
  ["a BEFORE UPDATE trigger that changes the row", [
    "CREATE TRIGGER b BEFORE UPDATE ON % FOR EACH ROW WHEN (NEW.value <> '7') EXECUTE FUNCTION before_%()",
    "UPDATE % SET value = '5' WHERE key = '/t/1'",
    "DROP TRIGGER b ON %",
  ]],
  ["a BEFORE DELETE trigger that changes the row", [
    "CREATE TRIGGER b BEFORE DELETE ON % FOR EACH ROW EXECUTE FUNCTION before_%()",
    "DELETE FROM % WHERE key = '/t/1'",
    "DROP TRIGGER b ON %",
  ]],
];

for (const [name, statements] of OWN_CHANGES) {
  test(`as with a local table, what a statement does to rows that its functions change: ${name}`, async () => {
    const rows = { "/t/1": "100", "/t/2": "200" };
    const local = await onTable("l", rows, statements);
    assert.deepEqual(await onTable("t", rows, statements), local);
  });
}

const OWN_PARTS: [name: string, statement: string][] = [
  [
    "DELETE in WITH, UPDATE",
    "WITH d AS (DELETE FROM % WHERE key >= '/t/1' AND key <= '/t/2') UPDATE % SET value = 'kept'",
  ],
  [
    "UPDATE in WITH, DELETE",
    `WITH u AS (UPDATE % SET value = 'kept' WHERE key = '/t/1' RETURNING *)
    DELETE FROM % WHERE key >= '/t/1' AND key <= '/t/2'`,
  ],
  [
    "UPDATE in WITH that is read first",
    `WITH u AS (UPDATE % SET value = 'kept' WHERE key = '/t/1' RETURNING *)
    DELETE FROM % WHERE key >= '/t/1' AND key <= '/t/2' AND (SELECT count(*) FROM u) = 1`,
  ],
  ["two DELETEs", "WITH d AS (DELETE FROM % WHERE key <= '/t/2') DELETE FROM % WHERE key >= '/t/1'"],
  [
    "a SELECT of both",
    `WITH u AS (UPDATE % SET value = 'kept' WHERE key = '/t/2' RETURNING *), d AS (DELETE FROM % WHERE key >= '/t/1')
    SELECT count(*) FROM u`,
  ],
];

for (const [name, statement] of OWN_PARTS) {
  test(`as with a local table, each row is changed once by the parts of a statement: ${name}`, async () => {
    const rows = { "/t/1": "1", "/t/2": "2", "/t/3": "3" };
    const counted = async (table: string) => {
      const found = await onTable(table, rows, [statement]);
      await onTable(table, rows, []);
      const client = await db.connect();
      try {
        return { ...found, count: (await client.query(statement.replaceAll("%", table))).rowCount };
      } finally {
        await client.end();
      }
    };
    const local = await counted("l");
    assert.deepEqual(await counted("t"), local);
  });
}

test("the error says what local tables say", async () => {
  await begin({ "/t/1": "1" });
  const error = await db.failure("UPDATE t SET value = fee_t(key)");
  assert.equal(error.code, "27000");
  assert.match(error.message, /tuple to be updated was already modified by an operation triggered/);
  assert.match(error.hint!, /AFTER trigger/);
  assert.deepEqual(await held(), { "/t/1": "1" });
});

test("with write_mode 'immediate', a change of the row by the statement's own function is refused too", async () => {
  await db.sql(`CREATE FOREIGN TABLE i (key text, value text) SERVER etcd
      OPTIONS (prefix '/t/', write_mode 'immediate');
    CREATE FUNCTION fee_i(k text) RETURNS int LANGUAGE plpgsql AS
      $$ BEGIN UPDATE i SET value = (value::int - 1)::text WHERE key = k; RETURN 0; END $$`);
  for (const statement of ["UPDATE i SET value = fee_i(key)::text", "DELETE FROM i WHERE fee_i(key) = 0"]) {
    await begin({ "/t/1": "100" });
    assert.match(await code(statement), /^(27000|40001)$/, statement);
    assert.deepEqual(await held(), { "/t/1": "99" });
  }
});
