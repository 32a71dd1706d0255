import assert from "node:assert/strict";
import { Stats } from "./stats.ts";

Deno.test("Stats: one row for each label, which a reset empties and keeps", () => {
  const stats = new Stats(() => 0);
  const one = stats.of({ database: "d", server: "s", role: "a" });
  assert.equal(stats.of({ database: "d", server: "s", role: "a" }), one);
  one.calls = 3;
  stats.of({ database: "d", server: "s", role: "b" }).errors = 1;
  assert.deepEqual(stats.rows().map(({ role, calls, errors }) => [role, calls, errors]), [["a", 3, 0], [
    "b",
    0,
    1,
  ]]);
  stats.reset();
  one.calls++;
  assert.deepEqual(stats.rows().map(({ calls, errors }) => [calls, errors]), [[1, 0], [0, 0]]);
});
