// Functions for the cluster, its upkeep, users and monitoring, with three members.

import assert from "node:assert/strict";
import { run } from "../../build/run.ts";
import { suite } from "../helpers/suite.ts";
import { waitFor } from "../helpers/wait.ts";

const { db, etcd, test } = await suite("cluster", { members: 3 });

await db.sql(`${etcd.createServerSql("etcd", { connect_timeout: "2", request_timeout: "5" })}`);
await db.sql("CREATE USER MAPPING FOR PUBLIC SERVER etcd");

const value = async (text: string) => Object.values((await db.sql(text))[0])[0];

test("etcd_status shows every endpoint, also one that does not answer", async () => {
  const all = await db.sql("SELECT * FROM etcd_status()");
  assert.deepEqual(all.map(({ endpoint }) => endpoint), etcd.endpoints);
  assert.equal(all.filter(({ is_leader }) => is_leader).length, 1);
  assert.ok(
    all.every(({ error, errors, db_size }) => error === null && errors.length === 0 && Number(db_size) > 0),
  );
  const shown = await etcd.ctl("endpoint", "status", "-w", "simple");
  const line = shown.split("\n").find((one) => /, true, (true|false), /.test(one) || /, true, /.test(one))!;
  assert.ok(line.includes(all.find(({ is_leader }) => is_leader)!.member_id), shown);
  assert.equal(await value("SELECT etcd_version()"), all[0].version);
  await etcd.kill(2);
  try {
    const [down] = await db.sql(`SELECT * FROM etcd_status('etcd', ARRAY['${etcd.endpoints[2]}'])`);
    assert.match(down.error, /could not connect/);
    assert.equal(down.version, null);
    const [{ n }] = await db.sql("SELECT count(*) AS n FROM etcd_status() WHERE error IS NULL");
    assert.equal(n, "2");
  } finally {
    await etcd.restart(2);
  }
  const [unknown] = await db.sql("SELECT endpoint, error FROM etcd_status(ARRAY['elsewhere:1'])");
  assert.match(unknown.error, /is no endpoint of the server/);
});

test("members are listed, added, changed and removed", async () => {
  const members = await db.sql("SELECT * FROM etcd_members() ORDER BY name");
  assert.equal(members.length, 3);
  assert.deepEqual(
    members.map(({ client_urls: [url] }) => url.replace("http://", "")).sort(),
    [...etcd.endpoints].sort(),
  );
  // etcd refuses while a member has not been connected for some seconds.
  const add = () => value("SELECT etcd_member_add(ARRAY['http://127.0.0.1:1'], learner => true)");
  const id = await waitFor("a member to be added", add, { timeoutMs: 20_000 }) as string;
  assert.match(id, /^[0-9a-f]+$/);
  const [added] = await db.sql(`SELECT * FROM etcd_members() WHERE member_id = '${id}'`);
  assert.deepEqual([added.is_learner, added.peer_urls], [true, ["http://127.0.0.1:1"]]);
  await db.sql(`SELECT * FROM etcd_member_update('${id}', ARRAY['http://127.0.0.1:2'])`);
  assert.deepEqual(await value(`SELECT peer_urls FROM etcd_members() WHERE member_id = '${id}'`), [
    "http://127.0.0.1:2",
  ]);
  assert.equal((await db.failure(`SELECT * FROM etcd_member_promote('${id}')`)).code, "55000");
  assert.equal((await db.sql(`SELECT * FROM etcd_member_remove('${id}')`)).length, 3);
  assert.equal((await db.failure(`SELECT * FROM etcd_member_remove('${id}')`)).code, "42704");
  assert.equal((await db.failure("SELECT * FROM etcd_member_remove('xyz')")).code, "22023");
});

test("the leadership of the cluster moves", async () => {
  const follower = await value("SELECT member_id FROM etcd_status() WHERE NOT is_leader LIMIT 1");
  assert.equal(await value(`SELECT etcd_move_leader('${follower}')`), true);
  await waitFor(
    "the new leader",
    async () => await value("SELECT member_id FROM etcd_status() WHERE is_leader LIMIT 1") === follower,
  );
});

