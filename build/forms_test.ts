import assert from "node:assert/strict";
import { furtherForms } from "./forms.ts";
import { ROOT } from "./paths.ts";

Deno.test("furtherForms: for bytea, without the server, and both", () => {
  const script = `CREATE FUNCTION @extschema@.etcd_get(
    server text, key text, revision bigint DEFAULT NULL)
  RETURNS text
  LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
`;
  const forms = furtherForms([script]);
  const created = [...forms.matchAll(/CREATE FUNCTION @extschema@\.etcd_get\(([^)]*)\)\s+RETURNS (\w+)/g)];
  assert.deepEqual(created.map(([, args, type]) => [args, type]), [
    ["server text, key bytea, revision bigint DEFAULT NULL", "bytea"],
    ["key text, revision bigint DEFAULT NULL", "text"],
    ["key bytea, revision bigint DEFAULT NULL", "bytea"],
  ]);
  assert.ok(forms.includes("COMMENT ON FUNCTION @extschema@.etcd_get(bytea, bigint) IS"));
  assert.ok(!forms.includes("REVOKE"));
});

Deno.test("furtherForms: rights are those of the form that is written out", () => {
  const script = `CREATE FUNCTION @extschema@.etcd_compact(server text, revision bigint)
  RETURNS boolean
  LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
REVOKE ALL ON FUNCTION @extschema@.etcd_compact(text, bigint) FROM PUBLIC;
`;
  assert.ok(
    furtherForms([script]).includes("REVOKE ALL ON FUNCTION @extschema@.etcd_compact(bigint) FROM PUBLIC"),
  );
});

/** Whatever looks names up while a superuser runs it must say in which schema; nothing else is worth a search. */
Deno.test("the scripts look nothing up on the search path", () => {
  for (const { name } of Deno.readDirSync(`${ROOT}/sql`)) {
    if (!name.endsWith(".sql")) continue;
    const script = Deno.readTextFileSync(`${ROOT}/sql/${name}`).replace(/'(?:[^']|'')*'/g, "''")
      .replace(/--[^\n]*/g, "");
    assert.ok(!/^DO /m.test(script), `${name} runs a program`);
    for (const [statement] of script.matchAll(/^CREATE (?:OR REPLACE )?FUNCTION[^$;]*\$\$[^]*?\$\$/gm)) {
      assert.match(statement, /SET search_path = pg_catalog, pg_temp/, `${name}: ${statement.slice(0, 80)}`);
    }
    for (const [view] of script.matchAll(/^CREATE VIEW[^;]*/gm)) {
      assert.doesNotMatch(
        view.replace(/OPERATOR\(pg_catalog\.[^)]+\)/g, ""),
        /[=<>/+*-]|\bnullif\b|\bIN\b/i,
        view,
      );
      for (const [, call] of view.matchAll(/(?<![.\w@])(\w+)\(/g)) {
        assert.ok(["operator", "coalesce"].includes(call.toLowerCase()), `${name}: ${call}()`);
      }
    }
  }
});

/** Anybody may put a trigger that he may execute on a table of his own. */
Deno.test("no function of a trigger is everybody's", () => {
  const scripts = [...Deno.readDirSync(`${ROOT}/sql`)].filter(({ name }) => name.endsWith(".sql"))
    .map(({ name }) => Deno.readTextFileSync(`${ROOT}/sql/${name}`)).join("\n");
  const functions = [...scripts.matchAll(/CREATE FUNCTION (\S+\(\)) RETURNS (?:event_)?trigger/g)];
  assert.ok(functions.length > 0);
  for (const [, name] of functions) {
    assert.match(
      scripts,
      new RegExp(`REVOKE (?:ALL|EXECUTE) ON FUNCTION ${RegExp.escape(name)} FROM PUBLIC`),
      name,
    );
  }
});
