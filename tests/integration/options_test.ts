// Options at work: TLS with files, who may name these, what the wrapper says for its servers, prefixes of servers.

import assert from "node:assert/strict";
import { TestAuthority } from "../../src/proxy/testing_certificates.ts";
import { TestEtcd } from "../../src/proxy/testing_etcd.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("options");

const authority = await TestAuthority.create();
const server = await authority.issue("server", "DNS:localhost");
const client = await authority.issue("client", "DNS:client");
const secure = await TestEtcd.start({ ...server, clientCa: authority.ca });
Deno.test.afterAll(async () => {
  await secure.stop();
  await authority.remove();
});
await secure.ctl("put", "/o/a", "secret");
await etcd.put("/o/a", "plain");
await etcd.put("/p/o/a", "prefixed");

/** Creates the server `name` with these options and a table of the same name over /o/. */
async function table(name: string, options: Record<string, string>, tableOptions = "prefix '/o/'") {
  const list = Object.entries(options).map(([option, value]) => `${option} '${value}'`).join(", ");
  await db.sql(`CREATE SERVER ${name} FOREIGN DATA WRAPPER etcd_fdw OPTIONS (${list});
    CREATE FOREIGN TABLE ${name} (key text, value text) SERVER ${name} OPTIONS (${tableOptions})`);
}
const values = async (name: string) => (await db.sql(`SELECT value FROM ${name}`)).map((row) => row.value);
const files = { certfile: client.cert, keyfile: client.key };

test("TLS by option, by URL and by its files, under either wrapper's names", async () => {
  const connstr = secure.secure.name;
  await table("by_option", { connstr, use_tls: "true", cafile: authority.ca, ...files });
  await table("by_url", { endpoints: `https://${connstr}`, cafile: authority.ca, ...files });
  await table("by_files", {
    connstr,
    ssl_ca: authority.ca,
    ssl_cert: client.cert,
    ssl_key: client.key,
  });
  await table("by_name", {
    connstr: secure.secure.address,
    cafile: authority.ca,
    ssl_servername: "localhost",
    ...files,
  });
  await table("unverified", {
    connstr: secure.secure.address,
    use_tls: "true",
    tls_verify: "false",
    ...files,
  });
  for (const name of ["by_option", "by_url", "by_files", "by_name", "unverified"]) {
    assert.deepEqual(await values(name), ["secret"], name);
  }
});

