import assert from "node:assert/strict";
import { FUNCTIONS } from "../src/core/functions/index.ts";
import { functionsPage, parseFunctions, readSql } from "./functions.ts";
import { ROOT } from "./paths.ts";

Deno.test("docs/functions.md says what the COMMENTs say: deno task docs", async () => {
  assert.equal(await Deno.readTextFile(`${ROOT}/docs/functions.md`), functionsPage(readSql));
});

Deno.test("every function of core is declared, and the other way round", () => {
  const files = [
    "30_kv.sql",
    "40_txn.sql",
    "50_lease.sql",
    "60_cluster.sql",
    "70_auth.sql",
    "80_monitor.sql",
  ];
  const scripts = files.map(readSql).join("\n");
  const declared = [
    ...scripts.matchAll(/CREATE FUNCTION @extschema@\.(\w+)\([^;]*'etcd_fdw_(?:call|snapshot)';/g),
  ].map(([, name]) => name);
  assert.deepEqual([...declared].sort(), Object.keys(FUNCTIONS).sort());
});

Deno.test("parseFunctions reads arguments, results and comments, and misses none of these", () => {
  const [one] = parseFunctions(
    "CREATE FUNCTION @extschema@.f(\n    a text, b bigint DEFAULT NULL)\n  RETURNS SETOF @extschema@.t\n  LANGUAGE c;\n" +
      "COMMENT ON FUNCTION @extschema@.f(text, bigint) IS\n  'It''s this.';",
  );
  assert.deepEqual(one, {
    ...{ name: "f", args: "a text, b bigint DEFAULT NULL", returns: "SETOF t", comment: "It's this." },
    restricted: false,
  });
  assert.throws(
    () => parseFunctions("CREATE FUNCTION @extschema@.g() RETURNS text LANGUAGE c;"),
    /no COMMENT/,
  );
});
