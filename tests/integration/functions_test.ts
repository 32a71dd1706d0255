// Functions for keys, values, history and Txns: compared with etcdctl, in both forms, with their rights and their errors.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("functions");

await db.sql(`${etcd.createServerSql()}; CREATE USER MAPPING FOR PUBLIC SERVER etcd`);

/** The only value of a query that has one. */
const value = async (text: string) => Object.values((await db.sql(text))[0])[0];
const rows = (text: string) => db.sql(text);
const ctl = async (...args: string[]) => (await etcd.ctl(...args)).trim();
const reset = () => etcd.client.deletePrefix("");

test("etcd_get, etcd_put and etcd_delete do what etcdctl does", async () => {
  await reset();
  const revision = await value("SELECT etcd_put('/f/a', '1')");
  assert.equal(await ctl("get", "/f/a", "--print-value-only"), "1");
  assert.equal(await value("SELECT etcd_put('etcd', '/f/a', 'zwei ü €')"), String(Number(revision) + 1));
  assert.equal(await value("SELECT etcd_get('/f/a')"), "zwei ü €");
  assert.equal(await value(`SELECT etcd_get('/f/a', ${revision})`), "1");
  assert.equal(await value("SELECT etcd_get('/f/a', serializable => true)"), "zwei ü €");
  assert.equal(await value("SELECT etcd_get('/none')"), null);
  assert.equal(await value("SELECT etcd_get(NULL::text)"), null);
  assert.equal(await value("SELECT etcd_put('/f/empty', '')") !== null, true);
  assert.equal(await value("SELECT etcd_get('/f/empty')"), "");
  assert.deepEqual(await rows("SELECT key, version FROM etcd_get_row('/f/a')"), [{
    key: "/f/a",
    version: "2",
  }]);
  assert.deepEqual(await rows("SELECT * FROM etcd_get_row('/none')"), []);
  const [put] = await rows("SELECT * FROM etcd_put_returning('/f/a', '3')");
  assert.equal(put.prev_value, "zwei ü €");
  assert.equal(put.prev_version, "2");
  assert.deepEqual(await rows("SELECT prev_key FROM etcd_put_returning('/f/new', '3')"), [{
    prev_key: null,
  }]);
  assert.equal(await value("SELECT etcd_delete('/f/new')"), "1");
  assert.equal(await value("SELECT etcd_delete('/f/new')"), "0");
  assert.deepEqual(await rows("SELECT key, value FROM etcd_delete_returning('/f/', true) ORDER BY 1"), [
    { key: "/f/a", value: "3" },
    { key: "/f/empty", value: "" },
  ]);
  assert.equal(await ctl("get", "/f/", "--prefix"), "");
});

test("leases, times to live and what a put leaves as it is", async () => {
  await reset();
  await db.sql("SELECT etcd_put('/f/t', 'x', ttl => '100 s')");
  const [row] = await rows("SELECT lease, etcd_lease_ttl(lease) AS left FROM etcd_get_row('/f/t')");
  assert.notEqual(row.lease, "0");
  assert.match(await ctl("lease", "timetolive", BigInt(row.lease).toString(16)), /granted with TTL\(100s\)/);
  await db.sql("SELECT etcd_put('/f/t', 'y', ignore_lease => true)");
  await db.sql("SELECT etcd_put('/f/t', NULL, ignore_value => true, lease => 0)");
  assert.deepEqual(await rows("SELECT value, lease FROM etcd_get_row('/f/t')"), [{ value: "y", lease: "0" }]);
  assert.equal((await db.failure("SELECT etcd_put('/f/t', 'z', lease => 5, ttl => '1 s')")).code, "22023");
  assert.equal((await db.failure("SELECT etcd_put('/f/t', 'z', ttl => '0 s')")).code, "22023");
  assert.equal((await db.failure("SELECT etcd_put('/f/t', 'z', lease => 5)")).code, "42704");
  assert.equal((await db.failure("SELECT etcd_put('/f/t', NULL)")).code, "22004");
  assert.equal((await db.failure("SELECT etcd_put(NULL::text, 'x')")).code, "22004");
});

