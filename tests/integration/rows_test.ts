// What an UPDATE or DELETE knows of the rows that it changes, when other parts of the statement or triggers look at the
// same rows.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("rows");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE t (key text, value text, mod_revision bigint, lease bigint, ttl interval)
    SERVER etcd OPTIONS (prefix '/t/');
  CREATE FOREIGN TABLE doc (key text, a text OPTIONS (json 'a'), b text OPTIONS (json 'b'))
    SERVER etcd OPTIONS (prefix '/doc/')`);

/** A part of a statement that finds all rows by their keys alone, and changes none. */
const KEYS_ALONE = (table: string) => `DELETE FROM ${table} WHERE key LIKE '%nothing'`;

test("a row keeps its value when another part of the statement reads keys alone", async () => {
  const cases: [query: (keysAlone: string) => string, order: string][] = [];
  for (const table of ["t", "doc"]) {
    const update = table === "t" ? "SET lease = 0" : "SET a = 'new'";
    cases.push([
      (other) => `WITH u AS (UPDATE ${table} ${update} WHERE key LIKE '/${table}/%b') ${other}`,
      table,
    ]);
    cases.push([
      (other) => `WITH u AS (${other}) UPDATE ${table} ${update} WHERE key LIKE '/${table}/%b'`,
      table,
    ]);
    cases.push([
      (other) =>
        `WITH u AS (UPDATE ${table} SET key = key || 'b' WHERE key LIKE '/${table}/%b' RETURNING key) ${other}
        AND key NOT IN (SELECT key FROM u)`,
      table,
    ]);
  }
  const big = "x".repeat(3000);
  for (const memory of ["4MB", "64kB"]) {
    await db.sql(`SET work_mem = '${memory}'`);
    for (const [query, table] of cases) {
      const document = JSON.stringify({ a: "old", b: big, c: 1 });
      await etcd.client.deletePrefix(`/${table}/`);
      await etcd.putMany(
        Array.from({ length: 60 }, (_, i): [string, string] => [
          `/${table}/${"k".repeat(1500)}${i}${i % 10 === 0 ? "b" : "a"}`,
          table === "t" ? big : document,
        ]),
      );
      await db.sql(query(KEYS_ALONE(table)));
      const wrong = table === "t"
        ? await db.sql("SELECT key FROM t WHERE value <> repeat('x', 3000)")
        : await db.sql("SELECT key FROM doc WHERE b IS DISTINCT FROM repeat('x', 3000)");
      assert.deepEqual(wrong.map(({ key }) => key.slice(-5)), [], query("..."));
      assert.equal((await db.sql(`SELECT count(*) AS n FROM ${table}`))[0].n, "60", query("..."));
    }
  }
  await db.sql("RESET work_mem");
});

test("a BEFORE UPDATE trigger sets no more than what it changes", async () => {
  await db.sql(`DELETE FROM t; DELETE FROM doc;
    CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.value = 'shout' THEN NEW.value := upper(NEW.value); END IF;
      IF NEW.value = 'move' THEN NEW.key := NEW.key || '!'; END IF;
      IF NEW.value = 'expire' THEN NEW.ttl := NULL; END IF;
      IF NEW.value = 'forge' THEN NEW.mod_revision := 1; END IF;
      RETURN NEW; END $$;
    CREATE TRIGGER change BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION change();
    INSERT INTO t (key, value, ttl) VALUES ('/t/a', 'old', '1 hour')`);
  const lease = async () => (await etcd.get("/t/a"))?.lease;
  const granted = await lease();
  assert.ok(granted);
  assert.deepEqual(await db.sql("UPDATE t SET value = 'shout' RETURNING value"), [{ value: "SHOUT" }]);
  assert.equal(await lease(), granted);
  const forged = await db.failure("UPDATE t SET value = 'forge'");
  assert.equal(forged.code, "428C9");
  assert.match(forged.message, /column "mod_revision" of foreign table "t" can not be updated/);
  await db.sql("UPDATE t SET value = 'expire'");
  assert.equal(await lease(), 0n);
  await db.sql("UPDATE t SET value = 'move'");
  assert.deepEqual(await db.sql("SELECT key, value FROM t"), [{ key: "/t/a!", value: "move" }]);
  await db.sql("DROP TRIGGER change ON t");
});

test("a BEFORE UPDATE trigger that changes nothing leaves key and document as they are", async () => {
  await etcd.put("/oi/05", "1");
  const document = '{"b": 1.0,   "a": "x", "gone": null}';
  await etcd.put("/doc/1", document);
  await db.sql(`CREATE FOREIGN TABLE oi (dropped text OPTIONS (json 'x'), key int, value text, version bigint,
      create_revision bigint) SERVER etcd OPTIONS (prefix '/oi/', strip_prefix 'true');
    ALTER FOREIGN TABLE oi DROP COLUMN dropped;
    CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF TG_TABLE_NAME = 'doc' THEN IF NEW.a = 'field' THEN NEW.b := 'set'; END IF; END IF;
      RETURN NEW; END $$;
    CREATE TRIGGER same BEFORE UPDATE ON oi FOR EACH ROW EXECUTE FUNCTION same();
    CREATE TRIGGER same BEFORE UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION same();
    UPDATE oi SET value = repeat('long', 100000)`);
  assert.equal((await etcd.get("/oi/05"))?.value.length, 400000);
  await db.sql("UPDATE oi SET value = '2'; UPDATE oi SET key = 6");
  assert.equal(await etcd.get("/oi/05"), null);
  assert.deepEqual(await db.sql("SELECT key, value FROM oi"), [{ key: 6, value: "2" }]);
  await db.sql("UPDATE doc SET key = '/doc/2'");
  assert.equal(new TextDecoder().decode((await etcd.get("/doc/2"))!.value), document);
  await db.sql("UPDATE doc SET a = 'field'");
  assert.deepEqual(JSON.parse(new TextDecoder().decode((await etcd.get("/doc/2"))!.value)), {
    a: "field",
    b: "set",
    gone: null,
  });
  await db.sql("DROP TRIGGER same ON doc");
});

test("the parts of a key are read as they were written, or not written", async () => {
  await db.sql(`CREATE FOREIGN TABLE pairs (a text, b text, value text) SERVER etcd
      OPTIONS (key_pattern '/p/{a}--{b}');
    CREATE FOREIGN TABLE triples (a text, b text, c text, value text) SERVER etcd
      OPTIONS (key_pattern '/3/{a}-{b}.x/{c*}.x')`);
  const wrong: [into: string, part: string][] = [
    ["pairs VALUES ('x-', 'b', '1')", "a"],
    ["pairs VALUES ('x--y', 'b', '1')", "a"],
    ["pairs VALUES ('x---', 'b', '1')", "a"],
    ["pairs VALUES ('--', 'b', '1')", "a"],
    ["pairs VALUES ('', 'b', '1')", "a"],
    ["pairs VALUES ('x', 'b/c', '1')", "b"],
    ["triples VALUES ('a-', 'b', 'c', '1')", "a"],
    ["triples VALUES ('a', 'b.x/', 'c', '1')", "b"],
    ["triples VALUES ('a', 'b', '', '1')", "c"],
  ];
  for (const [into, part] of wrong) {
    const error = await db.failure(`INSERT INTO ${into}`);
    assert.equal(error.code, "44000", into);
    assert.match(
      error.message,
      new RegExp(`^value ".*" of column "${part}" cannot be a part of the key`),
      into,
    );
  }
  const right = [["-x", "-b"], ["-", "--b--"], ["x-y", "b-"]];
  await db.sql(`INSERT INTO pairs VALUES ${right.map(([a, b]) => `('${a}', '${b}', '1')`)}`);
  await db.sql("INSERT INTO triples VALUES ('-', '-b.x', 'c/.x/.x', '1')");
  assert.deepEqual(
    (await db.sql("SELECT a, b FROM pairs")).map(({ a, b }) => `${a} ${b}`).sort(),
    right.map((r) => r.join(" ")).sort(),
  );
  assert.deepEqual(await db.sql("SELECT a, b, c FROM triples"), [{ a: "-", b: "-b.x", c: "c/.x/.x" }]);
  assert.equal((await db.failure("UPDATE pairs SET a = 'y-' WHERE b = 'b-'")).code, "44000");
});

test("a table of keys alone returns what it deletes, without values", async () => {
  await etcd.putMany([["/k/1", "a"], ["/k/2", "b"]]);
  await db.sql(`CREATE FOREIGN TABLE k (key text, value text, field text OPTIONS (json 'x'), version bigint)
    SERVER etcd OPTIONS (prefix '/k/', keys_only 'true')`);
  assert.deepEqual(await db.sql("DELETE FROM k WHERE key = '/k/1' RETURNING *"), [
    { key: "/k/1", value: null, field: null, version: "1" },
  ]);
  assert.deepEqual(await db.sql("DELETE FROM k WHERE key LIKE '%2' RETURNING value"), [{ value: null }]);
  assert.equal((await db.failure("UPDATE k SET value = 'x'")).code, "55000");
  assert.deepEqual(await db.sql("SELECT key FROM k"), []);
});

test("a field within a field of another column is written into it, or not at all", async () => {
  await db.sql(
    `CREATE FOREIGN TABLE within (key text, b text OPTIONS (json 'a.b'), a jsonb OPTIONS (json 'a'))
      SERVER etcd OPTIONS (prefix '/in/');
    CREATE FOREIGN TABLE against (key text, a int OPTIONS (json 'a'), b text OPTIONS (json 'a.b'), c text OPTIONS (json 'c'))
      SERVER etcd OPTIONS (prefix '/in/');
    INSERT INTO within VALUES ('/in/1', 'x', '{"n": 1}')`,
  );
  assert.deepEqual(await db.sql("SELECT a, b FROM within"), [{ a: { b: "x", n: 1 }, b: "x" }]);
  assert.deepEqual(await db.sql("SELECT b FROM against"), [{ b: "x" }]);
  for (const query of ["INSERT INTO against VALUES ('/in/2', 1, 'x')", "UPDATE against SET b = 'x'"]) {
    const error = await db.failure(query);
    assert.equal(error.code, "55000", query);
    assert.match(error.message, /column "b" of foreign table "against" .* column "a"/);
  }
  await db.sql("DELETE FROM against");
  await etcd.put("/in/3", '{"a": 1}');
  assert.deepEqual(await db.sql("UPDATE against SET c = 'y' RETURNING a, b, c"), [{ a: 1, b: null, c: "y" }]);
});

test("a field is written where the rest of the value stays, or not at all", async () => {
  await db.sql(
    `CREATE FOREIGN TABLE places (key text, first text OPTIONS (json 'l.0'), second text OPTIONS (json 'l.1'),
      fourth text OPTIONS (json 'l.3'), within_null text OPTIONS (json 'l.2.x'),
      behind text OPTIONS (json 'l.4.x'), bc text OPTIONS (json 'b.c'),
      nc text OPTIONS (json 'n.c')) SERVER etcd OPTIONS (prefix '/places/')`,
  );
  const document = '{"l": ["one", "two", null], "b": "keep me", "n": null}';
  const stored = async () => new TextDecoder().decode((await etcd.get("/places/1"))!.value);
  const kept: [set: string, document: string][] = [
    ["first = 'x'", '{"b": "keep me", "l": ["x", "two", null], "n": null}'],
    ["nc = 'x'", '{"b": "keep me", "l": ["one", "two", null], "n": {"c": "x"}}'],
    ["within_null = 'x'", '{"b": "keep me", "l": ["one", "two", {"x": "x"}], "n": null}'],
    [
      "fourth = NULL, within_null = NULL, behind = NULL, bc = NULL, nc = NULL",
      '{"b": "keep me", "l": ["one", "two", null], "n": null}',
    ],
  ];
  for (const [set, expected] of kept) {
    await etcd.put("/places/1", document);
    await db.sql(`UPDATE places SET ${set}`);
    assert.deepEqual(JSON.parse(await stored()), JSON.parse(expected), set);
  }
  await etcd.put("/places/1", document);
  const refused: [set: string, column: string, detail: RegExp][] = [
    ["first = NULL", "first", /"l\.0" is an element of an array/],
    ["fourth = 'x'", "fourth", /"l\.3" would be an element/],
    ["behind = 'x'", "behind", /"l\.4" would be an element/],
    ["bc = 'x'", "bc", /"b" of its value is no object/],
  ];
  for (const [set, column, detail] of refused) {
    const error = await db.failure(`UPDATE places SET ${set}`);
    assert.equal(error.code, "22023", set);
    assert.match(
      error.message,
      new RegExp(`column "${column}" of foreign table "places" .* key "/places/1"`),
    );
    assert.match(error.detail!, detail);
    assert.match(error.hint!, /jsonb/);
    assert.equal(await stored(), document, set);
  }
  for (const scalar of ['"text"', "5", "null"]) {
    await etcd.put("/places/1", scalar);
    for (const set of ["bc = 'x'", "bc = NULL"]) {
      const error = await db.failure(`UPDATE places SET ${set}`);
      assert.equal(error.code, "22023", scalar);
      assert.match(error.message, /key "\/places\/1" in foreign table "places" has no fields/);
    }
  }
});

test("two columns of one field are written one at a time", async () => {
  await db.sql(`DELETE FROM doc; CREATE FOREIGN TABLE twice (key text, a jsonb OPTIONS (json 'f.x'),
      b text OPTIONS (json 'f.x'), other text OPTIONS (json 'f.y')) SERVER etcd OPTIONS (prefix '/doc/')`);
  await db.sql(
    "INSERT INTO twice (key, a) VALUES ('/doc/1', '1'); INSERT INTO twice (key, b) VALUES ('/doc/2', '2')",
  );
  await db.sql("UPDATE twice SET b = '3' WHERE key = '/doc/1'; UPDATE twice SET other = 'o'");
  assert.deepEqual(await db.sql("SELECT key, a, b FROM twice ORDER BY key"), [
    { key: "/doc/1", a: "3", b: "3" },
    { key: "/doc/2", a: "2", b: "2" },
  ]);
  await db.sql(`CREATE FUNCTION set_both() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.other = 'both' THEN NEW.a := '"t"'; NEW.b := 'u'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER set_both BEFORE INSERT OR UPDATE ON twice FOR EACH ROW EXECUTE FUNCTION set_both()`);
  for (
    const statement of [
      "INSERT INTO twice (key, a, b) VALUES ('/doc/3', '1', '2')",
      "INSERT INTO twice VALUES ('/doc/3', '1', NULL, 'x')",
      "INSERT INTO twice (key, other) VALUES ('/doc/3', 'both')",
      "UPDATE twice SET a = '1', b = '2'",
      "UPDATE twice SET other = 'both'",
    ]
  ) {
    const error = await db.failure(statement);
    assert.equal(error.code, "55000", statement);
    assert.match(error.message, /columns "a" and "b" of foreign table "twice"/);
  }
});

test("an element of an array that two columns name from either end is written by one of them", async () => {
  await db.sql(
    `CREATE FOREIGN TABLE ends (key text, first text OPTIONS (json 'l.0'), second text OPTIONS (json 'l.1'),
      last text OPTIONS (json 'l.-1'), deep text OPTIONS (json 'm.0.x'), same_deep text OPTIONS (json 'm.-2.x'),
      value text) SERVER etcd OPTIONS (prefix '/doc/')`,
  );
  await etcd.client.deletePrefix("/doc/");
  await etcd.put("/doc/1", '{"l": ["one", "two"], "m": [{}, {}]}');
  for (const set of ["second = 'x', last = 'y'", "deep = 'x', same_deep = 'y'"]) {
    const error = await db.failure(`UPDATE ends SET ${set}`);
    assert.equal(error.code, "55000", set);
    assert.match(error.message, /cannot both be set/);
  }
  const set = "first = 'x', last = 'y', deep = 'z'";
  assert.deepEqual(
    (await db.sql(`UPDATE ends SET ${set} RETURNING value`)).map(({ value }) => JSON.parse(value)),
    [{ l: ["x", "y"], m: [{ x: "z" }, {}] }],
  );
  await db.sql("DELETE FROM ends");
});

test("floats keep their sign, and errors show the beginning of a long key", async () => {
  await db.sql(
    `CREATE FOREIGN TABLE floats (key text, f float8 OPTIONS (json 'f'), g float4 OPTIONS (json 'g'))
    SERVER etcd OPTIONS (prefix '/f/'); INSERT INTO floats VALUES ('/f/1', '-0', '-0')`,
  );
  assert.deepEqual(await db.sql("SELECT f::text, g::text FROM floats"), [{ f: "-0", g: "-0" }]);
  const long = `'/t/' || repeat('k', 500000)`;
  await db.sql(`INSERT INTO t (key) VALUES (${long})`);
  for (const block of ["", "BEGIN;"]) {
    const error = await db.failure(`${block} INSERT INTO t (key) VALUES (${long})`);
    assert.equal(error.code, "23505");
    assert.ok(`${error.message}${error.detail}`.length < 1000);
    await db.sql("ROLLBACK");
  }
  const error = await db.failure(`INSERT INTO t (key) VALUES ('/t/' || repeat('k', 2000000))`);
  assert.equal(error.code, "54000");
  assert.ok(`${error.message}${error.detail}`.length < 1000);
  await db.sql("DELETE FROM t");
});

const [{ server_version_num: version }] = await db.sql("SHOW server_version_num");
if (Number(version) >= 180_000) {
  test("a virtual generated column is computed, and has no place in etcd", async () => {
    await db.sql(
      `CREATE FOREIGN TABLE computed (key text, a int OPTIONS (json 'a'), b int GENERATED ALWAYS AS (a * 2) VIRTUAL)
        SERVER etcd OPTIONS (prefix '/v/');
      CREATE FOREIGN TABLE wrong_place (key text, a int OPTIONS (json 'a'),
        b int OPTIONS (json 'b') GENERATED ALWAYS AS (a * 2) VIRTUAL) SERVER etcd OPTIONS (prefix '/v/')`,
    );
    assert.deepEqual(await db.sql("INSERT INTO computed (key, a) VALUES ('/v/1', 5) RETURNING a, b"), [{
      a: 5,
      b: 10,
    }]);
    assert.deepEqual(await db.sql("UPDATE computed SET a = 6 WHERE b = 10 RETURNING b"), [{ b: 12 }]);
    assert.deepEqual(await db.sql("SELECT b FROM computed WHERE b > 11"), [{ b: 12 }]);
    assert.equal(new TextDecoder().decode((await etcd.get("/v/1"))!.value), '{"a": 6}');
    for (
      const statement of ["SELECT a FROM wrong_place", "INSERT INTO wrong_place (key, a) VALUES ('/v/2', 1)"]
    ) {
      const error = await db.failure(statement);
      assert.match(error.message, /column "b" of foreign table "wrong_place" is virtual/, statement);
      assert.match(error.hint!, /STORED/);
    }
  });
}

test("BEFORE UPDATE triggers and fields of fields", async () => {
  await db.sql(`DELETE FROM doc; CREATE FOREIGN TABLE deep (key text, spec jsonb OPTIONS (json 'spec'),
      n int OPTIONS (json 'spec.n'), say text OPTIONS (json 'say')) SERVER etcd OPTIONS (prefix '/doc/');
    CREATE FOREIGN TABLE wrong (key text, spec int OPTIONS (json 'spec'), n int OPTIONS (json 'spec.n'),
      say text OPTIONS (json 'say')) SERVER etcd OPTIONS (prefix '/doc/');
    CREATE FUNCTION dig() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.say = 'inner' THEN NEW.n := 7; END IF;
      IF NEW.say = 'outer' THEN NEW.spec := 5; END IF;
      IF NEW.say = 'outer and inner' THEN NEW.spec := '{"m": 1}'; NEW.n := 8; END IF;
      RETURN NEW; END $$;
    CREATE TRIGGER dig BEFORE INSERT OR UPDATE ON deep FOR EACH ROW EXECUTE FUNCTION dig();
    CREATE TRIGGER dig BEFORE INSERT OR UPDATE ON wrong FOR EACH ROW EXECUTE FUNCTION dig()`);
  const document = async () => JSON.parse(new TextDecoder().decode((await etcd.get("/doc/1"))!.value));
  const cases: [set: string, document: unknown][] = [
    ["say = 'inner'", { spec: { n: 7, x: 1 }, say: "inner" }],
    ["say = 'outer'", { spec: 5, say: "outer" }],
    ["say = 'outer and inner'", { spec: { m: 1, n: 8 }, say: "outer and inner" }],
    ["spec = '{\"y\": 2}', say = 'inner'", { spec: { y: 2, n: 7 }, say: "inner" }],
    ["n = 3, say = 'outer and inner'", { spec: { m: 1, n: 8 }, say: "outer and inner" }],
    ["n = 3", { spec: { n: 3, x: 1 } }],
  ];
  for (const [set, expected] of cases) {
    await etcd.put("/doc/1", '{"spec": {"n": 1, "x": 1}}');
    await db.sql(`UPDATE deep SET ${set}`);
    assert.deepEqual(await document(), expected, set);
  }
  // Into what is no JSON, nothing is written, whoever says so.
  await etcd.put("/doc/1", '{"spec": 4}');
  for (const set of ["n = 1", "say = 'inner'", "say = 'outer'", "spec = 5"]) {
    const error = await db.failure(`UPDATE wrong SET ${set}`);
    assert.equal(error.code, "55000", set);
    assert.match(error.message, /column "n" of foreign table "wrong" .* column "spec"/);
  }
  await db.sql("UPDATE wrong SET say = 'nothing'");
  assert.deepEqual(await document(), { spec: 4, say: "nothing" });
});

test("rows that an UPDATE moves to a partition with triggers hold what it sets", async () => {
  await db.sql(`CREATE TABLE up (key text COLLATE "C", n int, value text, extra text) PARTITION BY LIST (n);
    CREATE FOREIGN TABLE up1 PARTITION OF up FOR VALUES IN (1) SERVER etcd OPTIONS (prefix '/up/');
    ALTER FOREIGN TABLE up1 ALTER n OPTIONS (ADD json 'n');
    ALTER FOREIGN TABLE up1 ALTER extra OPTIONS (ADD json 'extra');
    CREATE TABLE up2 PARTITION OF up FOR VALUES IN (2);
    CREATE FUNCTION as_it_is() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TRIGGER b BEFORE UPDATE ON up1 FOR EACH ROW EXECUTE FUNCTION as_it_is();
    INSERT INTO up SELECT '/up/' || i, 1 + (i > 2)::int, '{"extra":"keep","x":' || i || '}', NULL
      FROM generate_series(1, 8) i`);
  await db.sql("UPDATE up SET n = 1, extra = NULL");
  assert.deepEqual(
    (await db.sql("SELECT value::jsonb AS value FROM up ORDER BY key")).map(({ value }) => value),
    Array.from({ length: 8 }, (_, i) => ({ n: 1, x: i + 1 })),
  );
  await db.sql("DELETE FROM up");
});
