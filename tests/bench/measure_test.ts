import assert from "node:assert/strict";
import { inTurn, jsonLine, median, table } from "./measure.ts";

Deno.test("median of odd and even counts", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
});

Deno.test("inTurn runs both once more than it counts", async () => {
  const calls: string[] = [];
  const note = (name: string) => () => Promise.resolve(calls.push(name));
  await inTurn(2, note("a"), note("b"));
  assert.equal(calls.join(""), "ababab");
});

Deno.test("jsonLine and table show a figure", () => {
  const figure = {
    case: "scan",
    what: "SELECT",
    value: 10.12345,
    unit: "ms" as const,
    limit: { what: "raw", value: 5 },
    ratio: 2,
  };
  assert.deepEqual(JSON.parse(jsonLine(figure)).value, 10.123);
  assert.match(table([figure]), /scan {2}SELECT {2}10\.1 ms {2}5\.000 ms \(raw\) {2}2\.00/);
});