test("etcd_range and etcd_count: ranges, orders, bounds, limits, pages", async () => {
  await reset();
  for (const key of ["b", "a", "c", "d"]) await etcd.put(`/r/${key}`, `v${key}`);
  await etcd.put("/r/a", "again");
  const keys = async (args: string) =>
    (await rows(`SELECT key FROM etcd_range(${args})`)).map(({ key }) => key.slice(3));
  assert.deepEqual(await keys("'/r/', true"), ["a", "b", "c", "d"]);
  assert.deepEqual(await keys("'/r/b', range_end => '/r/d'"), ["b", "c"]);
  assert.deepEqual(await keys("'/r/c', range_end => ''"), ["c", "d"]);
  assert.deepEqual(await keys("'/r/b'"), ["b"]);
  assert.deepEqual(await keys("'etcd', '/r/', prefix => true, sort => 'mod_revision DESC', \"limit\" => 2"), [
    "a",
    "d",
  ]);
  assert.deepEqual(await keys("'/r/', true, sort => 'key desc'"), ["d", "c", "b", "a"]);
  const [{ mod_revision: first }] = await rows("SELECT mod_revision FROM etcd_get_row('/r/b')");
  assert.deepEqual(
    await keys(`'/r/', true, min_mod_revision => ${Number(first) + 2}`),
    ["a", "c", "d"],
  );
  assert.deepEqual(await keys(`'/r/', true, max_create_revision => ${Number(first) + 1}`), ["a", "b"]);
  assert.deepEqual(await keys(`'/r/', true, revision => ${first}`), ["b"]);
  assert.deepEqual(
    await rows("SELECT value FROM etcd_range('/r/', true, keys_only => true, \"limit\" => 1)"),
    [{ value: null }],
  );
  assert.equal(await value("SELECT etcd_count('/r/', true)"), "4");
  assert.equal(await value("SELECT etcd_count('/r/b')"), "1");
  assert.equal(await value("SELECT etcd_count('/r/b', range_end => '/r/d')"), "2");
  await etcd.putMany(Array.from({ length: 25_000 }, (_, i) => [`/p/${String(i).padStart(5, "0")}`, `v${i}`]));
  assert.deepEqual(
    await rows(
      "SELECT count(*) AS n, count(DISTINCT key) AS keys, min(value), max(key) FROM etcd_range('/p/', true)",
    ),
    [{ n: "25000", keys: "25000", min: "v0", max: "/p/24999" }],
  );
  assert.equal(await value("SELECT count(*) FROM etcd_range('/p/', true, \"limit\" => 12345)"), "12345");
  for (const bad of ["sort => 'size'", '"limit" => 0', "range_end => 'x'"]) {
    assert.equal((await db.failure(`SELECT * FROM etcd_range('/r/', true, ${bad})`)).code, "22023", bad);
  }
});

test("bytes that are not text have forms of their own, and text says so", async () => {
  await reset();
  await db.sql("SELECT etcd_put('\\x2f62ff'::bytea, '\\x00ff'::bytea)");
  assert.deepEqual(await value("SELECT etcd_get('\\x2f62ff'::bytea)"), Buffer.from([0, 255]));
  assert.deepEqual(await value("SELECT etcd_get('etcd', '\\x2f62ff'::bytea)"), Buffer.from([0, 255]));
  assert.deepEqual(
    await value("SELECT key FROM etcd_range('/b'::bytea, true)"),
    Buffer.from("/b\xff", "latin1"),
  );
  assert.equal(await value("SELECT etcd_cas('\\x2f62ff'::bytea, '\\x00ff'::bytea, '\\x01'::bytea)"), true);
  const error = await db.failure("SELECT * FROM etcd_range('/b', true)");
  assert.equal(error.code, "22021");
  assert.match(error.message, /"\/b\\xff"/);
  assert.match(error.hint!, /bytea/);
  assert.equal((await rows("SELECT * FROM etcd_changes('/b'::bytea, 0)")).length, 1);
  assert.equal((await rows("SELECT * FROM etcd_history('\\x2f62ff'::bytea)")).length, 2);
});

