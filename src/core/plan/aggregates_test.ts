import assert from "node:assert/strict";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { readAggregates } from "./aggregates.ts";
import type { RowAnswer, SendAnswer } from "../protocol.ts";
import { beginScan } from "../scan/scan.ts";
import { array, beginInput, compare, hex, key, plan, txnOf } from "../testing_input.ts";

/** A TxnResponse of these RangeResponses. */
function reply(...ranges: { count: number; key?: string }[]): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8);
  writer.uint32(1 << 3 | 2).fork().uint32(3 << 3).int64(9).join();
  for (const { count, key } of ranges) {
    const op = writer.uint32(3 << 3 | 2).fork().uint32(1 << 3 | 2).fork();
    if (key !== undefined) op.uint32(2 << 3 | 2).fork().uint32(1 << 3 | 2).bytes(encodeUtf8(key)).join();
    op.uint32(4 << 3).int64(count).join().join();
  }
  return writer.finish();
}

const begin = (aggregates: string[], quals = [compare("= any", key, array("/a/x", "/a/y"))]) =>
  beginScan(
    beginInput(plan({ options: { prefix: "/a/", strip_prefix: "false" }, quals }).plan, {
      aggregates,
      revision: "5",
    }),
  );
const row = (aggregates: string[], bytes: Uint8Array) =>
  (readAggregates({ state: (begin(aggregates).answer as SendAnswer).state }, bytes).answer as RowAnswer)
    .cells;

Deno.test("beginScan asks for aggregates in one Txn, each for every range", () => {
  const requests = txnOf(begin(["count", "max"]));
  assert.deepEqual(requests, [
    { 1: "/a/x", 4: 5n, 9: 1n },
    { 1: "/a/y", 4: 5n, 9: 1n },
    { 1: "/a/x", 3: 1n, 4: 5n, 5: 2n, 6: 0n, 8: 1n },
    { 1: "/a/y", 3: 1n, 4: 5n, 5: 2n, 6: 0n, 8: 1n },
  ]);
});

Deno.test("readAggregates sums counts and finds the first and the last key", () => {
  assert.deepEqual(row(["count"], reply({ count: 2 }, { count: 40 })), [hex("42")]);
  const keys = [{ count: 1, key: "/a/x" }, { count: 1, key: "/a/y" }];
  assert.deepEqual(row(["min", "max"], reply(...keys, ...keys)), [hex("/a/x"), hex("/a/y")]);
  assert.deepEqual(row(["min"], reply({ count: 0 }, { count: 0 })), [null]);
});

Deno.test("an aggregate that is wanted twice is asked for once", () => {
  assert.equal(txnOf(begin(["count", "count"])).length, 2);
  assert.deepEqual(row(["count", "count"], reply({ count: 2 }, { count: 40 })), [hex("42"), hex("42")]);
});

Deno.test("aggregates of no key need no request", () => {
  const never = compare("=", key, { null: true, type: "text" });
  assert.deepEqual(begin(["count", "min"], [never]).answer, { do: "row", cells: [hex("0"), null] });
});

Deno.test("readAggregates leaves the stripped prefix out", () => {
  const planned = plan({ options: { prefix: "/a/", strip_prefix: "true" } }).plan;
  const { state } = beginScan(beginInput(planned, { aggregates: ["min"] })).answer as SendAnswer;
  assert.deepEqual(readAggregates({ state }, reply({ count: 3, key: "/a/x" })).answer, {
    do: "row",
    cells: [hex("x")],
  });
});

Deno.test("readAggregates refuses a reply that is another's", () => {
  const violation = (error: unknown) => error instanceof EtcdFdwError && error.sqlstate === "08P01";
  assert.throws(() => row(["count"], reply({ count: 1 })), violation);
  assert.throws(() => row(["count"], Uint8Array.of(0x1a, 9, 1)), violation);
});

Deno.test("aggregates of more ranges than a Txn holds take several, all of one revision", () => {
  const keys = Array.from({ length: 10 }, (_, i) => `/a/${i}`);
  const server = { max_txn_ops: "4" };
  const planned = plan({ server, quals: [compare("= any", key, array(...keys))] }).plan;
  let outcome = beginScan(beginInput(planned, { aggregates: ["count", "min", "max"] }));
  const revisions = [];
  let asked = 0;
  while (outcome.answer.do === "send") {
    const requests = txnOf(outcome);
    assert.ok(requests.length <= 4);
    revisions.push(...requests.map((fields) => fields[4]));
    // Keys 3 to 6 are there.
    const answers = requests.map((fields) => {
      const there = /[3-6]$/.test(String(fields[1]));
      return there ? { count: 1, key: String(fields[1]) } : { count: 0 };
    });
    asked += requests.length;
    outcome = readAggregates({ state: outcome.answer.state }, reply(...answers));
  }
  assert.equal(asked, 30);
  assert.deepEqual(revisions, [...Array(4).fill(undefined), ...Array(26).fill(9n)]);
  assert.deepEqual((outcome.answer as RowAnswer).cells, [hex("4"), hex("/a/3"), hex("/a/6")]);
});
