import assert from "node:assert/strict";
import { EtcdFdwError } from "../../base/errors.ts";
import type { Comparison, PlanAnswer, Qual } from "../protocol.ts";
import { array, column, compare, hex, key, param, plan, text } from "../testing_input.ts";

const sqlstate = (expected: string, name: string) => (error: unknown) =>
  error instanceof EtcdFdwError && error.sqlstate === expected && error.message.includes(`"${name}"`) &&
  error.hint !== "";

Deno.test("planScan matches columns by name, in any order and subset", () => {
  const columns = [column(1, "lease", "bigint"), column(3, "value", "bytea"), column(4, "key", "text")];
  assert.deepEqual(plan({ columns }).columns, [[1, 5, 0], [3, 1, 0], [4, 0, 0]]);
});

Deno.test("planScan fills only what is used", () => {
  const columns = [column(1, "key", "text", { used: false }), column(2, "value", "text")];
  assert.deepEqual(plan({ columns }).columns, [[2, 1, 0]]);
});

Deno.test("planScan names a column that etcd has no field for", () => {
  assert.throws(
    () => plan({ columns: [column(1, "owner", "text", { used: false })] }),
    sqlstate("HV007", "owner"),
  );
});

Deno.test("planScan fetches keys only when no value is needed", () => {
  const keysOnly = (answer: PlanAnswer) => JSON.parse(answer.plan).keysOnly;
  assert.equal(keysOnly(plan({ columns: [column(1, "key")] })), true);
  assert.equal(keysOnly(plan({ columns: [column(1, "value", "text")] })), undefined);
});

Deno.test("planScan leaves the value NULL with keys_only", () => {
  const columns = [column(1, "key", "text"), column(2, "value", "text")];
  assert.deepEqual(plan({ columns, options: { keys_only: "true" } }).columns, [[1, 0, 0]]);
});

Deno.test("planScan tells which conditions need no recheck", () => {
  const like = (pattern: string): Comparison => ({
    op: "~~",
    collation: "deterministic",
    left: { column: "key" },
    right: { hex: pattern, type: "text" },
  });
  assert.deepEqual(plan({ quals: [like("6125"), null, like("615f25")] }).exact, [0]);
});

Deno.test("planScan knows how many keys can come", () => {
  assert.equal(plan({ options: { key: "/a" } }).keys, 1);
  assert.equal(plan().keys, -1);
  assert.equal(plan({ quals: [compare("=", key, param(0))] }).keys, 1);
  assert.equal(plan({ quals: [compare("= any", key, array("a", "b"))] }).keys, 2);
  assert.equal(plan({ quals: [compare("=", key, { null: true, type: "text" })] }).keys, 0);
});

Deno.test("planScan refuses a range that ends before it starts", () => {
  assert.throws(() => plan({ options: { key: "b", range_end: "a" } }), sqlstate("22023", "t"));
});

Deno.test("planScan names the orders that etcd can deliver", () => {
  const columns = [
    column(1, "value"),
    column(3, "key", "bytea"),
    column(4, "version", "bigint"),
    column(5, "lease", "bigint"),
  ];
  const { targets, orders } = plan({ columns });
  assert.deepEqual(targets, ["value", "key", "version"]);
  assert.deepEqual(orders, [[1, 1, 0], [3, 1, 1], [4, 0, 0]]);
  assert.deepEqual(plan({ columns: [column(1, "key", "integer")] }).targets, []);
  // Several ranges come one after the other, so that only the key's order holds across them.
  assert.deepEqual(plan({ columns, quals: [compare("= any", key, array("a", "b"))] }).targets, ["key"]);
});

Deno.test("planScan tells when LIMIT and count may be left to etcd", () => {
  const flags = ({ limitable, countable }: PlanAnswer) => [limitable, countable];
  assert.deepEqual(flags(plan()), [1, 1]);
  const newer = compare(">", { column: "mod_revision" }, { hex: "35", type: "int8" }, "none");
  assert.deepEqual(flags(plan({ columns: [column(1, "mod_revision", "bigint")], quals: [newer] })), [1, 0]);
  assert.deepEqual(flags(plan({ options: { key_pattern: "/a/{b}" } })), [0, 0]);
});

Deno.test("planScan maps JSON fields and the parts of a key pattern", () => {
  const columns = [
    column(1, "kind"),
    column(2, "name"),
    column(3, "replicas", "integer", { options: { json: "spec.replicas" } }),
  ];
  const answer = plan({ columns, options: { key_pattern: "/r/{kind}/{name*}" } });
  assert.deepEqual(answer.columns, [[1, 7, 0], [2, 7, 1], [3, 6, 0]]);
  assert.deepEqual(answer.paths, ['{"spec","replicas"}']);
  assert.deepEqual(answer.literals, ["2f722f", "2f", ""]);
  assert.equal(answer.rest, 1);
  assert.equal(JSON.parse(answer.plan).keysOnly, undefined);
});

Deno.test("planScan narrows by equality with the leading parts of a key pattern", () => {
  const columns = [column(1, "kind"), column(2, "name")];
  const options = { key_pattern: "/r/{kind}/{name}" };
  const kind = compare("=", { column: "kind" }, text("pods"));
  const name = compare("=", text("x"), { column: "name" });
  const conditions = (quals: Comparison[]) => JSON.parse(plan({ columns, options, quals }).plan).conditions;
  assert.deepEqual(conditions([name]), []);
  assert.deepEqual(conditions([kind]), [{
    kind: "segments",
    literals: ["2f722f", "2f"],
    values: ["706f6473"],
  }]);
  assert.equal(conditions([name, kind])[0].whole, true);
  const answer = plan({ columns, options, quals: [name, kind] });
  assert.deepEqual([answer.exact, answer.used.toSorted(), answer.keys], [[], [0, 1], 1]);
});

Deno.test("planScan: one key by itself can be asked for without core", () => {
  const lookup = (qual: Qual, options: Record<string, string> = {}) =>
    plan({ quals: [qual], options: { prefix: "/a/", ...options } }).lookup;
  const [start, end] = [hex("/a/"), hex("/a0")];
  assert.deepEqual(lookup(compare("=", key, text("/a/k"))), [hex("/a/k"), "", start, end, ""]);
  assert.deepEqual(lookup(compare("=", key, param(0)), { strip_prefix: "true" }), [
    "",
    start,
    start,
    end,
    "",
  ]);
  // serializable and keys_only follow the key: fields 7 and 8
  const flags = { consistency: "s", keys_only: "true" };
  assert.deepEqual(lookup(compare("=", key, param(0)), flags), ["", "", start, end, "38014001"]);
  assert.deepEqual(lookup(compare("=", key, text("/b"))), []);
  assert.deepEqual(lookup(compare("=", key, param(1))), []);
  assert.deepEqual(lookup(compare("=", key, param(0)), { revision: "7" }), []);
  assert.deepEqual(lookup(compare("^@", key, param(0))), []);
  const both = [compare("=", key, param(0)), compare("^@", key, text("/a/"))];
  assert.deepEqual(plan({ quals: both }).lookup, []);
});
