import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../../base/bytes.ts";
import type { Operand } from "../protocol.ts";
import { COLUMNS } from "../testing_input.ts";
import { recognizeRevision, type RevisionCondition, revisionFilters } from "./revisions.ts";

const number = (value: string, type = "int8"): Operand => ({ hex: toHex(encodeUtf8(value)), type });
const mod: Operand = { column: "mod_revision" };
const compare = (op: string, left: Operand, right: Operand) =>
  recognizeRevision({ op, left, right, collation: "none" }, COLUMNS);
const filters = (...conditions: [RevisionCondition["op"], string][]) =>
  revisionFilters(
    conditions.map(([op, v]) => ({ column: "mod_revision", op, value: toHex(encodeUtf8(v)) })),
    [],
  );

Deno.test("recognizeRevision takes numbers either way round", () => {
  assert.deepEqual(compare(">", mod, number("5", "int4")), { column: "mod_revision", op: ">", value: "35" });
  assert.deepEqual(compare(">", number("5"), mod), { column: "mod_revision", op: "<", value: "35" });
  assert.deepEqual(compare("=", mod, { param: 2, type: "int8" }), {
    column: "mod_revision",
    op: "=",
    value: 2,
  });
  assert.equal(compare("=", mod, { null: true, type: "int8" }), "never");
});

Deno.test("recognizeRevision leaves other columns, operators and types alone", () => {
  assert.equal(compare(">", { column: "version" }, number("5")), null);
  assert.equal(compare("<>", mod, number("5")), null);
  assert.equal(compare(">", mod, { column: "create_revision" }), null);
  assert.equal(recognizeRevision(null, COLUMNS), null);
  const narrow = COLUMNS.map((column) => ({ ...column, type: "integer" }));
  const qual = { op: ">", left: mod, right: number("5"), collation: "none" as const };
  assert.equal(recognizeRevision(qual, narrow), null);
});

Deno.test("revisionFilters are inclusive bounds", () => {
  assert.deepEqual(filters([">", "5"]), { minModRevision: "6" });
  assert.deepEqual(filters([">=", "5"], ["<", "9"]), { minModRevision: "5", maxModRevision: "8" });
  assert.deepEqual(filters(["=", "7"]), { minModRevision: "7", maxModRevision: "7" });
  // Every key of etcd fulfils these, a row without a revision yet does not.
  assert.deepEqual(filters([">", "0"]), { minModRevision: "1" });
  assert.deepEqual(filters([">", "-5"]), { minModRevision: "1" });
  assert.deepEqual(filters(["<", "9"]), { minModRevision: "1", maxModRevision: "8" });
});

Deno.test("revisionFilters knows what no revision fulfils", () => {
  assert.equal(filters(["<", "1"]), null);
  assert.equal(filters(["=", "0"]), null);
  assert.equal(filters(["=", "-1"]), null);
  assert.equal(filters([">", "5"], ["<", "6"]), null);
  assert.equal(filters([">", "9223372036854775807"]), null);
  assert.deepEqual(filters(["<=", "9223372036854775807"]), { minModRevision: "1" });
  assert.equal(revisionFilters([{ column: "mod_revision", op: "=", value: 0 }], [null]), null);
});

Deno.test("revisionFilters keeps the columns apart", () => {
  const conditions: RevisionCondition[] = [
    { column: "mod_revision", op: ">", value: "35" },
    { column: "create_revision", op: "<=", value: "35" },
  ];
  assert.deepEqual(revisionFilters(conditions, []), {
    minModRevision: "6",
    minCreateRevision: "1",
    maxCreateRevision: "5",
  });
});