test("values that no request could hold are refused as such, and the session goes on", async () => {
  await reset();
  await db.sql(
    "CREATE FOREIGN TABLE IF NOT EXISTS sized (key text COLLATE \"C\", value text) SERVER etcd OPTIONS (prefix '/s/')",
  );
  const cases: [statement: string, code: RegExp][] = [
    ["SELECT etcd_put('/s/a', repeat('x', 200000000))", /^54000$/],
    ["SELECT etcd_get(repeat('k', 200000000))", /^54000$/],
    ["SELECT count(*) FROM sized WHERE key > '/s/' || repeat('k', 200000000)", /^54000$/],
    ["SELECT count(*) FROM sized WHERE key LIKE '/s/' || repeat('k', 200000000) || '%'", /^54000$/],
    // What one of the engines has no room for, and etcd refuses otherwise.
    ["SELECT etcd_put('/s/a', repeat('x', 30000000))", /^(53200|54000)$/],
  ];
  for (const [statement, code] of cases) {
    const error = await db.failure(statement);
    assert.match(error.code, code, `${statement}: ${error.message}`);
  }
  await db.sql("SELECT etcd_put('/s/a', 'x')");
  assert.equal(await value("SELECT etcd_get('/s/a')"), "x");
  await db.sql("DROP FOREIGN TABLE sized");
});

test("what a function has overwritten or deleted is shown, be it text or not", async () => {
  await reset();
  await db.sql("SELECT etcd_put('\\x2f622f61'::bytea, '\\x00ff'::bytea), etcd_put('/b/b', 'ok')");
  const session = await db.connect();
  const warnings: string[] = [];
  session.on("notice", ({ severity, message }) => warnings.push(`${severity}: ${message}`));
  const shown = async (query: string) => (await session.query({ text: query, rowMode: "array" })).rows;
  try {
    assert.deepEqual(await shown("SELECT prev_key, prev_value FROM etcd_put_returning('/b/a', 'x')"), [
      ["/b/a", "\\x00ff"],
    ]);
    assert.equal(await value("SELECT etcd_get('/b/a')"), "x");
    await db.sql("SELECT etcd_put('\\x2f622fff'::bytea, '\\xfe'::bytea)");
    assert.deepEqual(await shown("SELECT key, value FROM etcd_delete_returning('/b/', true)"), [
      ["/b/a", "x"],
      ["/b/b", "ok"],
      ["\\x2f622fff", "\\xfe"],
    ]);
    assert.deepEqual(warnings, [
      'WARNING: etcd_put_returning() cannot show "\\x00\\xff" as text',
      'WARNING: etcd_delete_returning() cannot show "/b/\\xff" as text',
    ]);
    // Where nothing is lost, it is an error.
    await db.sql("SELECT etcd_put('\\x2f622fff'::bytea, '\\xfe'::bytea)");
    assert.equal((await db.failure("SELECT * FROM etcd_range('/b/', true)")).code, "22021");
  } finally {
    await session.end();
  }
});

test("etcd_changes: the latest state of each key, deletions among them", async () => {
  await reset();
  const start = await etcd.client.revision();
  for (const [key, text] of [["a", "1"], ["b", "1"], ["a", "2"], ["c", "1"]]) {
    await etcd.put(`/c/${key}`, text);
  }
  await etcd.client.delete("/c/b");
  await etcd.put("/elsewhere", "x");
  const changes = (after: bigint | string) =>
    rows(`SELECT key, value, mod_revision, deleted FROM etcd_changes('/c/', ${after})`);
  const all = await changes(start);
  assert.deepEqual(all.map(({ key, value, deleted }) => [key, value, deleted]), [
    ["/c/a", "2", false],
    ["/c/c", "1", false],
    ["/c/b", null, true],
  ]);
  assert.deepEqual(await changes(all[1].mod_revision), [all[2]]);
  assert.deepEqual(await changes(all[2].mod_revision), []);
  assert.deepEqual(await changes("1000000000"), []);
  assert.deepEqual(await changes("9223372036854775806"), []);
  assert.deepEqual(await changes("9223372036854775807"), []);
  await etcd.client.compact(BigInt(all[1].mod_revision));
  const error = await db.failure(`SELECT * FROM etcd_changes('/c/', ${start})`);
  assert.equal(error.code, "22023");
  assert.match(error.hint!, new RegExp(`oldest revision that can be read is ${all[1].mod_revision}`));
  assert.deepEqual(await changes(all[1].mod_revision), [all[2]]);
});

