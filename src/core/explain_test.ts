import assert from "node:assert/strict";
import { explainScan } from "./explain.ts";
import { planScan } from "./plan.ts";
import type { Comparison, ExplainAnswer, PlanAnswer } from "./protocol.ts";

function explain(options: Record<string, string>, quals: Comparison[] = [], params: string[] = []) {
  const columns = [{ attnum: 1, name: "key", type: "text", used: true }];
  const { plan } = planScan({ table: "t", server: {}, options, columns, quals }).answer as PlanAnswer;
  return (explainScan({ plan, params, verbose: false }).answer as ExplainAnswer).lines;
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
