import assert from "node:assert/strict";
import { batchEnd } from "./batches.ts";

Deno.test("batchEnd: by number and by bytes, and one at least", () => {
  const sizes = [10, 10, 300, 300, 5000, 10, 600, 10];
  const limits = { maxTxnOps: 3, maxRequestBytes: 1024 + 650 };
  const cuts = [];
  for (let at = 0; at < sizes.length; at = cuts[cuts.length - 1]) {
    cuts.push(batchEnd(at, sizes.length, (i) => sizes[i], limits));
  }
  assert.deepEqual(cuts, [3, 4, 5, 8]);
  const small = (maxTxnOps: number) => batchEnd(0, 1000, () => 1, { maxTxnOps, maxRequestBytes: 2 ** 20 });
  assert.deepEqual([1, 16, 128, 1000].map(small), [1, 16, 128, 128]);
});