test("etcd_history: every version that is kept, however many", async () => {
  await reset();
  const history = (args: string) => rows(`SELECT * FROM etcd_history(${args})`);
  await etcd.put("/h/a", "1");
  await etcd.client.delete("/h/a");
  await etcd.put("/h/a", "2");
  await etcd.put("/h/a", "3");
  const all = await history("'/h/a'");
  assert.deepEqual(all.map(({ value, version, deleted }) => [value, version, deleted]), [
    ["1", "1", false],
    [null, null, true],
    ["2", "1", false],
    ["3", "2", false],
  ]);
  assert.deepEqual(await history(`'/h/a', ${all[2].revision}`), all.slice(2));
  assert.deepEqual(await history("'/h/a', 9223372036854775807"), []);
  await etcd.client.compact(BigInt(all[2].revision) + 0n);
  assert.deepEqual(await history("'/h/a'"), all.slice(2));
  // More than etcd sends of the past at a time.
  const versions = 3500;
  for (let i = 0; i < versions; i++) await etcd.put("/h/long", String(i));
  await etcd.client.delete("/h/long");
  const long = await history("'/h/long'");
  assert.equal(long.length, versions + 1);
  assert.ok(
    long.slice(0, -1).every(({ value, version }, i) => value === String(i) && version === String(i + 1)),
  );
  assert.equal(long.at(-1)!.deleted, true);
  assert.deepEqual(await history("'/h/none'"), []);
});

test("etcd_txn: comparisons, branches, nesting, bytes", async () => {
  await reset();
  await db.sql("SELECT etcd_put('/t/a', '1'), etcd_put('/t/b', '2')");
  const txn = (json: unknown) =>
    db.sql("SELECT etcd_txn($1) AS t", [JSON.stringify(json)]).then(([{ t }]) => t);
  const done = await txn({
    compare: [{ key: "/t/a", value: "1" }, { key: "/t/", prefix: true, op: ">", version: 0 }, {
      key: "/t/x",
      create_revision: 0,
    }],
    success: [
      { put: { key: "/t/a", value: "one", prev: true } },
      { get: { key: "/t/", prefix: true, sort: "key desc", limit: 1 } },
      { delete: { key: "/t/b", prev: true } },
      {
        txn: {
          compare: [{ key: "/t/a", op: "!=", lease: 0 }],
          failure: [{ put: { key: { hex: "2f742fff" }, value: { hex: "00" } } }],
        },
      },
    ],
    failure: [],
  });
  assert.equal(done.succeeded, true);
  assert.equal(done.responses[0].put.prev.value, "1");
  assert.deepEqual([done.responses[1].get.count, done.responses[1].get.kvs[0].key], [2, "/t/b"]);
  assert.deepEqual([done.responses[2].delete.deleted, done.responses[2].delete.prev[0].value], [1, "2"]);
  assert.equal(done.responses[3].txn.succeeded, false);
  const read = await txn({ success: [{ get: { key: "/t/", prefix: true } }] });
  assert.deepEqual(
    read.responses[0].get.kvs.map((kv: { key: unknown; value: unknown }) => [kv.key, kv.value]),
    [
      ["/t/a", "one"],
      [{ hex: "2f742fff" }, { hex: "00" }],
    ],
  );
  const refused = await txn({
    compare: [{ key: "/t/a", op: "<", mod_revision: 1 }],
    success: [],
    failure: [{ get: { key: "/t/a" } }],
  });
  assert.deepEqual([refused.succeeded, refused.responses[0].get.count], [false, 1]);
  for (
    const bad of [
      { sucess: [] },
      { compare: [{ key: "a" }] },
      { compare: [{ key: "a", op: "~", version: 1 }] },
      { compare: [{ key: "a", version: "x" }] },
      { success: [{ put: { key: "a" } }] },
      { success: [{ swap: {} }] },
      { success: [{ get: { key: "a" }, put: { key: "a", value: "b" } }] },
      { success: [{ get: { key: { hex: "0" } } }] },
      [],
    ]
  ) {
    const error = await db.failure(`SELECT etcd_txn('${JSON.stringify(bad)}')`);
    assert.equal(error.code, "22023", JSON.stringify(bad));
    assert.match(error.message, /^invalid Txn: /);
  }
});

