// What a user who wishes ill can reach: objects of his in the extension's schema, settings, servers of his own, and the ways
// by which others run his or their code.

import assert from "node:assert/strict";
import type pg from "pg";
import { decodeUtf8 } from "../../src/base/bytes.ts";
import { run } from "../../build/run.ts";
import { findPostgres } from "../../build/postgres.ts";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, engine, test } = await suite("hostile");
const endpoint = etcd.endpoints[0];
await db.sql("CREATE ROLE mallory LOGIN; CREATE ROLE alice LOGIN; CREATE ROLE app LOGIN");

/** Runs the test as this user, in a session of its own. */
async function as(
  user: string,
  body: (client: pg.Client) => Promise<void>,
  database?: string,
  settings?: string[],
) {
  const client = await db.connect(user, database, settings);
  try {
    await body(client);
  } finally {
    await client.end();
  }
}
const code = (client: pg.Client, statement: string) =>
  client.query(statement).then(() => "", (error: SqlError) => error.code);

/** Types that the extension's SQL has values of; each pair gets each operator. */
const TYPES = [
  "oid",
  "regnamespace",
  "name",
  "text",
  "bigint",
  "integer",
  "double precision",
  "timestamptz",
  "interval",
  "boolean",
  "text[]",
  "varchar",
];
const OPERATORS = ["=", "<>", "/", "-", "+", "||", "~~", "!~~", "<", ">"];

/** SQL that fills a schema with objects which look like pg_catalog's, only nearer, and tell when they are used. */
function decoys(schema: string): string {
  const statements = [`CREATE TABLE ${schema}.caught (what text)`, `GRANT ALL ON ${schema}.caught TO PUBLIC`];
  const body = (type: string) =>
    `LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ${schema}.caught VALUES ('${type}'); RAISE 'decoy ${type}'; END $$`;
  for (const left of TYPES) {
    for (const right of TYPES) {
      const name = `${schema}.decoy_op`;
      statements.push(
        `CREATE FUNCTION ${name}(a ${left}, b ${right}) RETURNS boolean ${body(`${left} op ${right}`)}`,
      );
      for (const operator of OPERATORS) {
        // Where pg_catalog has the very same, it comes first.
        statements.push(
          `CREATE OPERATOR ${schema}.${operator} (FUNCTION = ${name}, LEFTARG = ${left}, RIGHTARG = ${right})`,
        );
      }
    }
  }
  for (
    const call of [
      "format(text, text)",
      "format(text, text, text)",
      "format(varchar, varchar)",
      "min(timestamptz)",
      "clock_timestamp(integer DEFAULT 1)",
      "current_database(integer DEFAULT 1)",
      "replace(text, text, varchar)",
      "has_server_privilege(oid, name)",
      "pg_has_role(name, name)",
      "etcd_fdw_use_engine(name)",
      "etcd_fdw_use_engine(integer)",
      "etcd_status(name)",
      "etcd_status(varchar)",
      "etcd_fdw_certificates(name)",
      "etcd_fdw_certificate_rows(name)",
      "etcd_fdw_certificate_rows(varchar)",
    ]
  ) {
    statements.push(`CREATE FUNCTION ${schema}.${call} RETURNS text ${body(call.replace(/\W/g, " "))}`);
  }
  statements.push(`CREATE DOMAIN ${schema}.int8 AS text; CREATE DOMAIN ${schema}.timestamptz AS text`);
  return statements.join(";\n");
}