test("what is wrong with TLS is told", async () => {
  const quick = { connect_timeout: "2", max_retries: "0" };
  await table("wrong_host", { connstr: secure.secure.address, cafile: authority.ca, ...files, ...quick });
  const host = await db.failure("SELECT * FROM wrong_host");
  assert.equal(host.code, "08001");
  assert.match(host.detail!, /not in the cert's list/);
  await table("no_file", { connstr: secure.secure.name, cafile: "/nowhere/ca.pem" });
  const missing = await db.failure("SELECT * FROM no_file");
  assert.equal(missing.code, "58P01");
  assert.match(missing.message, /"\/nowhere\/ca.pem" of option "cafile"/);
  await table("no_pem", { connstr: secure.secure.name, cafile: client.key });
  const pem = await db.failure("SELECT * FROM no_pem");
  assert.equal(pem.code, "22023");
  assert.match(pem.message, /"cafile" holds no certificate/);
  await db.sql(`ALTER SERVER no_pem OPTIONS (SET cafile '${authority.ca}', ADD certfile '${client.cert}',
    ADD keyfile '${client.key}')`);
  assert.deepEqual(await values("no_pem"), ["secret"]);
});

test("files are named only by those who may read the server's files", async () => {
  await db.sql(`CREATE ROLE operator; GRANT USAGE ON FOREIGN DATA WRAPPER etcd_fdw TO operator;
    SET ROLE operator`);
  const refused = await db.failure(
    "CREATE SERVER theirs FOREIGN DATA WRAPPER etcd_fdw OPTIONS (cafile '/etc/passwd')",
  );
  assert.equal(refused.code, "42501");
  await db.sql("RESET ROLE; GRANT pg_read_server_files TO operator; SET ROLE operator");
  await db.sql(`CREATE SERVER theirs FOREIGN DATA WRAPPER etcd_fdw OPTIONS (cafile '${authority.ca}')`);
  await db.sql("RESET ROLE");
});

test("the wrapper speaks for servers that say nothing, in open sessions too", async () => {
  await db.sql(
    `ALTER FOREIGN DATA WRAPPER etcd_fdw OPTIONS (ADD connstr '127.0.0.1:1', ADD max_retries '0')`,
  );
  await table("silent", { connect_timeout: "2" });
  assert.equal((await db.failure("SELECT * FROM silent")).code, "08001");
  await db.sql(`ALTER FOREIGN DATA WRAPPER etcd_fdw OPTIONS (SET connstr '${etcd.endpoints[0]}')`);
  assert.deepEqual(await values("silent"), ["plain"]);
  await table("own", { endpoints: "127.0.0.1:1" });
  assert.equal((await db.failure("SELECT * FROM own")).code, "08001");
  await db.sql("ALTER FOREIGN DATA WRAPPER etcd_fdw OPTIONS (DROP connstr, DROP max_retries)");
});

test("retries bridge a time without etcd", async () => {
  await table("patient", {
    connstr: secure.endpoint,
    max_retries: "100",
    retry_backoff_ms: "20",
    connect_timeout_ms: "10000",
    request_timeout_ms: "5000",
  });
  assert.deepEqual(await values("patient"), ["secret"]);
  await secure.kill();
  const read = values("patient");
  await secure.restart();
  assert.deepEqual(await read, ["secret"]);
});

test("the prefix of a server stands in front of its tables'", async () => {
  await table("prefixed", { connstr: etcd.endpoints[0], prefix: "/p" });
  assert.deepEqual(await db.sql("SELECT * FROM prefixed"), [{ key: "/p/o/a", value: "prefixed" }]);
  await db.sql("ALTER FOREIGN TABLE prefixed OPTIONS (ADD strip_prefix 'true')");
  assert.deepEqual(await db.sql("SELECT key FROM prefixed WHERE key = 'a'"), [{ key: "a" }]);
});

test("a login may stand on the server, and that of a user mapping wins", async () => {
  await secure.ctl("user", "add", "root:s3cret");
  await secure.ctl("user", "grant-role", "root", "root");
  await secure.ctl("auth", "enable");
  const notices: string[] = [];
  const session = await db.connect();
  session.on("notice", (notice) => notices.push(`${notice.message}`));
  await session.query(`CREATE SERVER login FOREIGN DATA WRAPPER etcd_fdw
    OPTIONS (connstr '${secure.endpoint}', username 'root', password 's3cret', max_retries '0')`);
  await session.end();
  assert.deepEqual(notices, ["the password of a server can be read by every user"]);
  await db.sql("CREATE FOREIGN TABLE login (key text, value text) SERVER login OPTIONS (prefix '/o/')");
  assert.deepEqual(await values("login"), ["secret"]);
  await db.sql(`CREATE USER MAPPING FOR CURRENT_USER SERVER login OPTIONS ("user" 'root', password 'wr0ng')`);
  const error = await db.failure("SELECT * FROM login");
  assert.equal(error.code, "28P01");
  assert.doesNotMatch(JSON.stringify(error), /wr0ng|s3cret/);
  await db.sql("ALTER USER MAPPING FOR CURRENT_USER SERVER login OPTIONS (SET password 's3cret')");
  assert.deepEqual(await values("login"), ["secret"]);
});

test("certificates of a server are shown, with the time that is left", async () => {
  const shown = await db.sql("SELECT *, expires_in > '0 s' AS valid FROM etcd_fdw_certificates('by_option')");
  const bySource = (source: string) => shown.filter((row) => row.source === source);
  assert.equal(bySource("peer").length, 1);
  assert.match(bySource("peer")[0].subject, /CN=server/);
  assert.equal(bySource("peer")[0].endpoint, secure.secure.name);
  assert.equal(bySource("cafile").length, 1);
  assert.match(bySource("certfile")[0].subject, /CN=client/);
  assert.ok(shown.every(({ valid, not_before, not_after }) => valid && not_before < not_after));
  const [{ expiry }] = await db.sql("SELECT etcd_fdw_server_cert_expiry('by_option') AS expiry");
  assert.deepEqual(expiry, bySource("peer")[0].not_after);
  await db.sql(
    `CREATE SERVER plain_text FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}')`,
  );
  assert.deepEqual(await db.sql("SELECT * FROM etcd_fdw_certificates('plain_text')"), []);
  assert.deepEqual(await db.sql("SELECT etcd_fdw_server_cert_expiry('plain_text') AS e"), [{ e: null }]);
  const servers = await db.sql(
    "SELECT DISTINCT server FROM etcd_fdw_cert_expiry WHERE source = 'peer' ORDER BY 1",
  );
  const named = servers.map(({ server }) => server);
  assert.ok(named.includes("by_option") && !named.includes("plain_text"), named.join());
  const wrong = await db.sql(
    "SELECT server FROM etcd_fdw_cert_expiry WHERE error LIKE 'could not open file%'",
  );
  assert.ok(wrong.length > 0, "a server with a missing file has a row that says so");
});

test("max_request_bytes and nested_txns decide what one Txn holds", async () => {
  const server = (name: string, options: string) =>
    db.sql(
      `CREATE SERVER ${name} FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${
        etcd.endpoints[0]
      }', ${options});
      CREATE FOREIGN TABLE ${name}_rows (key text, value text) SERVER ${name} OPTIONS (prefix '/${name}/')`,
    );
  await server("whole", "atomic 'require'");
  await server("small", "atomic 'require', max_request_bytes '20000'");
  await server("flat", "atomic 'require', nested_txns 'false'");
  const insert = (name: string, rows: number) =>
    db.sql(
      `INSERT INTO ${name}_rows SELECT '/${name}/' || i, repeat('x', 100) FROM generate_series(1, ${rows}) i`,
    )
      .then(() => "", (error: { code: string }) => error.code);
  assert.deepEqual(await Promise.all([insert("whole", 3000)]), [""]);
  const revisions = await db.sql(
    "SELECT count(DISTINCT mod_revision)::int AS n FROM etcd_range('whole', '/whole/', prefix => true)",
  );
  assert.deepEqual(revisions, [{ n: 1 }]);
  assert.equal(await insert("small", 300), "54000");
  assert.equal(await insert("small", 50), "");
  assert.equal(await insert("flat", 129), "54000");
  assert.equal(await insert("flat", 128), "");
  const failure = await db.failure(
    `CREATE SERVER wrong FOREIGN DATA WRAPPER etcd_fdw OPTIONS (max_request_bytes '5')`,
  );
  assert.match(failure.message, /max_request_bytes/);
});
