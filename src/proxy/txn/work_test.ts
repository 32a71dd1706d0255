import assert from "node:assert/strict";
import { randomOf } from "../testing_txn.ts";
import { sorted, STRIDE } from "./work.ts";

Deno.test("sorted: the stable order, with pauses", () => {
  const random = randomOf(1);
  for (const length of [0, 1, STRIDE, STRIDE + 1, 10_000]) {
    const items = Array.from({ length }, (_, i) => ({ i, by: random.below(100) }));
    const work = sorted(items, (a, b) => a.by - b.by);
    let pauses = 0;
    let at = work.next();
    for (; !at.done; at = work.next()) pauses++;
    assert.deepEqual(at.value, [...items].sort((a, b) => a.by - b.by));
    assert.ok(pauses >= Math.floor(length / STRIDE));
  }
});
