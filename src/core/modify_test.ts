import assert from "node:assert/strict";
import { planModify } from "./modify.ts";
import { beginInput, column, compare, hex, key, KEY_VALUE, param, plan, text } from "./testing_input.ts";
import { removeRanges } from "./scan/scan.ts";
import { readsOf } from "../etcd/txn.ts";
import { decodeRangeRequest } from "../etcd/ranges.ts";
import { decodeUtf8 } from "../base/bytes.ts";
import type { ColumnInput, ModifyAnswer, ModifyInput } from "./protocol.ts";

const modify = (more: Partial<ModifyInput> = {}) =>
  planModify({ table: "t", server: {}, options: {}, columns: KEY_VALUE, operation: "insert", ...more })
    .answer as ModifyAnswer;

Deno.test("planModify: columns by what they are for", () => {
  const columns = [
    column(2, "value", "jsonb"),
    column(3, "key"),
    column(4, "lease", "bigint"),
    column(5, "ttl", "interval"),
    column(7, "n", "integer", { options: { json: "a.b" } }),
  ];
  const answer = modify({ columns, options: { prefix: "/p/", strip_prefix: "true" } });
  assert.deepEqual(
    [answer.key, answer.value, answer.lease, answer.ttl, answer.version],
    [3, 2, 4, 5, 0],
  );
  assert.deepEqual([answer.fields, answer.paths], [[[7, 0]], ['{"a","b"}']]);
  assert.deepEqual([answer.strip, answer.start, answer.end], [hex("/p/"), hex("/p/"), hex("/p0")]);
});

Deno.test("planModify: a key needs its column, or one for each placeholder", () => {
  const options = { key_pattern: "/r/{kind}/{name}" };
  const parts = [column(1, "kind"), column(2, "name")];
  assert.deepEqual(modify({ columns: parts, options }).segments, [1, 2]);
  const wrong: [ColumnInput[], Record<string, string>][] = [[[column(1, "value")], {}], [
    [parts[0]],
    options,
  ]];
  for (const [columns, options] of wrong) {
    assert.throws(() => modify({ columns, options }), { sqlstate: "55000" });
    assert.equal(modify({ columns, options, operation: "delete" }).key, 0);
  }
});

Deno.test("planModify: what etcd maintains cannot be set", () => {
  const columns = [...KEY_VALUE, column(3, "mod_revision", "bigint")];
  assert.throws(() => modify({ columns, operation: "update" }), {
    sqlstate: "428C9",
    message: 'column "mod_revision" of foreign table "t" can not be updated',
  });
  const unused = [...KEY_VALUE, column(3, "version", "bigint", { used: false })];
  assert.equal(modify({ columns: unused, operation: "update" }).version, 3);
});

Deno.test("removeRanges: the reads of a DELETE's ranges", () => {
  const remove = (params: string[], quals = [compare("^@", key, param(0))]) => {
    const { answer, payload } = removeRanges(beginInput(plan({ quals }).plan, { params, revision: "9" }));
    assert.equal(answer.do, "remove");
    return readsOf(payload!).map(decodeRangeRequest).map(({ key, rangeEnd, revision }) =>
      `${decodeUtf8(key)} ${rangeEnd === null ? "" : decodeUtf8(rangeEnd)} ${revision}`
    );
  };
  assert.deepEqual(remove([hex("/a/")]), ["/a/ /a0 9"]);
  assert.deepEqual(remove([], [compare("=", key, text("/k"))]), ["/k  9"]);
  assert.deepEqual(remove([], [compare("=", key, text("/k")), compare("=", key, text("/l"))]), []);
});

Deno.test("planModify: columns of one field follow each other", () => {
  const paths = { a: "x.y", b: "x", c: "x.z", d: "x.y", e: "x" };
  const columns = Object.entries(paths).map(([name, json], i) =>
    column(i + 2, name, "jsonb", { options: { json } })
  );
  assert.deepEqual(modify({ columns: [column(1, "key"), ...columns] }).fields.map(([attnum]) => attnum), [
    ...[3, 6],
    ...[2, 5, 4],
  ]);
});

Deno.test("planModify: fields of fields are written last, and into JSON only", () => {
  const columns = (type: string) => [
    column(1, "key"),
    column(2, "b", "text", { options: { json: "a.b" }, used: false }),
    column(3, "a", type, { options: { json: "a" }, used: false }),
  ];
  const { fields, paths } = modify({ columns: columns("jsonb") });
  assert.deepEqual([fields, paths], [[[3, 0], [2, 1]], ['{"a"}', '{"a","b"}']]);
  assert.throws(() => modify({ columns: columns("integer") }), { sqlstate: "55000" });
  for (const operation of ["update", "delete"] as const) {
    assert.equal(modify({ columns: columns("integer"), operation }).key, 1);
  }
});
