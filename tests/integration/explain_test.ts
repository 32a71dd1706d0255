// EXPLAIN names the columns that a lookup's params stand for, wherever in the plan the lookup stands.

import assert from "node:assert/strict";
import { suite } from "../helpers/suite.ts";
import { explain } from "../helpers/twin.ts";

const { db, etcd, test } = await suite("explain");

await etcd.putMany(Array.from({ length: 50 }, (_, i): [string, string] => [`/e/${i}`, String(i)]));
await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE e (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '/e/');
  CREATE TABLE few (k text, n int); INSERT INTO few VALUES ('/e/1', 1), ('/e/2', 2); ANALYZE few;
  CREATE TABLE uniq (k text PRIMARY KEY, n int);
  SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off`);

/** The query, the lookups' conditions, and whether every version of PostgreSQL words them alike. */
const CASES: [query: string, conditions: RegExp[]][] = [
  ["SELECT * FROM few LEFT JOIN e ON key = k", [/^key = few\.k$/]],
  ["SELECT * FROM few o JOIN e ON key = o.k || ''", [/^key = \(o\.k \|\| ''::text\)$/]],
  ["SELECT n, ARRAY(SELECT value FROM e WHERE key = few.k) FROM few", [/^key = few\.k$/]],
  ["SELECT n FROM few WHERE EXISTS (SELECT FROM e WHERE key = few.k OFFSET 0)", [/^key = few\.k$/]],
  ["SELECT * FROM few LEFT JOIN LATERAL (SELECT * FROM e WHERE key = k LIMIT 1) x ON true", [
    /^key = few\.k$/,
  ]],
  ["SELECT * FROM e WHERE key = (SELECT max(k) FROM few)", [/^key = (\$0|\(InitPlan 1\)\.col1)$/]],
  ["WITH o AS MATERIALIZED (SELECT * FROM few) SELECT * FROM o LEFT JOIN e ON key = o.k", [/^key = o\.k$/]],
  ["WITH o AS MATERIALIZED (SELECT value FROM few LEFT JOIN e ON key = k) SELECT * FROM o", [
    /^key = few\.k$/,
  ]],
  ["SELECT * FROM few a, LATERAL (SELECT ARRAY(SELECT value FROM e WHERE key = a.k) v FROM few b) x", [
    /^key = a\.k$/,
  ]],
  ["SELECT k FROM few UNION ALL SELECT value FROM few LEFT JOIN e ON key = k", [/^key = few_1\.k$/]],
  ["SELECT * FROM few a LEFT JOIN few b ON b.n = (SELECT length(value) FROM e WHERE key = a.k || b.k)", [
    /^key = \(a\.k \|\| b\.k\)$/,
  ]],
  ["SELECT n FROM few ORDER BY (SELECT value FROM e WHERE key = k)", [/^key = few\.k$/]],
  ["SELECT * FROM (VALUES ('/e/1'), ('/e/3')) v(x) LEFT JOIN e ON key = x", [
    /^key = "\*VALUES\*"\.column1$/,
  ]],
  ["SELECT sum(n) FILTER (WHERE n > (SELECT length(value) FROM e WHERE key = k)) FROM few", [
    /^key = few\.k$/,
  ]],
  ["SELECT k, (SELECT value FROM e WHERE key = max(k)) FROM few GROUP BY k, n", [/^key = max\(few\.k\)$/]],
  ["UPDATE few SET k = value FROM e WHERE key = k", [/^key = few\.k$/]],
  ["INSERT INTO few SELECT (SELECT value FROM e WHERE key = k), n FROM few RETURNING n", [
    /^key = few(_1)?\.k$/,
  ]],
  ["UPDATE few SET n = 1 RETURNING (SELECT value FROM e WHERE key = k)", [/^key = (few\.)?k$/]],
  ["SELECT n, (SELECT array_agg(value) FROM (SELECT value FROM e ORDER BY key LIMIT n) x) FROM few", []],
  [
    "INSERT INTO uniq VALUES ('/e/1') ON CONFLICT (k) DO UPDATE SET n = (SELECT length(value) FROM e WHERE key = excluded.k)",
    [
      /^key = excluded\.k$/,
    ],
  ],
  [
    "INSERT INTO uniq VALUES ('/e/1') ON CONFLICT (k) DO UPDATE SET n = 1 WHERE (SELECT value FROM e WHERE key = uniq.k) = '1'",
    [
      /^key = uniq\.k$/,
    ],
  ],
  [
    "SELECT * FROM few o JOIN few i ON i.ctid = (SELECT format('(0,%s)', value)::tid FROM e WHERE key = o.k)",
    [
      /^key = o\.k$/,
    ],
  ],
  ["SELECT * FROM few o JOIN uniq i ON i.k = (SELECT value FROM e WHERE key = o.k)", [/^key = o\.k$/]],
  [
    "SELECT x.* FROM few o, XMLTABLE('/r' PASSING (SELECT value::xml FROM e WHERE key = o.k) COLUMNS a text) x",
    [
      /^key = o\.k$/,
    ],
  ],
  [
    "SELECT x.n FROM few o, LATERAL (SELECT * FROM uniq TABLESAMPLE system ((SELECT length(value) FROM e WHERE key = o.k))) x",
    [
      /^key = o\.k$/,
    ],
  ],
  ["DELETE FROM e WHERE key = (SELECT max(k) FROM few)", [/^key = (\$0|\(InitPlan 1\)\.col1)$/]],
  [
    "WITH RECURSIVE r AS (SELECT '/e/1' AS x UNION SELECT value FROM r LEFT JOIN e ON key = x) SELECT * FROM r",
    [
      /^key = r_1\.x$/,
    ],
  ],
];

const [{ version }] = await db.sql("SELECT current_setting('server_version_num')::int / 10000 AS version");
if (version >= 15) {
  CASES.push(
    [
      "MERGE INTO uniq u USING few f ON u.k = f.k WHEN MATCHED THEN UPDATE SET n = (SELECT length(value) FROM e WHERE key = f.k)",
      [
        /^key = f\.k$/,
      ],
    ],
    [
      "MERGE INTO uniq u USING few f ON u.k = f.k WHEN MATCHED AND (SELECT value FROM e WHERE key = f.k) = '1' THEN DELETE",
      [
        /^key = f\.k$/,
      ],
    ],
  );
}
if (version >= 17) {
  CASES.push([
    "SELECT x.* FROM few o, JSON_TABLE((SELECT value::jsonb FROM e WHERE key = o.k), '$' COLUMNS (a text)) x",
    [
      /^key = o\.k$/,
    ],
  ]);
}

for (const options of ["", "VERBOSE, "]) {
  test(`EXPLAIN (${options}COSTS OFF) shows columns for params`, async () => {
    for (const [query, conditions] of CASES) {
      const lines = await explain(db, query, options);
      const shown = lines.flatMap((line) => /^Etcd Condition: (.*)$/.exec(line)?.[1] ?? []);
      assert.equal(shown.length, conditions.length, `${query}\n${lines.join("\n")}`);
      shown.forEach((text, i) => assert.match(text, conditions[i], `${query}\n${lines.join("\n")}`));
    }
    const limits = await explain(db, CASES.find(([, conditions]) => conditions.length === 0)![0], options);
    assert.ok(limits.some((line) => /^Etcd Limit: (few\.)?n$/.test(line)), limits.join("\n"));
  });
}
