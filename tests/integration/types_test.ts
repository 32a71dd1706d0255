// What columns can be: any type through its own input function, fields of JSON values, parts of keys; and what is said when
// a value is not one of its type.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";
import { explain, property } from "../helpers/twin.ts";

const { db, etcd, test } = await suite("types");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE TYPE mood AS ENUM ('calm', 'upset');
  CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100)`);

let tables = 0;
/** A table with one value, read as this type; the rows as text, or the error. */
async function readAs(type: string, value: string) {
  const name = `v${++tables}`;
  await etcd.put(`/ty/${name}`, value);
  await db.sql(
    `CREATE FOREIGN TABLE ${name} (key text, value ${type}) SERVER etcd OPTIONS (prefix '/ty/${name}')`,
  );
  return (await db.sql(`SELECT value::text FROM ${name}`))[0].value as string;
}

test("a value is of its column's type, as a literal would be", async () => {
  const cases: [string, string, string?][] = [
    ["text", "plain"],
    ["varchar", "plain"],
    ["varchar(5)", "plain"],
    ["char(8)", "plain", "plain"],
    ["name", "plain"],
    ["bytea", "\\x00", "\\x5c783030"],
    ["json", '{"a": [1,  2]}'],
    ["jsonb", '{"b":1,"a":9007199254740993}', '{"a": 9007199254740993, "b": 1}'],
    ["numeric", "123456789012345678901234567890.5"],
    ["numeric(6,2)", "3.14159", "3.14"],
    ["smallint", "-7"],
    ["int", " 42 ", "42"],
    ["bigint", "9223372036854775807"],
    ["real", "1.5"],
    ["double precision", "1e300", "1e+300"],
    ["boolean", "on", "true"],
    ["timestamptz", "2026-01-02 03:04:05.678+00", "2026-01-02 03:04:05.678+00"],
    ["date", "2026-01-02"],
    ["interval", "90 minutes", "01:30:00"],
    ["uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    ["inet", "10.0.0.1/8"],
    ["int[]", "{1,NULL,3}"],
    ["mood", "upset"],
    ["percent", "99"],
  ];
  await db.sql("SET timezone = 'UTC'");
  for (const [type, value, shown] of cases) assert.equal(await readAs(type, value), shown ?? value, type);
});

test("a value that is none is its type's own error, with table, column and key", async () => {
  const cases: [string, string, string][] = [
    ["int", "many", "22P02"],
    ["int", "99999999999", "22003"],
    ["varchar(3)", "plain", "22001"],
    ["jsonb", "{", "22P02"],
    ["uuid", "x", "22P02"],
    ["mood", "elated", "22P02"],
    ["percent", "101", "23514"],
    ["timestamptz", "yesterday-ish", "22007"],
    ["int", "", "22P02"],
  ];
  for (const [type, value, code] of cases) {
    const error = await readAs(type, value).then(() => null, (error) => error);
    assert.equal(error?.code, code, `${type} ${value}`);
    assert.match(
      error.where,
      new RegExp(`column "value" of foreign table "v${tables}", etcd key "/ty/v${tables}"`),
    );
  }
});

test("a typed value is compared by PostgreSQL, as its type", async () => {
  await etcd.putMany([9, 10, 100].map((n): [string, string] => [`/num/${n}`, String(n)]));
  await db.sql("CREATE FOREIGN TABLE num (key text, value int) SERVER etcd OPTIONS (prefix '/num/')");
  assert.deepEqual(await db.sql("SELECT value FROM num WHERE value > 9 ORDER BY value DESC LIMIT 1"), [
    { value: 100 },
  ]);
  assert.deepEqual((await db.sql("SELECT sum(value) FROM num WHERE key ^@ '/num/1'"))[0].sum, "110");
});

test("the key may be of another type too, and then nothing is pushed that would not be exact", async () => {
  await db.sql(`CREATE FOREIGN TABLE nk (key int) SERVER etcd OPTIONS (prefix '/num/', strip_prefix 'true');
    CREATE FOREIGN TABLE vk (key varchar COLLATE "C") SERVER etcd OPTIONS (prefix '/num/', strip_prefix 'true')`);
  assert.deepEqual(await db.sql("SELECT key FROM nk WHERE key >= 10 ORDER BY key"), [{ key: 10 }, {
    key: 100,
  }]);
  assert.deepEqual(await db.sql("SELECT key FROM nk WHERE key = 9"), [{ key: 9 }]);
  assert.deepEqual(await db.sql("SELECT key FROM vk WHERE key = '10'"), [{ key: "10" }]);
  assert.deepEqual(await db.sql("SELECT key FROM vk WHERE key > '10' ORDER BY key"), [{ key: "100" }, {
    key: "9",
  }]);
  const error = await db.failure(
    "CREATE FOREIGN TABLE bad (key int) SERVER etcd OPTIONS (prefix '/ty/'); SELECT * FROM bad",
  );
  assert.equal(error.code, "22P02");
});

await etcd.putMany([
  [
    "/app/one",
    '{"name": "one", "port": 8080, "big": 123456789012345678901234567890.123, "on": true,' +
    ' "db": {"host": "h1", "tags": ["x", "y"]}, "a.b": 1, "since": "2026-01-02T03:04:05Z", "none": null}',
  ],
  ["/app/two", '{"name": "zwei \\u00e4", "port": 9090, "on": false, "db": {"host": null}}'],
]);

test("fields of a JSON value are columns of any type", async () => {
  await db.sql(`CREATE FOREIGN TABLE app (
      key text, name text OPTIONS (json 'name'), port int OPTIONS (json 'port'), big numeric OPTIONS (json 'big'),
      "on" boolean OPTIONS (json 'on'), host text OPTIONS (json 'db.host'), tag text OPTIONS (json 'db.tags.1'),
      db jsonb OPTIONS (json 'db'), since timestamptz OPTIONS (json 'since'), none int OPTIONS (json 'none'),
      missing text OPTIONS (json 'no.such'), value json
    ) SERVER etcd OPTIONS (prefix '/app/', strip_prefix 'true')`);
  const rows = await db.sql(
    `SELECT key, name, port, big::text, "on", host, tag, db::text, since::text, none, missing
    FROM app ORDER BY key`,
  );
  assert.deepEqual(rows, [
    {
      key: "one",
      name: "one",
      port: 8080,
      big: "123456789012345678901234567890.123",
      on: true,
      host: "h1",
      tag: "y",
      db: '{"host": "h1", "tags": ["x", "y"]}',
      since: "2026-01-02 03:04:05+00",
      none: null,
      missing: null,
    },
    {
      key: "two",
      name: "zwei ä",
      port: 9090,
      big: null,
      on: false,
      host: null,
      tag: null,
      db: '{"host": null}',
      since: null,
      none: null,
      missing: null,
    },
  ]);
  assert.deepEqual(await db.sql('SELECT key FROM app WHERE port > 9000 AND NOT "on"'), [{ key: "two" }]);
  // What is not asked for is not fetched.
  assert.equal(property(await explain(db, "SELECT key FROM app", "VERBOSE, "), "Etcd Keys Only"), "true");
  assert.equal(property(await explain(db, "SELECT port FROM app", "VERBOSE, "), "Etcd Keys Only"), undefined);
});

test("a value that is no JSON, or a field of another type, names itself", async () => {
  await etcd.put("/bad/1", "not json");
  await etcd.put("/bad/2", '{"port": "http"}');
  await db.sql(`CREATE FOREIGN TABLE bad_json (key text, port int OPTIONS (json 'port')) SERVER etcd
    OPTIONS (prefix '/bad/')`);
  const broken = await db.failure("SELECT * FROM bad_json WHERE key = '/bad/1'");
  assert.match(broken.where!, /column "port" of foreign table "bad_json", etcd key "\/bad\/1"/);
  const wrong = await db.failure("SELECT * FROM bad_json WHERE key = '/bad/2'");
  assert.match(wrong.message, /invalid input syntax for type integer: "http"/);
  assert.match(wrong.where!, /key "\/bad\/2"/);
  // Whoever does not ask for the column does not meet the error.
  assert.equal((await db.sql("SELECT key FROM bad_json")).length, 2);
  await db.sql("ALTER FOREIGN TABLE bad_json ALTER port OPTIONS (SET json '')").then(
    () => assert.fail("an empty path was taken"),
    (error) => assert.equal(error.code, "22023"),
  );
});

await etcd.putMany([
  ["/registry/pods/default/web", "1"],
  ["/registry/pods/default/db", "2"],
  ["/registry/pods/kube-system/dns", "3"],
  ["/registry/services/default/web", "4"],
  ["/registry/namespaces/default", "5"],
  ["/registry/pods/default/web/extra", "6"],
  ["/registry/podsx/default/web", "7"],
]);
await db.sql(`CREATE FOREIGN TABLE registry (kind text, ns text, name text, value text, key text COLLATE "C")
  SERVER etcd OPTIONS (key_pattern '/registry/{kind}/{ns}/{name}')`);

test("parts of the key are columns, and the leading ones narrow what is asked for", async () => {
  assert.deepEqual(
    (await db.sql("SELECT kind, ns, name, value FROM registry ORDER BY value")).map((row) =>
      Object.values(row).join(" ")
    ),
    [
      "pods default web 1",
      "pods default db 2",
      "pods kube-system dns 3",
      "services default web 4",
      "podsx default web 7",
    ],
  );
  const ranges = async (where: string) => {
    const lines = await explain(db, `SELECT value FROM registry WHERE ${where}`);
    return property(lines, "Etcd Range") ?? property(lines, "Etcd Key") ?? lines.join("\n");
  };
  assert.equal(await ranges("kind = 'pods'"), '["/registry/pods/", "/registry/pods0")');
  assert.equal(
    await ranges("ns = 'default' AND kind = 'pods'"),
    '["/registry/pods/default/", "/registry/pods/default0")',
  );
  assert.equal(
    await ranges("kind = 'pods' AND ns = 'default' AND name = 'web'"),
    '"/registry/pods/default/web"',
  );
  assert.equal(await ranges("ns = 'default'"), '["/registry/", "/registry0")');
  for (
    const [where, values] of [
      ["kind = 'pods'", ["1", "2", "3"]],
      ["kind = 'pods' AND ns = 'default' AND name = 'web'", ["1"]],
      ["kind = 'pods/default'", []],
      ["kind = '' ", []],
      ["kind IN ('services', 'podsx')", ["4", "7"]],
      ["name = 'web' AND kind LIKE 'pod%'", ["1", "7"]],
      ["key > '/registry/pods/default/web'", ["3", "4", "7"]],
    ] as [string, string[]][]
  ) {
    const rows = await db.sql(`SELECT value FROM registry WHERE ${where} ORDER BY 1`);
    assert.deepEqual(rows.map((row) => row.value), values, where);
  }
  assert.equal((await db.sql("SELECT count(*) FROM registry"))[0].count, "5");
  assert.equal((await db.sql("SELECT kind FROM registry LIMIT 1 OFFSET 4")).length, 1);
});

test("a key that does not match is skipped, or an error where the table says so", async () => {
  await db.sql("ALTER FOREIGN TABLE registry OPTIONS (ADD key_mismatch 'error')");
  const error = await db.failure("SELECT kind FROM registry");
  assert.equal(error.code, "22000");
  assert.match(error.message, /"\/registry\/namespaces\/default".*"registry"/);
  assert.ok(error.hint);
  assert.equal((await db.sql("SELECT kind FROM registry WHERE kind = 'services'")).length, 1);
  await db.sql("ALTER FOREIGN TABLE registry OPTIONS (DROP key_mismatch)");
});

test("the last placeholder takes the rest of the key with a star", async () => {
  await db.sql(`CREATE FOREIGN TABLE rest (kind text, ns text, name text, value text)
    SERVER etcd OPTIONS (key_pattern '/registry/{kind}/{ns}/{name*}')`);
  assert.deepEqual(await db.sql("SELECT name FROM rest WHERE kind = 'pods' AND value = '6'"), [{
    name: "web/extra",
  }]);
  assert.deepEqual(
    await db.sql("SELECT value FROM rest WHERE kind = 'pods' AND ns = 'default' AND name = 'web/extra'"),
    [
      { value: "6" },
    ],
  );
});

test("a pattern that cannot be read says what is wrong with it", async () => {
  for (const pattern of ["/registry/", "/{a}{b}", "/{a}/{a}", "/{a*}/{b}", "/{a", "/{}"]) {
    const error = await db.failure(
      `CREATE FOREIGN TABLE p (a text, b text) SERVER etcd OPTIONS (key_pattern '${pattern}');
      SELECT * FROM p`,
    );
    assert.equal(error.code, "22023", pattern);
    assert.match(error.message, /key_pattern/);
  }
});

test("parts of keys may be of other types", async () => {
  await etcd.putMany([["/m/2026-01-02/7", "x"], ["/m/2026-01-03/8", "y"]]);
  await db.sql(
    `CREATE FOREIGN TABLE m (day date, n int, value text) SERVER etcd OPTIONS (key_pattern '/m/{day}/{n}')`,
  );
  assert.deepEqual(await db.sql("SELECT n FROM m WHERE day > '2026-01-02'"), [{ n: 8 }]);
  assert.deepEqual(await db.sql("SELECT value FROM m WHERE n = 7"), [{ value: "x" }]);
});
