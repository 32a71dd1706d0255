import assert from "node:assert/strict";
import { denoCounts, regressCounts } from "./counts.ts";

Deno.test("denoCounts reads the closing line, coloured or not", () => {
  assert.deepEqual(denoCounts("x\n\x1b[32mok\x1b[0m | 41 passed | 0 failed (18s)\n"), {
    passed: 41,
    failed: 0,
  });
  assert.deepEqual(denoCounts("FAILED | 3 passed (2 steps) | 1 failed | 2 ignored (1s)"), {
    passed: 3,
    failed: 1,
  });
  assert.equal(denoCounts("error: type checking failed"), null);
});

Deno.test("regressCounts reads old and new pg_regress", () => {
  assert.deepEqual(regressCounts("test basic        ... ok           50 ms\ntest x ... FAILED 3 ms\n"), {
    passed: 1,
    failed: 1,
  });
  assert.deepEqual(regressCounts("ok 1         - basic   50 ms\nnot ok 2 - x 3 ms\n"), {
    passed: 1,
    failed: 1,
  });
});