test("etcd_cas, etcd_create and etcd_incr", async () => {
  await reset();
  assert.equal(await value("SELECT etcd_cas('/x', NULL, 'a')"), true);
  assert.equal(await value("SELECT etcd_cas('/x', NULL, 'b')"), false);
  assert.equal(await value("SELECT etcd_cas('/x', 'b', 'c')"), false);
  assert.equal(await value("SELECT etcd_cas('/x', 'a', 'c')"), true);
  assert.equal(await value("SELECT etcd_cas('/x', 'c', NULL)"), true);
  assert.equal(await value("SELECT etcd_get('/x')"), null);
  assert.equal(await value("SELECT etcd_create('/x', '1', ttl => '90 s')"), true);
  assert.equal(await value("SELECT etcd_create('/x', '2')"), false);
  assert.equal(await value("SELECT etcd_incr('/x', 41)"), "42");
  assert.ok(BigInt(await value("SELECT lease FROM etcd_get_row('/x')") as string) > 0n, "the lease is kept");
  assert.equal(await value("SELECT etcd_incr('etcd', '/y')"), "1");
  assert.equal(await value("SELECT etcd_incr('/y', -3)"), "-2");
  await db.sql("SELECT etcd_put('/y', '9223372036854775807'), etcd_put('/z', 'abc')");
  assert.equal((await db.failure("SELECT etcd_incr('/y')")).code, "22003");
  const error = await db.failure("SELECT etcd_incr('/z')");
  assert.equal(error.code, "22P02");
  assert.match(error.message, /"\/z"/);
  const sessions = await Promise.all(Array.from({ length: 6 }, () => db.connect()));
  await Promise.all(
    sessions.map((session) => session.query("SELECT etcd_incr('/n') FROM generate_series(1, 100)")),
  );
  await Promise.all(sessions.map((session) => session.end()));
  assert.equal(await value("SELECT etcd_get('/n')"), "600");
});

test("functions act at once, tables with the transaction", async () => {
  await reset();
  await db.sql("CREATE FOREIGN TABLE kv (key text, value text) SERVER etcd OPTIONS (prefix '/m/')");
  await db.sql("BEGIN");
  await db.sql("INSERT INTO kv VALUES ('/m/table', '1')");
  assert.equal(await value("SELECT etcd_get('/m/table')"), null);
  await db.sql("SELECT etcd_put('/m/function', '1')");
  await db.sql("ROLLBACK");
  assert.deepEqual(await rows("SELECT key FROM kv"), [{ key: "/m/function" }]);
  const [joined] = await rows("SELECT key, etcd_get(key) AS got FROM kv");
  assert.equal(joined.got, "1");
});

test("a session does not disconnect in the middle of a transaction that has written", async () => {
  await db.sql("BEGIN; INSERT INTO kv VALUES ('/m/staged', '1')");
  assert.equal((await db.failure("SELECT etcd_fdw_disconnect()")).code, "55006");
  await db.sql("ROLLBACK; BEGIN; DECLARE c CURSOR FOR SELECT * FROM kv; FETCH 1 FROM c");
  await db.sql("SELECT etcd_fdw_disconnect()");
  await db.sql("ROLLBACK");
  assert.equal(await value("SELECT etcd_fdw_disconnect()"), 0);
  assert.equal(await value("SELECT etcd_get('/m/function')"), "1");
});

test("which server is meant, and who may use it", async () => {
  await db.sql("CREATE SERVER second FOREIGN DATA WRAPPER etcd_fdw; CREATE ROLE nobody LOGIN");
  const ambiguous = await db.failure("SELECT etcd_get('/a')");
  assert.equal(ambiguous.code, "42P08");
  assert.match(ambiguous.hint!, /etcd_fdw\.default_server/);
  await db.sql("SET etcd_fdw.default_server = 'etcd'");
  await db.sql("SELECT etcd_get('/a')");
  await db.sql("SET etcd_fdw.default_server = 'none'");
  assert.equal((await db.failure("SELECT etcd_get('/a')")).code, "42704");
  await db.sql("RESET etcd_fdw.default_server; DROP SERVER second");
  assert.equal((await db.failure("SELECT etcd_get('nowhere', '/a')")).code, "42704");
  assert.equal((await db.failure("SELECT etcd_get(NULL, '/a')")).code, "22004");
  await db.sql("CREATE FOREIGN DATA WRAPPER other; CREATE SERVER theirs FOREIGN DATA WRAPPER other");
  assert.equal((await db.failure("SELECT etcd_get('theirs', '/a')")).code, "42809");
  await db.sql("DROP SERVER theirs");

  const nobody = await db.connect("nobody");
  const refusal = (text: string) => nobody.query(text).then(() => null, (error) => error.code);
  assert.equal(await refusal("SELECT etcd_get('/a')"), "42501");
  await db.sql("GRANT USAGE ON FOREIGN SERVER etcd TO nobody");
  assert.equal(await refusal("SELECT etcd_get('/a')"), null);
  assert.equal(await refusal("SELECT etcd_put('/a', '1')"), null);
  for (
    const admin of [
      "etcd_compact(1)",
      "etcd_snapshot('/tmp/x')",
      "etcd_user_add('a', 'b')",
      "etcd_defragment()",
      "etcd_compact('etcd', 1)",
      "etcd_auth_enable()",
      "etcd_member_remove('1')",
      "etcd_fdw_stat_reset()",
    ]
  ) {
    assert.equal(await refusal(`SELECT ${admin}`), "42501", admin);
  }
  await nobody.end();
});