test("alarms are shown and disarmed", async () => {
  assert.deepEqual(await db.sql("SELECT * FROM etcd_alarms()"), []);
  const [{ member_id: id }] = await db.sql("SELECT member_id FROM etcd_members() LIMIT 1");
  const member = BigInt(`0x${id}`);
  // AlarmRequest: ACTIVATE, the member, NOSPACE
  const varint: number[] = [];
  for (let rest = member;; rest >>= 7n) {
    varint.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    if (rest <= 0x7fn) break;
  }
  await etcd.client.call("/etcdserverpb.Maintenance/Alarm", Uint8Array.of(8, 1, 16, ...varint, 24, 1));
  assert.deepEqual(await db.sql("SELECT * FROM etcd_alarms()"), [{ member_id: id, alarm: "NOSPACE" }]);
  const full = await db.failure("SELECT etcd_put('/alarm', 'x')");
  assert.equal(full.code, "53100");
  assert.deepEqual(await db.sql("SELECT * FROM etcd_alarm_disarm()"), [{ member_id: id, alarm: "NOSPACE" }]);
  assert.deepEqual(await db.sql("SELECT * FROM etcd_alarms()"), []);
  await db.sql("SELECT etcd_put('/alarm', 'x')");
});

test("compaction, defragmentation and hashes", async () => {
  const revision = await value("SELECT etcd_put('/u', '1')");
  await db.sql("SELECT etcd_put('/u', '2')");
  await waitFor("members that agree", async () => {
    const hashes = await db.sql("SELECT DISTINCT hash FROM etcd_hash()");
    return hashes.length === 1;
  });
  assert.equal(
    Number(await value(`SELECT etcd_compact(${revision}, physical => true)`)),
    Number(revision) + 1,
  );
  assert.equal((await db.failure(`SELECT etcd_compact(${revision})`)).code, "22023");
  assert.equal((await db.failure(`SELECT etcd_get('/u', ${Number(revision) - 1})`)).code, "22023");
  const done = await db.sql("SELECT * FROM etcd_defragment()");
  assert.deepEqual(done, etcd.endpoints.map((endpoint) => ({ endpoint, error: null })));
});

