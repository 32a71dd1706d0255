import assert from "node:assert/strict";
import { explainScan } from "./explain.ts";
import type { Comparison, ExplainAnswer, ExplainInput, Qual } from "../protocol.ts";
import { column, compare, key, param, plan, text } from "../testing_input.ts";

function explain(
  options: Record<string, string>,
  quals: Qual[] = [],
  params: string[] = [],
  more: Partial<ExplainInput> = {},
) {
  const input = {
    plan: plan({ options, quals, columns: [column(1, "key")] }).plan,
    params,
    order: "",
    limit: "",
    offset: "",
    aggregates: [],
    revision: "0",
    verbose: false,
    ...more,
  };
  return (explainScan(input).answer as ExplainAnswer).lines;
}

const equal = (right: Comparison["right"]): Comparison => ({
  op: "=",
  collation: "deterministic",
  left: { column: "key" },
  right,
});

Deno.test("explainScan shows ranges and single keys", () => {
  assert.deepEqual(explain({}), [["Etcd Range", "all keys"]]);
  assert.deepEqual(explain({ prefix: "/a/" }), [["Etcd Range", '["/a/", "/a0")']]);
  assert.deepEqual(explain({ prefix: "/a/" }, [equal({ hex: "2f612f62", type: "text" })]), [[
    "Etcd Key",
    '"/a/b"',
  ]]);
});

Deno.test("explainScan shows what is known only when the scan starts", () => {
  assert.deepEqual(explain({}, [equal({ param: 0, type: "text" })], ["$1"]), [
    ["Etcd Range", "all keys"],
    ["Etcd Condition", "key = $1"],
  ]);
});

Deno.test("explainScan says when nothing is sent", () => {
  assert.deepEqual(explain({ prefix: "/a/" }, [equal({ hex: "62", type: "text" })]), [
    ["Etcd Request", "none, no key can match"],
  ]);
});

Deno.test("explainScan shows revision and consistency", () => {
  assert.deepEqual(explain({ revision: "9", consistency: "s" }).slice(1), [
    ["Etcd Revision", "9"],
    ["Etcd Consistency", "serializable"],
  ]);
});

Deno.test("explainScan names the keys of a list", () => {
  const list = (count: number): Comparison => ({
    op: "= any",
    collation: "deterministic",
    left: { column: "key" },
    right: { array: Array.from({ length: count }, (_, i) => `6${i + 1}`), type: "text[]" },
  });
  assert.deepEqual(explain({}, [list(2)]), [["Etcd Keys", '"a", "b"']]);
  assert.deepEqual(explain({}, [list(7)]), [["Etcd Keys", '"a", "b", "c", "d", "e" and 2 more']]);
});

Deno.test("explainScan shows the ranges of an OR, and an OR that is known only later", () => {
  const or = (right: Comparison["right"]): Qual => ({
    or: [compare("^@", key, text("a")), compare("=", key, right)],
  });
  assert.deepEqual(explain({}, [or(text("c"))]), [["Etcd Ranges", '["a", "b"), "c"']]);
  assert.deepEqual(explain({}, [or(param(0))], ["$1"]), [
    ["Etcd Range", "all keys"],
    ["Etcd Condition", "... OR key = $1"],
  ]);
});

Deno.test("explainScan shows order, limit, offset and aggregates", () => {
  assert.deepEqual(explain({}, [], [], { order: "key desc", limit: "5", offset: "2" }).slice(1), [
    ["Etcd Order", "key descending"],
    ["Etcd Limit", "5"],
    ["Etcd Offset", "2"],
  ]);
  assert.deepEqual(explain({}, [], [], { aggregates: ["count"], revision: "7" }).slice(1), [
    ["Etcd Aggregates", "count"],
    ["Etcd Count Only", "true"],
    ["Etcd Revision", "7"],
  ]);
  assert.deepEqual(explain({}, [], [], { aggregates: ["min", "count"] }).slice(1), [
    ["Etcd Aggregates", "min(key), count"],
  ]);
});
