import assert from "node:assert/strict";
import { EtcdFdwError } from "../../base/errors.ts";
import { columnMap, needsValue, readColumn, readJsonPath, showsBytes } from "./columns.ts";
import { readKeyPattern } from "./pattern.ts";
import { column } from "../testing_input.ts";

Deno.test("readJsonPath reads steps, and dots that belong to a name", () => {
  assert.deepEqual(readJsonPath("t", "c", "spec.containers.0.image"), ["spec", "containers", "0", "image"]);
  assert.deepEqual(readJsonPath("t", "c", "a\\.b.c\\\\d"), ["a.b", "c\\d"]);
  for (const path of ["", ".a", "a..b", "a."]) {
    assert.throws(
      () => readJsonPath("t", "c", path),
      (error: unknown) =>
        error instanceof EtcdFdwError && error.sqlstate === "22023" && error.message.includes(`"c"`),
      path,
    );
  }
});

Deno.test("readColumn prefers the option json, then the pattern, then the field", () => {
  const pattern = readKeyPattern("t", "/{key}/{x}");
  assert.deepEqual(readColumn("t", column(1, "value", "text", { options: { json: "a" } }), pattern).path, [
    "a",
  ]);
  assert.equal(readColumn("t", column(1, "key"), pattern).segment, 0);
  assert.equal(readColumn("t", column(1, "key"), null).field, "key");
});

Deno.test("showsBytes knows the types that change nothing", () => {
  const shows = (type: string, typmod = false) => showsBytes(column(1, "key", type, { typmod }));
  for (const type of ["text", "bytea", "character varying"]) assert.ok(shows(type), type);
  for (const type of ["character", "integer", "json", "name"]) assert.ok(!shows(type), type);
  assert.ok(!shows("character varying", true));
});

Deno.test("columnMap quotes the steps of a path for an array", () => {
  const read = readColumn("t", column(1, "c", "text", { options: { json: 'a"b\\\\c.d' } }), null);
  assert.deepEqual(columnMap([read], false), { columns: [[1, 6, 0]], paths: ['{"a\\"b\\\\c","d"}'] });
  assert.deepEqual(columnMap([read], true), { columns: [], paths: [] });
  assert.ok(needsValue(read));
});
