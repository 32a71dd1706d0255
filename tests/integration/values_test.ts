// What is written and what is read do not depend on the session, and a statement writes the columns that it names.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("values");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE doc (key text COLLATE "C", value text, ttl int OPTIONS (json 'ttl'), x int OPTIONS (json 'x'),
    deep text OPTIONS (json 'a.b')) SERVER etcd OPTIONS (prefix '/doc/');
  CREATE FOREIGN TABLE part (kind text, name text, value text, n int OPTIONS (json 'n'), left_over interval
    OPTIONS (json 'left'), version bigint) SERVER etcd OPTIONS (key_pattern '/part/{kind}/{name}')`);

async function stored(key: string): Promise<string | undefined> {
  const found = await etcd.get(key);
  return found === null || found === undefined ? undefined : new TextDecoder().decode(found.value);
}

/** Settings that a session may have; with each, text means something else. */
const HOSTILE = `SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET extra_float_digits = -10;
  SET bytea_output = 'escape'; SET lc_monetary = 'C'; SET TimeZone = 'Asia/Kathmandu'`;
const USUAL =
  "RESET DateStyle; RESET IntervalStyle; RESET extra_float_digits; RESET bytea_output; RESET TimeZone";

const TYPES: [type: string, value: string][] = [
  ["date", "2026-05-06"],
  ["timestamp", "2026-05-06 07:08:09.123456"],
  ["timestamptz", "2026-05-06 07:08:09.123456+03:30"],
  ["interval", "-1 mons +2 days -03:00:00"],
  ["float8", "0.1234567890123456"],
  ["float4", "0.12345678"],
  ["point", "(0.1234567890123456,2.5)"],
  ["date[]", "{2026-05-06,2026-07-08}"],
  ["daterange", "[2026-05-06,2026-07-08)"],
  ["spell", '("2026-05-06","-1 mons +2 days -03:00:00")'],
  ["day", "2026-05-06"],
];

test("values come back as they were written, whatever the sessions' settings", async () => {
  await db.sql(
    "CREATE TYPE spell AS (since date, long interval); CREATE DOMAIN day AS date CHECK (VALUE > '2000-01-01')",
  );
  for (const [type, value] of TYPES) {
    const name = `v_${type.replace(/\W/g, "")}_${type.endsWith("]") ? "a" : "s"}`;
    await db.sql(`${USUAL}; CREATE TABLE ${name}_l (v ${type});
      INSERT INTO ${name}_l VALUES ('${value}');
      CREATE FOREIGN TABLE ${name} (key text, value ${type}) SERVER etcd OPTIONS (prefix '/v/${name}/');
      CREATE FOREIGN TABLE ${name}_j (key text, v ${type} OPTIONS (json 'v')) SERVER etcd OPTIONS (prefix '/j/${name}/')`);
    for (const [k, settings] of [["usual", USUAL], ["hostile", HOSTILE]]) {
      await db.sql(`${settings}; INSERT INTO ${name} SELECT '/v/${name}/${k}', v FROM ${name}_l;
        INSERT INTO ${name}_j SELECT '/j/${name}/${k}', v FROM ${name}_l;
        INSERT INTO ${name}_j VALUES ('/j/${name}/${k}2', NULL);
        UPDATE ${name}_j SET v = (SELECT v FROM ${name}_l) WHERE key = '/j/${name}/${k}2'`);
    }
    assert.equal(await stored(`/v/${name}/hostile`), await stored(`/v/${name}/usual`), type);
    assert.equal(await stored(`/j/${name}/hostile`), await stored(`/j/${name}/usual`), type);
    for (const settings of [USUAL, HOSTILE]) {
      await db.sql(settings);
      for (const table of [name, `${name}_j`]) {
        const column = table === name ? "value" : "v";
        const [{ same, all }] = await db.sql(
          `SELECT count(*) FILTER (WHERE record_image_eq(ROW(f.${column}), ROW(l.v))) AS same,
          count(*) AS all FROM ${table} f, ${name}_l l`,
        );
        assert.equal(same, all, `${table} under ${settings}`);
      }
    }
  }
  await db.sql(USUAL);
});

test("money and names keep their meaning under another locale and search_path", async () => {
  await db.sql(`CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.things (); CREATE TABLE public.things ();
    CREATE FOREIGN TABLE m (key text, value money) SERVER etcd OPTIONS (prefix '/m/');
    CREATE FOREIGN TABLE rc (key text, value regclass) SERVER etcd OPTIONS (prefix '/rc/')`);
  await db.sql("SET search_path = elsewhere, public; INSERT INTO rc VALUES ('/rc/1', 'elsewhere.things')");
  assert.equal(await stored("/rc/1"), "elsewhere.things");
  await db.sql("RESET search_path");
  assert.deepEqual(await db.sql("SELECT value = 'elsewhere.things'::regclass AS same FROM rc"), [{
    same: true,
  }]);
  await db.sql("INSERT INTO m VALUES ('/m/1', 1234.5::numeric::money)");
  assert.equal(await stored("/m/1"), "$1,234.50");
});

test("the session's settings are as before, after an error too", async () => {
  await db.sql(`CREATE FOREIGN TABLE bad (key text, value date) SERVER etcd OPTIONS (prefix '/bad/')`);
  await etcd.put("/bad/1", "no date");
  await db.sql("SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'");
  assert.equal((await db.failure("SELECT * FROM bad")).code, "22007");
  await db.sql(`DO $$ BEGIN PERFORM value FROM bad; EXCEPTION WHEN others THEN
    IF current_setting('DateStyle') <> 'German, DMY' THEN RAISE 'it is %', current_setting('DateStyle'); END IF; END $$`);
  assert.deepEqual(
    await db.sql("SELECT current_setting('DateStyle') AS d, current_setting('IntervalStyle') AS i"),
    [
      { d: "German, DMY", i: "iso_8601" },
    ],
  );
  await db.sql("RESET DateStyle; RESET IntervalStyle");
});

test("a domain's check runs under the session's own settings", async () => {
  await db.sql(`CREATE FUNCTION own_style(date) RETURNS boolean LANGUAGE sql VOLATILE AS
      $$ SELECT current_setting('DateStyle') = 'German, DMY' $$;
    CREATE DOMAIN styled AS date CHECK (own_style(VALUE));
    SET DateStyle = 'German';
    CREATE FOREIGN TABLE st (key text, value styled) SERVER etcd OPTIONS (prefix '/st/')`);
  await etcd.put("/st/1", "2026-05-06");
  assert.equal((await db.sql("SELECT count(value) AS n FROM st"))[0].n, "1");
  await db.sql("RESET DateStyle");
});

test("INSERT writes the fields that it names; the others stay as the document has them", async () => {
  const document = '{"ttl":20,"x":1}';
  await db.sql(`INSERT INTO doc (key, value) VALUES ('/doc/a', '${document}')`);
  assert.equal(await stored("/doc/a"), document);
  await db.sql(`INSERT INTO doc VALUES ('/doc/b', '${document}')`);
  assert.equal(await stored("/doc/b"), document);
  await db.sql(String.raw`COPY doc (key, value) FROM PROGRAM 'printf "/doc/c\t{\"ttl\":20,\"x\":1}\n"'`);
  assert.equal(await stored("/doc/c"), document);
  await db.sql(`INSERT INTO doc (key, value, x) VALUES ('/doc/d', '${document}', 5)`);
  assert.equal(await stored("/doc/d"), '{"x": 5, "ttl": 20}');
  // A column that is named takes its field away with NULL.
  await db.sql(`INSERT INTO doc (key, value, x) VALUES ('/doc/e', '${document}', NULL)`);
  assert.equal(await stored("/doc/e"), '{"ttl": 20}');
  await db.sql(`INSERT INTO doc (key, x) VALUES ('/doc/f', 5); INSERT INTO doc (key) VALUES ('/doc/g')`);
  assert.deepEqual([await stored("/doc/f"), await stored("/doc/g")], ['{"x": 5}', "{}"]);
  // A document without fields is one that names none.
  await db.sql(`INSERT INTO doc (key, value) VALUES ('/doc/h', '[ 1 ]')`);
  assert.equal(await stored("/doc/h"), "[ 1 ]");
  await db.sql(`PREPARE ins(text, text) AS INSERT INTO doc (key, value) VALUES ($1, $2);
    SET plan_cache_mode = force_generic_plan; EXECUTE ins('/doc/i', '${document}'); EXECUTE ins('/doc/j', '${document}');
    RESET plan_cache_mode`);
  assert.deepEqual([await stored("/doc/i"), await stored("/doc/j")], [document, document]);
});

test("INSERT names columns through views, partitions, defaults and triggers", async () => {
  const document = '{"ttl":20,"x":1}';
  await db.sql(`CREATE VIEW docs AS SELECT key AS k, value AS v, x FROM doc;
    INSERT INTO docs (k, v) VALUES ('/doc/v', '${document}')`);
  assert.equal(await stored("/doc/v"), document);
  // The partition has its columns in another order than the parent.
  await db.sql(
    `CREATE TABLE parts (x int, region text, value text, key text, ttl int) PARTITION BY LIST (region);
    CREATE FOREIGN TABLE far (key text, value text, ttl int OPTIONS (json 'ttl'), region text OPTIONS (json 'region'),
      x int OPTIONS (json 'x')) SERVER etcd OPTIONS (prefix '/far/');
    ALTER TABLE parts ATTACH PARTITION far FOR VALUES IN ('far');
    CREATE TABLE near PARTITION OF parts FOR VALUES IN ('near');
    INSERT INTO parts (key, value, region) VALUES ('/far/1', '${document}', 'far')`,
  );
  assert.equal(await stored("/far/1"), '{"x": 1, "ttl": 20, "region": "far"}');
  await db.sql(
    String.raw`COPY parts (key, value, region) FROM PROGRAM 'printf "/far/2\t{\"ttl\":20,\"x\":1}\tfar\n"'`,
  );
  assert.equal(await stored("/far/2"), '{"x": 1, "ttl": 20, "region": "far"}');
  await db.sql(`INSERT INTO parts VALUES (7, 'near', '{"x":1,"ttl":20}', '/far/3', 9);
    UPDATE parts SET region = 'far', ttl = NULL WHERE key = '/far/3'`);
  assert.equal(await stored("/far/3"), '{"x": 7, "region": "far"}');
  await db.sql(`ALTER FOREIGN TABLE doc ALTER deep SET DEFAULT 'd';
    INSERT INTO doc (key, value) VALUES ('/doc/w', '{"x":1}')`);
  assert.equal(await stored("/doc/w"), '{"a": {"b": "d"}, "x": 1}');
  await db.sql(`ALTER FOREIGN TABLE doc ALTER deep DROP DEFAULT;
    CREATE FUNCTION set_x() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.x := 8; RETURN NEW; END $$;
    CREATE TRIGGER set_x BEFORE INSERT ON doc FOR EACH ROW EXECUTE FUNCTION set_x();
    INSERT INTO doc (key, value) VALUES ('/doc/y', '{"ttl":1}');
    DROP TRIGGER set_x ON doc`);
  assert.equal(await stored("/doc/y"), '{"x": 8, "ttl": 1}');
});

test("RETURNING shows the document, its fields and the key's parts as they are written", async () => {
  await etcd.put("/doc/r", '{"x":1,"ttl":2}');
  assert.deepEqual(await db.sql("UPDATE doc SET x = 5 WHERE key = '/doc/r' RETURNING value, x, ttl"), [
    { value: '{"x": 5, "ttl": 2}', x: 5, ttl: 2 },
  ]);
  assert.deepEqual(await db.sql(`UPDATE doc SET value = '{"x":9}' WHERE key = '/doc/r' RETURNING *`), [
    { key: "/doc/r", value: '{"x":9}', ttl: null, x: 9, deep: null },
  ]);
  assert.deepEqual(
    await db.sql(`INSERT INTO doc (key, value) VALUES ('/doc/s', '{"x":3}') RETURNING x, deep, value`),
    [
      { x: 3, deep: null, value: '{"x":3}' },
    ],
  );
  await db.sql("ALTER FOREIGN TABLE part ADD key text");
  assert.deepEqual(
    await db.sql(`INSERT INTO part (key, value) VALUES ('/part/a/b', '{"n":1}')
    RETURNING kind, name, key, n, version`),
    [{ kind: "a", name: "b", key: "/part/a/b", n: 1, version: "1" }],
  );
  assert.deepEqual(
    await db.sql("UPDATE part SET kind = 'c', n = 2 WHERE name = 'b' RETURNING key, kind, name, value"),
    [{ key: "/part/c/b", kind: "c", name: "b", value: '{"n": 2}' }],
  );
  assert.deepEqual(
    await db.sql("UPDATE part SET key = '/part/d/e' WHERE name = 'b' RETURNING key, kind, name, n"),
    [{ key: "/part/d/e", kind: "d", name: "e", n: 2 }],
  );
  assert.deepEqual(await db.sql("SELECT kind, name, n FROM part"), [{ kind: "d", name: "e", n: 2 }]);
});

test("a key that the pattern does not read back is not written", async () => {
  const error = await db.failure("INSERT INTO part (key, value) VALUES ('/part/only', '{}')");
  assert.equal(error.code, "44000");
  assert.equal(await stored("/part/only"), undefined);
});

test("RETURNING ttl shows what is left of the lease", async () => {
  await db.sql(
    "CREATE FOREIGN TABLE lived (key text, value text, lease bigint, ttl int) SERVER etcd OPTIONS (prefix '/l/')",
  );
  const [row] = await db.sql(
    "INSERT INTO lived (key, value, ttl) VALUES ('/l/1', 'x', 900) RETURNING lease > 0 AS leased, ttl",
  );
  assert.equal(row.leased, true);
  assert.ok(row.ttl > 800 && row.ttl <= 900, String(row.ttl));
  const [updated] = await db.sql("UPDATE lived SET value = 'y' WHERE key = '/l/1' RETURNING ttl");
  assert.ok(updated.ttl > 800 && updated.ttl <= 900, String(updated.ttl));
  const [deleted] = await db.sql("DELETE FROM lived WHERE key = '/l/1' RETURNING ttl, value");
  assert.ok(deleted.ttl > 800 && deleted.ttl <= 900, String(deleted.ttl));
  assert.equal(deleted.value, "y");
});

test("an error names column, table and key", async () => {
  await etcd.put("/bad/2", "12");
  const error = await db.failure("SELECT * FROM bad WHERE key = '/bad/1'");
  assert.match(error.where ?? "", /column "value" of foreign table "bad", etcd key "\/bad\/1"/);
});