test("a snapshot is what etcdctl takes, as a file and in pieces", async () => {
  await etcd.putMany(Array.from({ length: 3000 }, (_, i) => [`/snap/${i}`, "x".repeat(1000)]));
  // A snapshot is one member's, which may be a little behind.
  await waitFor(
    "members that agree",
    async () => (await db.sql("SELECT DISTINCT revision FROM etcd_status()")).length === 1,
  );
  const directory = await Deno.makeTempDir();
  await Deno.chmod(directory, 0o777);
  try {
    const bytes = Number(await value(`SELECT etcd_snapshot('${directory}/etcd.db')`));
    assert.equal((await Deno.stat(`${directory}/etcd.db`)).size, bytes);
    const status = await run("etcdctl", ["snapshot", "status", `${directory}/etcd.db`, "-w", "json"], {
      env: { ETCDCTL_API: "3" },
    });
    assert.ok(JSON.parse(status.stdout).totalKey >= 3000);
    const [pieces] = await db.sql(
      "SELECT count(*) AS n, sum(length(data)) AS bytes, max(position) AS last FROM etcd_snapshot_chunks()",
    );
    assert.ok(Number(pieces.n) > 2 && Number(pieces.bytes) > 3_000_000, JSON.stringify(pieces));
    assert.equal((await db.failure("SELECT etcd_snapshot('here')")).code, "42602");
    assert.equal((await db.failure(`SELECT etcd_snapshot('${directory}/none/x')`)).code, "58P01");
    assert.deepEqual([...Deno.readDirSync(directory)].map(({ name }) => name), ["etcd.db"]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

test("what is done is counted, for each server and role", async () => {
  await db.sql("SELECT etcd_fdw_stat_reset()");
  await db.sql("CREATE ROLE counted LOGIN; GRANT USAGE ON FOREIGN SERVER etcd TO counted");
  const counted = await db.connect("counted");
  await counted.query("SELECT etcd_put('/stat/' || i, 'x') FROM generate_series(1, 7) i");
  await counted.query("SELECT count(*) FROM etcd_range('/stat/', true)");
  await counted.query("SELECT etcd_put('', 'x')").catch(() => {});
  await db.sql("CREATE FOREIGN TABLE stat (key text, value text) SERVER etcd OPTIONS (prefix '/stat/')");
  await db.sql("INSERT INTO stat VALUES ('/stat/t', 'x')");
  const [mine] = await counted.query("SELECT * FROM etcd_fdw_stat WHERE role = 'counted'").then(
    ({ rows }) => rows,
    () => [null],
  );
  assert.equal(mine, null, "the figures are for monitors");
  await db.sql("GRANT pg_monitor TO counted");
  const [row] = (await counted.query("SELECT * FROM etcd_fdw_stat WHERE role = 'counted'")).rows;
  assert.deepEqual([row.server, row.calls, row.rows, row.errors], ["etcd", "9", "7", "1"]);
  assert.ok(row.latency_max > 0 && row.latency_sum >= row.latency_max && Number(row.bytes_received) > 100);
  const [{ transactions }] = await db.sql("SELECT transactions FROM etcd_fdw_stat WHERE role = 'postgres'");
  assert.equal(transactions, "1");
  const [proxy] = await db.sql("SELECT *, uptime > '0 s' AND uptime < '1 hour' AS sane FROM etcd_fdw_proxy");
  assert.ok(
    proxy.sane && proxy.sessions >= 2 && proxy.connections >= 1 && Number(proxy.memory_resident) > 1e6,
  );
  await Deno.stat(`/proc/${proxy.pid}`);
  const versions = await db.sql("SELECT * FROM etcd_fdw_version()");
  assert.deepEqual(versions.slice(0, 5).map(({ component }) => component), [
    "extension",
    "library",
    "core",
    "engine",
    "proxy",
  ]);
  assert.equal(new Set([0, 1, 2, 4].map((i) => versions[i].version)).size, 1);
  assert.equal(versions.length, 5 + 3);
  await counted.end();
});

test("reads of many sessions share requests, and each gets its own answer", async () => {
  await etcd.putMany(Array.from({ length: 50 }, (_, i) => [`/co/${i}`, `v${i}`]));
  const sessions = await Promise.all(Array.from({ length: 8 }, () => db.connect()));
  await Promise.all(sessions.map(async (session, s) => {
    for (let i = 0; i < 100; i++) {
      const key = (i * 7 + s) % 60;
      const { rows: [{ v }] } = await session.query(`SELECT etcd_get('/co/${key}') AS v`);
      assert.equal(v, key < 50 ? `v${key}` : null);
    }
  }));
  await Promise.all(sessions.map((session) => session.end()));
  const [{ coalesced }] = await db.sql("SELECT coalesced FROM etcd_fdw_stat WHERE role = 'postgres'");
  assert.ok(Number(coalesced) > 50, `${coalesced} reads shared a request`);
});

test("changes of the endpoint are counted", async () => {
  await db.sql("SELECT etcd_fdw_stat_reset(); SELECT etcd_get('/co/1')");
  for (const member of [0, 1, 2]) {
    await etcd.kill(member);
    assert.equal(await value("SELECT etcd_get('/co/1')"), "v1");
    await etcd.restart(member);
  }
  const [row] = await db.sql("SELECT failovers FROM etcd_fdw_stat WHERE role = 'postgres'");
  assert.ok(Number(row.failovers) >= 1, JSON.stringify(row));
});

test("users, roles and permissions, with authentication switched on and off", async () => {
  for (
    const sql of [
      "SELECT etcd_user_add('root', 'secret')",
      "SELECT etcd_user_grant_role('root', 'root')",
      "SELECT etcd_user_add('reader', 'r')",
      "SELECT etcd_role_add('reading')",
      "SELECT etcd_role_grant('reading', 'read', '/auth/', prefix => true)",
      "SELECT etcd_role_grant('reading', 'readwrite', '/own')",
      "SELECT etcd_user_grant_role('reader', 'reading')",
    ]
  ) assert.equal(await value(sql), true, sql);
  assert.deepEqual(await db.sql("SELECT * FROM etcd_users() ORDER BY 1"), [
    { username: "reader", roles: ["reading"] },
    { username: "root", roles: ["root"] },
  ]);
  const roles = await db.sql("SELECT * FROM etcd_roles() WHERE role = 'reading' ORDER BY key");
  assert.deepEqual(roles, [
    { role: "reading", permission: "read", key: "/auth/", range_end: "/auth0" },
    { role: "reading", permission: "readwrite", key: "/own", range_end: null },
  ]);
  assert.equal((await db.failure("SELECT etcd_user_add('reader', 'x')")).code, "42710");
  assert.equal((await db.failure("SELECT etcd_user_delete('none')")).code, "42704");
  assert.equal((await db.failure("SELECT etcd_role_grant('reading', 'own', '/x')")).code, "22023");
  const revision = await value("SELECT etcd_put('/auth/a', '1')");
  await db.sql("SELECT etcd_put('/secret', '1')");

  assert.equal(await value("SELECT etcd_auth_enable()"), true);
  await db.sql(`${etcd.createServerSql("as_root")}; ${etcd.createServerSql("as_reader")};
    CREATE USER MAPPING FOR PUBLIC SERVER as_root OPTIONS (username 'root', password 'secret');
    CREATE USER MAPPING FOR PUBLIC SERVER as_reader OPTIONS (username 'reader', password 'r')`);
  try {
    assert.equal((await db.failure("SELECT etcd_get('etcd', '/auth/a')")).code, "28000");
    assert.equal(await value("SELECT etcd_get('as_reader', '/auth/a')"), "1");
    const refused = await db.failure("SELECT etcd_get('as_reader', '/secret')");
    assert.equal(refused.code, "42501");
    assert.match(refused.detail!, /permission denied/);
    assert.equal((await db.failure("SELECT etcd_put('as_reader', '/auth/a', '2')")).code, "42501");
    // etcd itself looks at the rights to a Txn's first level, not at those within.
    const within = (operation: string) =>
      `SELECT etcd_txn('as_reader', '{"success": [{"txn": {"success": [{"txn": {"success": [${operation}]}}]}}]}')`;
    assert.equal((await db.failure(within('{"put": {"key": "/auth/b", "value": "2"}}'))).code, "42501");
    assert.equal((await db.failure(within('{"delete": {"key": "/auth/", "prefix": true}}'))).code, "42501");
    assert.equal((await db.failure(within('{"get": {"key": "/secret"}}'))).code, "42501");
    const [{ etcd_txn: own }] = await db.sql(within('{"put": {"key": "/own", "value": "3", "prev": true}}'));
    assert.deepEqual(own.responses[0].txn.responses[0].txn.responses, [{ put: {} }]);
    await db.sql(`CREATE FOREIGN TABLE readers (key text, value text) SERVER as_reader`);
    const many = (prefix: string) =>
      `INSERT INTO readers SELECT '${prefix}' || i, i FROM generate_series(1, 300) i`;
    assert.equal((await db.failure(many("/auth/many/"))).code, "42501");
    assert.equal((await db.failure(many("/beyond/"))).code, "42501");
    await db.sql("DROP FOREIGN TABLE readers");
    // Who may not watch everything waits a moment longer.
    const changes = await db.sql(
      `SELECT key FROM etcd_changes('as_reader', '/auth/', ${Number(revision) - 1})`,
    );
    assert.deepEqual(changes, [{ key: "/auth/a" }]);
    assert.equal(await value("SELECT etcd_user_password('as_root', 'reader', 'new')"), true);
    assert.equal(await value("SELECT etcd_role_revoke('as_root', 'reading', '/own')"), true);
    assert.equal(await value("SELECT etcd_user_revoke_role('as_root', 'reader', 'reading')"), true);
    assert.equal(await value("SELECT etcd_user_delete('as_root', 'reader')"), true);
    assert.equal(await value("SELECT etcd_role_delete('as_root', 'reading')"), true);
  } finally {
    assert.equal(await value("SELECT etcd_auth_disable('as_root')"), true);
  }
  assert.equal(await value("SELECT etcd_get('etcd', '/secret')"), "1");
});
