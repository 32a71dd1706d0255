// Options and columns: what is wrong is said at DDL time or at first use, with the way out.

import assert from "node:assert/strict";
import { VERSION } from "../../build/paths.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, engine, test } = await suite("ddl");

const failure = (statement: string) => db.failure(statement);
const server = (options: string) => `CREATE SERVER x FOREIGN DATA WRAPPER etcd_fdw OPTIONS (${options})`;
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}')`);

test("the engine is the one that was asked for", async () => {
  assert.equal((await db.sql("SELECT etcd_fdw_engine() AS e"))[0].e, engine);
});

test("an unknown option is answered with the list of valid ones", async () => {
  const onServer = await failure(server("constr 'x'"));
  assert.equal(onServer.code, "HV00D");
  assert.match(
    onServer.hint!,
    /^Valid options in this context are: connstr, endpoints, use_tls, .*, prefix, cache, max_staleness, cache_verify\.$/,
  );
  const onTable = await failure("CREATE FOREIGN TABLE x (key text) SERVER etcd OPTIONS (perfix 'x')");
  assert.match(
    onTable.hint!,
    /prefix, strip_prefix, rowid_column, keys_only, revision, consistency, cache, max_staleness, cache_verify, key, range_end/,
  );
  const onWrapper = await failure("ALTER FOREIGN DATA WRAPPER etcd_fdw OPTIONS (ADD x 'y')");
  assert.equal(onWrapper.code, "HV00D");
});

test("values are checked when they are set", async () => {
  const bad: [string, string][] = [
    ["server", "connstr ''"],
    ["server", "connstr 'host:'"],
    ["server", "connstr 'host:0'"],
    ["server", "connstr 'host:65536'"],
    ["server", "connstr 'a:1,,b:2'"],
    ["server", "connstr '::1:2379'"],
    ["server", "connstr 'https://a:1,http://b:1'"],
    ["server", "connstr 'https://a:1', use_tls 'false'"],
    ["server", "connstr 'http://a:1', use_tls 'on'"],
    ["server", "tls_verify 'perhaps'"],
    ["server", "cafile ''"],
    ["server", "connect_timeout_ms '0'"],
    ["server", "request_timeout_ms '1.5'"],
    ["server", "max_retries '-1'"],
    ["server", "retry_backoff_ms '1s'"],
    ["table", "key_mismatch 'ignore'"],
    ["server", "connect_timeout '0'"],
    ["server", "connect_timeout '-1'"],
    ["server", "request_timeout 'soon'"],
    ["server", "request_timeout 'nan'"],
    ["table", "rowid_column 'value'"],
    ["table", "keys_only 'maybe'"],
    ["table", "strip_prefix ''"],
    ["table", "revision '-1'"],
    ["table", "revision '1x'"],
    ["table", "revision '99999999999999999999'"],
    ["table", "consistency 'x'"],
    ["table", "key ''"],
    ["table", "key 'b', range_end 'a'"],
    ["table", "key 'b', range_end 'b'"],
    ["server", "connstr '127.0.0.1;39431'"],
    ["server", "connstr 'a:1;b:2'"],
    ["server", "connstr 'a|b:1'"],
    ["server", "connstr 'ftp://a:1'"],
    ["table", "key_pattern '/a/{key'"],
    ["table", "key_pattern '/a/key}'"],
    ["table", "key_pattern '/a/{{key}}'"],
    ["table", "key_pattern '/a'"],
    ["table", "key_pattern '/{a}{b}'"],
    ["table", "key_pattern '/{a}/{a}'"],
    ["table", "key_pattern '/{a*}/{b}'"],
    ["table", "key_pattern '/{*}'"],
    ["table", "key_pattern ''"],
    ["column", "json ''"],
    ["column", "json 'a..b'"],
    ["column", "json '.a'"],
    ["column", "json 'a.'"],
  ];
  for (const [object, options] of bad) {
    const error = await failure(
      object === "server"
        ? server(options)
        : object === "column"
        ? `CREATE FOREIGN TABLE x (key text, f text OPTIONS (${options})) SERVER etcd`
        : `CREATE FOREIGN TABLE x (key text) SERVER etcd OPTIONS (${options})`,
    );
    assert.equal(error.code, "22023", options);
    assert.ok(error.hint, options);
  }
  assert.equal(
    (await failure("CREATE FOREIGN TABLE x (key text) SERVER etcd OPTIONS (range_end 'a')")).code,
    "HV00D",
  );
  for (
    const options of [
      "connstr 'a:1', endpoints 'b:1'",
      "connect_timeout '1', connect_timeout_ms '1000'",
      "cafile '/a', ssl_ca '/a'",
      "keyfile '/a'",
      "password 'x'",
    ]
  ) assert.equal((await failure(server(options))).code, "HV00D", options);
});