test("a read-only transaction reads and does not write", async () => {
  await db.sql("BEGIN READ ONLY");
  await db.sql("SELECT etcd_get('/a')");
  const error = await db.failure("SELECT etcd_put('/a', '1')");
  assert.equal(error.code, "25006");
  assert.match(error.message, /etcd_put\(\)/);
  await db.sql("ROLLBACK; BEGIN READ ONLY");
  await db.sql(
    `SELECT etcd_txn('{"success": [{"get": {"key": "/a"}}, {"txn": {"failure": [{"get": {"key": "/b"}}]}}]}')`,
  );
  const nested = await db.failure(
    `SELECT etcd_txn('{"success": [{"txn": {"failure": [{"delete": {"key": "/b"}}]}}]}')`,
  );
  assert.equal(nested.code, "25006");
  await db.sql("ROLLBACK");
});

/** What changes something in etcd, as a call. */
const CHANGING: Record<string, string> = {
  etcd_put: "'/ro', '1'",
  etcd_put_returning: "'/ro', '1'",
  etcd_delete: "'/ro'",
  etcd_delete_returning: "'/ro'",
  etcd_txn: `'{"success": [{"put": {"key": "/ro", "value": "1"}}]}'`,
  etcd_cas: "'/ro', NULL, '1'",
  etcd_create: "'/ro', '1'",
  etcd_incr: "'/ro'",
  etcd_lease_grant: "interval '60 s'",
  etcd_lease_revoke: "7",
  etcd_lease_keepalive: "7",
  etcd_lease_keep: "7",
  etcd_lock: "'ro'",
  etcd_try_lock: "'ro'",
  etcd_campaign: "'ro', 'me'",
  etcd_proclaim: "'ro', 'me'",
  etcd_member_add: "'{http://127.0.0.1:1}'::text[]",
  etcd_member_remove: "'1'",
  etcd_member_promote: "'1'",
  etcd_member_update: "'1', '{http://127.0.0.1:1}'::text[]",
  etcd_move_leader: "'1'",
  etcd_alarm_disarm: "",
  etcd_compact: "1",
  etcd_defragment: "",
  etcd_auth_enable: "",
  etcd_auth_disable: "",
  etcd_user_add: "'u', 'p'",
  etcd_user_delete: "'u'",
  etcd_user_password: "'u', 'p'",
  etcd_user_grant_role: "'u', 'r'",
  etcd_user_revoke_role: "'u', 'r'",
  etcd_role_add: "'r'",
  etcd_role_delete: "'r'",
  etcd_role_grant: "'r', 'read', '/ro'",
  etcd_role_revoke: "'r', '/ro'",
};

/** What only reads, or gives back what the session holds. */
const READING: Record<string, string> = {
  etcd_revision: "",
  etcd_watch: "'/f/x', wait => '0'",
  etcd_get: "'/ro'",
  etcd_get_row: "'/ro'",
  etcd_range: "'/ro'",
  etcd_count: "'/ro'",
  etcd_changes: "'/ro', 1",
  etcd_history: "'/ro'",
  etcd_lease_ttl: "7",
  etcd_lease_keys: "7",
  etcd_lease_release: "7",
  etcd_leases: "",
  etcd_unlock: "'ro'",
  etcd_resign: "'ro'",
  etcd_leader: "'ro'",
  etcd_observe: "'ro', wait => '1 ms'",
  etcd_held: "",
  etcd_status: "",
  etcd_version: "",
  etcd_members: "",
  etcd_alarms: "",
  etcd_hash: "",
  etcd_snapshot_chunks: "",
  etcd_auth_status: "",
  etcd_users: "",
  etcd_roles: "",
};