test("CREATE EXTENSION and all its SQL run nothing that stands in a hostile schema", async () => {
  await db.sql("CREATE DATABASE hostile OWNER mallory");
  await as("mallory", async (client) => {
    await client.query("CREATE SCHEMA trap");
    await client.query(decoys("trap"));
  }, "hostile");
  await as("postgres", async (client) => {
    if (engine === "plv8") await client.query("CREATE EXTENSION plv8");
    await client.query("CREATE EXTENSION etcd_fdw SCHEMA trap");
    assert.deepEqual((await client.query("SELECT * FROM trap.caught")).rows, []);
    await client.query(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${endpoint}')`);
    // The worst that a superuser can have set.
    await client.query("SET search_path = trap, pg_catalog");
    for (
      const use of [
        "trap.etcd_fdw_stat",
        "trap.etcd_fdw_proxy",
        "trap.etcd_fdw_cert_expiry",
        "trap.etcd_fdw_version()",
        "trap.etcd_fdw_certificates('etcd'::text)",
        "trap.etcd_fdw_server_cert_expiry('etcd'::text)",
        "trap.etcd_get('etcd'::text, 'x'::text)",
        "trap.etcd_fdw_use_engine(trap.etcd_fdw_engine())",
      ]
    ) await client.query(`SELECT * FROM ${use}`);
    await client.query(
      "CREATE FOREIGN TABLE trap.t (key text, value text, mod_revision pg_catalog.int8) SERVER etcd",
    );
    await client.query("SELECT * FROM trap.t; EXPLAIN VERBOSE SELECT * FROM trap.t");
    assert.deepEqual((await client.query("SELECT * FROM trap.caught")).rows, []);
    await client.query("DROP EXTENSION etcd_fdw CASCADE");
    await client.query("CREATE EXTENSION etcd_fdw SCHEMA trap VERSION '0.1.0'");
    await client.query("ALTER EXTENSION etcd_fdw UPDATE");
    assert.deepEqual((await client.query("SELECT * FROM trap.caught")).rows, []);
  }, "hostile");
});

test("a short form in a SECURITY DEFINER function goes where its owner or a superuser wants it", async () => {
  await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${endpoint}');
    GRANT USAGE ON FOREIGN SERVER etcd TO app, alice, mallory;
    GRANT USAGE ON FOREIGN DATA WRAPPER etcd_fdw TO mallory;
    CREATE FUNCTION note(v text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT etcd_put('/note', v) $$;
    ALTER FUNCTION note(text) OWNER TO app`);
  await as("mallory", async (client) => {
    await client.query(`CREATE SERVER mine FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '127.0.0.1:1');
      GRANT USAGE ON FOREIGN SERVER mine TO PUBLIC`);
    // His server makes nobody's short form ambiguous, and takes nobody's write.
    await client.query("SELECT note('a')");
    await client.query("SET etcd_fdw.default_server = 'mine'");
    await client.query("SELECT note('b')");
  });
  assert.equal(decodeUtf8((await etcd.client.get("/note"))!.value), "b");
  await as("alice", async (client) => {
    assert.equal((await client.query("SELECT etcd_get('/note') AS v")).rows[0].v, "b");
  });
  // What the owner has written down for the function counts.
  await db.sql("ALTER FUNCTION note(text) SET etcd_fdw.default_server = 'mine'");
  await as("alice", async (client) => assert.equal(await code(client, "SELECT note('c')"), "08001"));
  await db.sql("DROP FUNCTION note(text)");
});

test("with options updatable and prefix, a server is read-only, or one for a prefix, for functions too", async () => {
  await db.sql(
    `CREATE SERVER shown FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${endpoint}', updatable 'false');
    CREATE SERVER part FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${endpoint}', prefix '/part/');
    CREATE FOREIGN TABLE part_all (key text, value text) SERVER part`,
  );
  await etcd.put("/other", "1");
  for (
    const [statement, expected] of [
      ["SELECT etcd_get('shown', '/other')", ""],
      ["SELECT * FROM etcd_range('shown', '', prefix => true)", ""],
      ["SELECT etcd_put('shown', '/other', '2')", "42501"],
      ["SELECT etcd_delete('shown', '/other')", "42501"],
      [`SELECT etcd_txn('shown', '{"success": [{"put": {"key": "/other", "value": "2"}}]}')`, "42501"],
      [`SELECT etcd_txn('shown', '{"success": [{"get": {"key": "/other"}}]}')`, ""],
      ["SELECT etcd_lock('shown', 'l')", "42501"],
      ["SELECT etcd_lease_grant('shown', ttl => '5 s')", "42501"],
      ["SELECT etcd_compact('shown', 1)", "42501"],
      ["SELECT etcd_put('part', '/part/a', '1')", ""],
      ["INSERT INTO part_all VALUES ('/part/b', '1')", ""],
      ["SELECT etcd_put('part', '/other', '2')", "42501"],
      ["SELECT etcd_get('part', '/other')", "42501"],
      ["SELECT * FROM etcd_range('part', '/', prefix => true)", "42501"],
      ["SELECT * FROM etcd_range('part', '/part/', prefix => true)", ""],
      ["SELECT * FROM etcd_changes('part', prefix => '/', after_revision => 1)", "42501"],
      [
        `SELECT etcd_txn('part', '{"success": [{"txn": {"success": [{"get": {"key": "/other"}}]}}]}')`,
        "42501",
      ],
      ["SELECT etcd_lock('part', 'l')", "42501"],
      ["SELECT etcd_lock('part', '/part/l')", ""],
      ["SELECT etcd_unlock('part', '/part/l')", ""],
      ["SELECT count(*) FROM etcd_snapshot_chunks('part')", "42501"],
      ["SELECT etcd_user_add('part', 'eve', 'x')", "42501"],
    ]
  ) {
    assert.equal(
      await db.sql(statement).then(() => "", (error: SqlError) => error.code),
      expected,
      statement,
    );
  }
  assert.equal(decodeUtf8((await etcd.client.get("/other"))!.value), "1");
});

test("the wrapper's certificate serves only servers of those who may name such files", async () => {
  const { certificate, key } = await certificateFiles();
  await db.sql(`ALTER FOREIGN DATA WRAPPER etcd_fdw OPTIONS (certfile '${certificate}', keyfile '${key}')`);
  try {
    await as("mallory", async (client) => {
      await client.query(
        `CREATE SERVER lure FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr 'https://127.0.0.1:1')`,
      );
      assert.equal(await code(client, "SELECT etcd_get('lure', 'x')"), "42501");
    });
    await db.sql("CREATE SERVER own FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr 'https://127.0.0.1:1')");
    assert.equal((await db.failure("SELECT etcd_get('own', 'x')")).code, "08001");
  } finally {
    await db.sql("ALTER FOREIGN DATA WRAPPER etcd_fdw OPTIONS (DROP certfile, DROP keyfile)");
  }
});

async function certificateFiles(): Promise<{ certificate: string; key: string }> {
  const folder = await Deno.makeTempDir();
  await Deno.chmod(folder, 0o755);
  const [certificate, key] = [`${folder}/cert.pem`, `${folder}/key.pem`];
  await run("openssl", [
    ...["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=client", "-days", "2"],
    ...["-keyout", key, "-out", certificate],
  ]);
  await Deno.chmod(key, 0o644);
  return { certificate, key };
}

if (engine === "plv8") {
  test("who may not use plv8 cannot have its engine started with flags of his", async () => {
    await db.sql(`REVOKE USAGE ON LANGUAGE plv8 FROM PUBLIC; GRANT USAGE ON FOREIGN SERVER etcd TO mallory`);
    const file = `/tmp/etcd_fdw_flags_${Deno.pid}.log`;
    for (const setting of [`plv8.v8_flags=--prof\\ --logfile=${file}`, `plv8.icu_data=${file}`]) {
      await as(
        "mallory",
        async (client) => {
          const error = await client.query("SELECT etcd_get('etcd', 'x')").then(
            () => null,
            (e: SqlError) => e,
          );
          assert.equal(error?.code, "42501", setting);
          assert.match(error!.hint!, /RESET plv8/);
          await client.query(`RESET ${setting.split("=")[0]}`).catch(() => {});
        },
        undefined,
        [setting],
      );
      assert.equal(await Deno.stat(file).then(() => true, () => false), false);
    }
    await as("mallory", async (client) => {
      assert.equal(await code(client, "SELECT etcd_get('etcd', 'x')"), "");
    });
    await db.sql("GRANT USAGE ON LANGUAGE plv8 TO PUBLIC");
  });

  test("an isolate that plv8 made before us has our call checked against the same stack", async () => {
    await as("postgres", async (client) => {
      await client.query(`SET max_stack_depth = '6MB';
        CREATE OR REPLACE FUNCTION dive(n integer) RETURNS text LANGUAGE plpgsql AS $$
          BEGIN IF n = 0 THEN RETURN etcd_get('etcd', 'x'); END IF; RETURN dive(n - 1); END $$`);
      await client.query("DO LANGUAGE plv8 $$ plv8.elog(DEBUG1, 'here') $$");
      for (const depth of [1, 20, 100, 300, 600]) {
        assert.ok(["", "54001"].includes(await code(client, `SELECT dive(${depth})`)), `depth ${depth}`);
      }
      assert.equal(await code(client, "SELECT dive(1)"), "");
    });
  });
}

test("the library shows PostgreSQL's names for it and no others", async () => {
  const { bindir } = await findPostgres();
  const library = await db.sql("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'");
  assert.ok(bindir);
  const { stdout } = await run("nm", ["-D", "--defined-only", `${library[0].setting}/etcd_fdw.so`]);
  const names = stdout.trim().split("\n").map((line) => line.split(" ").at(-1)!);
  const foreign = names.filter((name) => !/^(_PG_init|Pg_magic_func|(pg_finfo_)?etcd_fdw_\w+)$/.test(name));
  assert.deepEqual(foreign, []);
  // Two for each function that SQL calls, the embedded engine's too, and what starts: the library, its workers.
  const [{ functions }] = await db.sql(`SELECT count(DISTINCT prosrc)::int AS functions FROM pg_proc
    WHERE probin = (SELECT probin FROM pg_proc WHERE proname = 'etcd_fdw_handler')`);
  assert.ok(names.length <= 2 * functions + 8, `${names.length} names, ${functions} functions`);
});

test("a SECURITY DEFINER function does not read the past that its caller has set", async () => {
  const revision = Number(await etcd.put("/allowed/mallory", "yes"));
  await etcd.client.delete("/allowed/mallory");
  await db.sql(`CREATE FOREIGN TABLE allowed (key text, value text) SERVER etcd OPTIONS (prefix '/allowed/');
    GRANT SELECT ON allowed TO app, mallory;
    CREATE FUNCTION may(who text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
      AS $$ SELECT EXISTS (SELECT FROM allowed WHERE key = '/allowed/' || who) $$;
    ALTER FUNCTION may(text) OWNER TO app`);
  await as("mallory", async (client) => {
    await client.query(`SET etcd_fdw.revision = ${revision}`);
    assert.equal((await client.query("SELECT count(*)::int AS n FROM allowed")).rows[0].n, 1);
    assert.equal((await client.query("SELECT may('mallory')")).rows[0].may, false);
  });
  // It is the function that loads the library, which takes the setting over.
  await as("mallory", async (client) => {
    await client.query(`SET etcd_fdw.revision = ${revision}`);
    assert.equal((await client.query("SELECT may('mallory')")).rows[0].may, false);
  });
});

test("a schema that takes the former name of the extension's has no part in it", async () => {
  await db.sql("CREATE DATABASE renamed");
  await as("postgres", async (client) => {
    if (engine === "plv8") await client.query("CREATE EXTENSION plv8");
    await client.query(
      `CREATE SCHEMA ext; CREATE EXTENSION etcd_fdw SCHEMA ext; ALTER SCHEMA ext RENAME TO ext2;
      CREATE SERVER s FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${endpoint}');
      GRANT USAGE ON FOREIGN SERVER s TO mallory; GRANT USAGE ON SCHEMA ext2 TO mallory;
      GRANT CREATE ON DATABASE renamed TO mallory`,
    );
  }, "renamed");
  await as("mallory", async (client) => {
    await client.query(
      "CREATE SCHEMA ext; CREATE TABLE ext.caught (what text); GRANT ALL ON SCHEMA ext TO PUBLIC",
    );
    const trap = (name: string, args: string, result: string) =>
      client.query(`CREATE FUNCTION ext.${name}(${args}) RETURNS ${result} LANGUAGE plpgsql
        AS $$ BEGIN RAISE 'decoy ${name}'; END $$`);
    for (const name of ["library_version", "core_version", "engine"]) {
      await trap(`etcd_fdw_${name}`, "", "text");
    }
    await trap("etcd_fdw_proxy_row", "", "TABLE(version text)");
    await trap("etcd_status", "server text", "TABLE(endpoint text, version text, error text)");
    await trap("etcd_fdw_certificate_rows", "server text", "TABLE(source text)");
    await trap("etcd_fdw_certificates", "server text", "TABLE(source text)");
    if (engine === "plv8") {
      await client.query(`CREATE FUNCTION ext.etcd_fdw_dispatch() RETURNS void LANGUAGE plv8
        AS $$ plv8.execute("CREATE ROLE made_by_mallory SUPERUSER") $$`);
    }
    await client.query("SELECT ext2.etcd_get('s', '/x')");
  }, "renamed");
  await as("postgres", async (client) => {
    assert.deepEqual(
      (await client.query("SELECT FROM pg_roles WHERE rolname = 'made_by_mallory'")).rows.length,
      0,
    );
    const versions = await client.query("SELECT component FROM ext2.etcd_fdw_version()");
    assert.ok(versions.rows.length >= 6);
    for (
      const use of [
        "ext2.etcd_fdw_cert_expiry",
        "ext2.etcd_fdw_certificates('s')",
        "ext2.etcd_fdw_server_cert_expiry('s')",
        "ext2.etcd_fdw_stat",
      ]
    ) await client.query(`SELECT * FROM ${use}`);
  }, "renamed");
});

test("a role that others are in does not decide where a SECURITY DEFINER function of one of them writes", async () => {
  await db.sql(`CREATE ROLE devs; GRANT devs TO app, mallory;
    GRANT USAGE ON FOREIGN DATA WRAPPER etcd_fdw TO devs;
    CREATE FUNCTION keep(v text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT etcd_put('/keep', v) $$;
    ALTER FUNCTION keep(text) OWNER TO app`);
  await as("mallory", async (client) => {
    await client.query(`SET ROLE devs;
      CREATE SERVER ours FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '127.0.0.1:1');
      GRANT USAGE ON FOREIGN SERVER ours TO PUBLIC; SET etcd_fdw.default_server = 'ours'; RESET ROLE`);
    await client.query("SELECT keep('a')");
  });
  assert.equal(decodeUtf8((await etcd.client.get("/keep"))!.value), "a");
  await db.sql("DROP FUNCTION keep(text); DROP SERVER ours CASCADE");
});