test("endpoints is connstr under its other name, and lists are tried until one answers", async () => {
  await db.sql(`CREATE SERVER named FOREIGN DATA WRAPPER etcd_fdw
    OPTIONS (endpoints '127.0.0.1:1, http://${
    etcd.endpoints[0]
  }/', connect_timeout '2', request_timeout '0.5')`);
  await db.sql(
    "CREATE FOREIGN TABLE named (key text) SERVER named OPTIONS (prefix '/ddl/', rowid_column 'key')",
  );
  await etcd.put("/ddl/a", "1");
  assert.deepEqual(await db.sql("SELECT key FROM named"), [{ key: "/ddl/a" }]);
});

test("an unknown column names the column and the way out", async () => {
  await db.sql("CREATE FOREIGN TABLE unknown_column (key text, owner text) SERVER etcd");
  const unknown = await failure("SELECT key FROM unknown_column");
  assert.equal(unknown.code, "HV007");
  assert.match(unknown.message, /"owner".*"unknown_column"/);
  assert.match(unknown.hint!, /key, value, create_revision, mod_revision, version, lease/);
});

test("EXPLAIN shows the request", async () => {
  const lines = async (query: string) =>
    (await db.sql(`EXPLAIN (COSTS OFF) ${query}`)).map((row) => row["QUERY PLAN"].trim());
  assert.ok((await lines("SELECT * FROM named WHERE key = '/ddl/a'")).includes('Etcd Key: "/ddl/a"'));
  assert.ok(
    (await lines("SELECT * FROM named WHERE key LIKE '/ddl/\\_%'")).includes(
      'Etcd Range: ["/ddl/_", "/ddl/`")',
    ),
  );
  assert.ok(
    (await lines("SELECT * FROM named WHERE key = '/x'")).includes("Etcd Request: none, no key can match"),
  );
  const rechecked = await lines("SELECT * FROM named WHERE key LIKE '/ddl/%a'");
  assert.ok(rechecked.some((line) => line.startsWith("Filter: (key ~~")), rechecked.join("\n"));
});

test("only a superuser changes the engine, and nobody else calls core", async () => {
  await db.sql("CREATE ROLE plain; GRANT ALL ON SCHEMA public TO plain; GRANT SELECT ON named TO plain");
  await db.sql("SET ROLE plain");
  assert.equal((await failure("SELECT etcd_fdw_use_engine('embedded')")).code, "42501");
  assert.equal((await failure("SELECT etcd_fdw_dispatch('about', '{}', '')")).code, "42501");
  assert.deepEqual(await db.sql("SELECT key FROM named"), [{ key: "/ddl/a" }]);
  await db.sql("RESET ROLE");
  assert.equal((await failure("SELECT etcd_fdw_use_engine('v9')")).code, "22023");
  assert.equal((await db.sql(`SELECT etcd_fdw_use_engine('${engine}') AS e`))[0].e, engine);
});

const testOnPlv8 = engine === "plv8" ? test : () => {};

testOnPlv8("a user of plv8 cannot put code of their own in core's place", async () => {
  await db.sql(
    `DO $$ BEGIN CREATE ROLE mallory LOGIN; END $$; GRANT ALL ON SCHEMA public TO mallory; GRANT SELECT ON named TO mallory`,
  );
  const mallory = await db.connect("mallory");
  try {
    await mallory.query(
      `DO $$ globalThis["__etcd_fdw ${VERSION}"] = { dispatch: () => ({ control: '{"do":"done"}', payload: new Uint8Array(0) }) } $$ LANGUAGE plv8`,
    );
    assert.deepEqual((await mallory.query("SELECT key FROM named")).rows, [{ key: "/ddl/a" }]);
  } finally {
    await mallory.end();
  }
  const late = await db.connect("mallory");
  try {
    await late.query(
      `CREATE FUNCTION evil() RETURNS void LANGUAGE plv8 AS $$ plv8.execute('CREATE ROLE evil_was_here') $$`,
    );
    await late.query("SET plv8.start_proc = 'evil'");
    assert.deepEqual((await late.query("SELECT key FROM named")).rows, [{ key: "/ddl/a" }]);
  } finally {
    await late.end();
  }
  const early = await db.connect("mallory");
  try {
    await early.query("SET plv8.start_proc = 'evil'");
    assert.deepEqual((await early.query("SELECT key FROM named")).rows, [{ key: "/ddl/a" }]);
  } finally {
    await early.end();
  }
  assert.deepEqual(await db.sql("SELECT 1 FROM pg_roles WHERE rolname = 'evil_was_here'"), []);
});
