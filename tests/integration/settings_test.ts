// Settings of a session that are seldom changed, and change what text means: what etcd holds, and what is read of it, is
// the same under them.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("settings");

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE TYPE pair AS (list text[], class regclass); CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.there (a int);
  CREATE TYPE deep AS (one pair, many pair[]); CREATE DOMAIN named AS pair; CREATE TYPE nothing AS ();
  CREATE TYPE class_range AS RANGE (subtype = regclass, subtype_opclass = oid_ops)`);

/** A type, a value of it, a setting that changes what its functions do, and what etcd is to hold. */
const CASES: [type: string, value: string, setting: string, text: string][] = [
  ["text[]", "ARRAY['a', NULL]", "array_nulls = off", "{a,NULL}"],
  ["pair", "ROW(ARRAY['a', NULL], 'pg_class')", "array_nulls = off", '("{a,NULL}",pg_class)'],
  ["pair", "ROW(ARRAY['a'], 'pg_class')", "quote_all_identifiers = on", "({a},pg_class)"],
  ["regclass", "'pg_class'", "quote_all_identifiers = on", "pg_class"],
  ["regtype[]", "ARRAY['int4'::regtype]", "quote_all_identifiers = on", "{integer}"],
  ["regclass", "'elsewhere.there'", "search_path = elsewhere, public", "elsewhere.there"],
  [
    "regclass[]",
    "ARRAY['elsewhere.there'::regclass]",
    "search_path = elsewhere, public",
    "{elsewhere.there}",
  ],
  ["pair", "ROW(NULL, 'elsewhere.there')", "search_path = elsewhere, public", "(,elsewhere.there)"],
  [
    "pair[]",
    "ARRAY[ROW(NULL, 'elsewhere.there')::pair]",
    "search_path = elsewhere, public",
    '{"(,elsewhere.there)"}',
  ],
  ["named", "ROW(NULL, 'elsewhere.there')::pair", "search_path = elsewhere, public", "(,elsewhere.there)"],
  [
    "deep",
    "ROW(NULL, ARRAY[ROW(NULL, 'elsewhere.there')::pair])",
    "search_path = elsewhere, public",
    '(,"{""(,elsewhere.there)""}")',
  ],
  [
    "class_range",
    "class_range('elsewhere.there', NULL)",
    "search_path = elsewhere, public",
    "[elsewhere.there,)",
  ],
  [
    "class_multirange",
    "class_multirange(class_range('elsewhere.there', NULL))",
    "search_path = elsewhere, public",
    "{[elsewhere.there,)}",
  ],
  ["nothing", "ROW()", "search_path = elsewhere, public", "()"],
  [
    "tstzrange",
    "tstzrange('2026-01-01 00:00:00+00', NULL)",
    "TimeZone = 'Asia/Tokyo'",
    '["2026-01-01 00:00:00+00",)',
  ],
  ["timestamptz", "'2026-01-01 00:00:00+00'", "timezone_abbreviations = 'India'", "2026-01-01 00:00:00+00"],
];

// A PostgreSQL may be built without XML.
const [{ xml }] = await db.sql(
  "SELECT setting LIKE '%--with-libxml%' AS xml FROM pg_config WHERE name = 'CONFIGURE'",
);
if (xml) CASES.push(["xml", "'<a/><b/>'", "xmloption = document", "<a/><b/>"]);

test("values mean the same under settings that change arrays, names, XML and abbreviations", async () => {
  for (const [index, [type, value, setting, text]] of CASES.entries()) {
    const prefix = `/s/${index}/`;
    await db.sql(
      `CREATE FOREIGN TABLE s${index} (key text, value ${type}) SERVER etcd OPTIONS (prefix '${prefix}');
      CREATE FOREIGN TABLE j${index} (key text, v ${type} OPTIONS (json 'v')) SERVER etcd
        OPTIONS (prefix '/j${prefix}');
      CREATE TABLE l${index} (v ${type}); INSERT INTO l${index} VALUES (${value});
      INSERT INTO s${index} SELECT '${prefix}usual', v FROM l${index};
      SET ${setting};
      INSERT INTO s${index} SELECT '${prefix}other', v FROM l${index};
      INSERT INTO j${index} SELECT '/j${prefix}other', v FROM l${index};
      UPDATE s${index} SET value = value WHERE key = '${prefix}usual'`,
    );
    for (const key of ["usual", "other"]) {
      const stored = (await etcd.get(prefix + key))!.value;
      assert.equal(new TextDecoder().decode(stored), text, `${key}, ${type}, ${setting}`);
    }
    const read =
      `SELECT count(*) AS n FROM (SELECT value AS v FROM s${index} UNION ALL SELECT v FROM j${index}) f,
      l${index} l WHERE record_image_eq(ROW(f.v), ROW(l.v))`;
    assert.deepEqual(await db.sql(read), [{ n: "3" }], `${type}, ${setting}`);
    await db.sql(`RESET ${setting.split(" ")[0]}`);
    assert.deepEqual(await db.sql(read), [{ n: "3" }], `${type}, after ${setting}`);
  }
});

test("a zone's abbreviation is that of PostgreSQL's own list, and a key's name is not quoted", async () => {
  await etcd.put("/zone/1", "2026-01-01 00:00 IST");
  await db.sql(`CREATE FOREIGN TABLE zone (key text, value timestamptz) SERVER etcd OPTIONS (prefix '/zone/');
    CREATE FOREIGN TABLE classes (key regclass, value text) SERVER etcd
      OPTIONS (prefix '/class/', strip_prefix 'true');
    SET timezone_abbreviations = 'India'; SET quote_all_identifiers = on; INSERT INTO classes VALUES ('pg_class', '1')`);
  const hour = "SELECT extract(hour FROM value AT TIME ZONE 'UTC')::int AS hour FROM zone";
  const india = await db.sql(hour);
  await db.sql("RESET timezone_abbreviations; RESET quote_all_identifiers");
  assert.deepEqual(india, await db.sql(hour));
  assert.equal(new TextDecoder().decode((await etcd.get("/class/pg_class"))?.value), "1");
});

test("another DateStyle costs a row little", async () => {
  await db.sql(`CREATE FOREIGN TABLE dates (key text, value date) SERVER etcd OPTIONS (prefix '/date/');
    INSERT INTO dates SELECT '/date/' || i, date '2020-01-01' + i FROM generate_series(1, 10000) i`);
  const best: Record<string, number> = { "ISO, MDY": Infinity, German: Infinity };
  for (let round = 0; round < 5; round++) {
    for (const style of Object.keys(best)) {
      await db.sql(`SET DateStyle = ${style}`);
      const began = performance.now();
      assert.deepEqual(await db.sql("SELECT count(value)::int AS n FROM dates"), [{ n: 10_000 }]);
      best[style] = Math.min(best[style], performance.now() - began);
    }
  }
  await db.sql("RESET DateStyle");
  assert.ok(best.German < 5 * best["ISO, MDY"], JSON.stringify(best));
});
