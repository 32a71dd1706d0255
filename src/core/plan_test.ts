import assert from "node:assert/strict";
import { EtcdFdwError } from "../ipc/errors.ts";
import { planScan } from "./plan.ts";
import type { ColumnInput, Comparison, PlanAnswer, PlanInput } from "./protocol.ts";

const column = (attnum: number, name: string, type: string, used = true): ColumnInput => ({
  attnum,
  name,
  type,
  used,
});

function plan(more: Partial<PlanInput>): PlanAnswer {
  const input = { table: "t", server: {}, options: {}, columns: [column(1, "key", "text")], quals: [] };
  return planScan({ ...input, ...more }).answer as PlanAnswer;
}

const sqlstate = (expected: string, name: string) => (error: unknown) =>
  error instanceof EtcdFdwError && error.sqlstate === expected && error.message.includes(`"${name}"`) &&
  error.hint !== "";

Deno.test("planScan matches columns by name, in any order and subset", () => {
  const columns = [column(1, "lease", "bigint"), column(3, "value", "bytea"), column(4, "key", "text")];
  assert.deepEqual(plan({ columns }).columns, [[1, 5], [3, 1], [4, 0]]);
});

Deno.test("planScan fills only what is used", () => {
  const columns = [column(1, "key", "text", false), column(2, "value", "text")];
  assert.deepEqual(plan({ columns }).columns, [[2, 1]]);
});

Deno.test("planScan names a column that etcd has no field for", () => {
  assert.throws(() => plan({ columns: [column(1, "owner", "text", false)] }), sqlstate("HV007", "owner"));
});

Deno.test("planScan names a column of a wrong type", () => {
  assert.throws(() => plan({ columns: [column(1, "version", "integer")] }), sqlstate("HV004", "version"));
});

Deno.test("planScan fetches keys only when no value is needed", () => {
  const keysOnly = (answer: PlanAnswer) => JSON.parse(answer.plan).keysOnly;
  assert.equal(keysOnly(plan({})), true);
  assert.equal(keysOnly(plan({ columns: [column(1, "value", "text")] })), undefined);
});

Deno.test("planScan leaves the value NULL with keys_only", () => {
  const columns = [column(1, "key", "text"), column(2, "value", "text")];
  assert.deepEqual(plan({ columns, options: { keys_only: "true" } }).columns, [[1, 0]]);
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

Deno.test("planScan expects one row for one key", () => {
  assert.equal(plan({ options: { key: "/a" } }).rows, 1);
  assert.ok(plan({}).rows > 100);
});

Deno.test("planScan refuses a range that ends before it starts", () => {
  assert.throws(() => plan({ options: { key: "b", range_end: "a" } }), sqlstate("22023", "t"));
});

Deno.test("planScan names the column that the rows ascend by", () => {
  assert.equal(plan({ columns: [column(1, "value", "text"), column(3, "key", "text")] }).ordered, 3);
  assert.equal(plan({ columns: [column(1, "value", "text")] }).ordered, 0);
});
