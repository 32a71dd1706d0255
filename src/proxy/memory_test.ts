import assert from "node:assert/strict";
import { Budget } from "./memory.ts";

Deno.test("Budget: a bound holds here and above, and what is refused is not taken", () => {
  const all = new Budget(100, undefined, "all");
  const [one, two] = [new Budget(80, all, "one"), new Budget(80, all, "two")];
  one.take(60);
  assert.throws(() => one.take(21), { sqlstate: "53200", message: /no memory left for one/ });
  assert.throws(() => two.take(41), { sqlstate: "53200", message: /no memory left for all/ });
  assert.deepEqual([all.used, one.used, two.used], [60, 60, 0]);
  two.take(40);
  one.give(60);
  assert.deepEqual([all.used, one.used, two.used], [40, 0, 40]);
});