test("each function that changes something in etcd is refused in a read-only transaction, and no other", async () => {
  const named = await rows("SELECT DISTINCT proname FROM pg_proc WHERE prosrc = 'etcd_fdw_call'");
  const names = named.map(({ proname }) => proname).filter((name) => !name.startsWith("etcd_fdw_"));
  assert.deepEqual(names.sort(), [...Object.keys(CHANGING), ...Object.keys(READING)].sort());
  const revision = await etcd.client.revision();
  const leases = async () => (await rows("SELECT l FROM etcd_leases() l")).map(({ l }) => l);
  const before = await leases();
  await db.sql("BEGIN READ ONLY");
  for (const [calls, refused] of [[CHANGING, true], [READING, false]] as const) {
    for (const [name, args] of Object.entries(calls)) {
      await db.sql("SAVEPOINT s");
      const outcome = await db.sql(`SELECT * FROM ${name}('etcd'${args === "" ? "" : `, ${args}`})`)
        .then(() => undefined, (error) => error.code);
      assert.equal(outcome === "25006", refused, `${name}: ${outcome}`);
      await db.sql("ROLLBACK TO s");
    }
  }
  await db.sql("ROLLBACK");
  assert.equal(await etcd.client.revision(), revision);
  const after = await leases();
  assert.deepEqual(after.filter((lease) => !before.includes(lease)), []);
});

test("what etcd refuses is told with its own words", async () => {
  const large = await db.failure("SELECT etcd_put('/a', repeat('x', 2000000))");
  assert.equal(large.code, "54000");
  const empty = await db.failure("SELECT etcd_put('', 'x')");
  assert.equal(empty.code, "22023");
  assert.match(empty.detail!, /key is not provided/);
  assert.equal((await db.failure("SELECT etcd_get('/a', 99999999)")).code, "22023");
});

test("each function has a comment, names for its parameters, and no argument list that means two things", async () => {
  const nameless = await rows(`
    SELECT p.oid::regprocedure AS f FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
    WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'etcd_fdw')
      AND (obj_description(p.oid, 'pg_proc') IS NULL
        OR p.pronargs > 0 AND p.proargnames IS NULL AND p.proname NOT LIKE 'etcd_fdw%')`);
  assert.deepEqual(nameless, []);
  const volatile = await rows(
    "SELECT proname FROM pg_proc WHERE prosrc = 'etcd_fdw_call' AND provolatile = 'i'",
  );
  assert.deepEqual(volatile, []);
});

test("a function that is altered again and again leaves one description in the session", async () => {
  const contexts = async () => {
    const [{ n }] = await db.sql(
      "SELECT count(*)::int AS n FROM pg_backend_memory_contexts WHERE name = 'etcd_fdw function description'",
    );
    return n;
  };
  await db.sql("SELECT etcd_get('etcd', '/f/none')");
  const before = await contexts();
  for (let i = 1; i <= 20; i++) {
    await db.sql(`ALTER FUNCTION etcd_get(text, text, bigint, boolean) COST ${100 + i}`);
    await db.sql("SELECT etcd_get('etcd', '/f/none')");
  }
  await db.sql("ALTER FUNCTION etcd_get(text, text, bigint, boolean) COST 1");
  assert.ok(await contexts() <= before + 1, `${before} before, ${await contexts()} after`);
});

test("etcd_changes and etcd_delete_returning show however many keys there are", async () => {
  await reset();
  const start = await etcd.client.revision();
  const keys = Array.from({ length: 120_000 }, (_, i): [string, string] => [`/d/${i}`, "x".repeat(100)]);
  await etcd.putMany(keys);
  assert.deepEqual(
    await rows(`SELECT count(DISTINCT key) AS keys, sum(length(value)) AS bytes
      FROM etcd_changes('/d/', ${start})`),
    [{ keys: "120000", bytes: "12000000" }],
  );
  assert.deepEqual(
    await rows(`SELECT count(*) AS n, count(DISTINCT key) AS keys, sum(length(value)) AS bytes,
        count(*) FILTER (WHERE mod_revision = create_revision AND version = 1 AND lease = 0) AS whole
      FROM etcd_delete_returning('/d/', true)`),
    [{ n: "120000", keys: "120000", bytes: "12000000", whole: "120000" }],
  );
  assert.equal(await value("SELECT etcd_count('/d/', true)"), "0");
  await etcd.put("/d\xff", "1");
  assert.deepEqual(await rows("SELECT * FROM etcd_delete_returning('/d/', true)"), []);
});
