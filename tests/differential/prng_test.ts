import assert from "node:assert/strict";
import { Random } from "./prng.ts";

Deno.test("the same seed gives the same numbers, another one does not", () => {
  const draw = (random: Random) => random.list(20, () => random.next());
  assert.deepEqual(draw(new Random(7)), draw(new Random(7)));
  assert.notDeepEqual(draw(new Random(7)), draw(new Random(8)));
  assert.deepEqual(draw(Random.of(7, 3)), draw(Random.of(7, 3)));
  assert.notDeepEqual(draw(Random.of(7, 3)), draw(Random.of(7, 4)));
  assert.notDeepEqual(draw(Random.of(7, 3)), draw(Random.of(8, 3)));
});

Deno.test("numbers stay in their bounds and reach them", () => {
  const random = new Random(1);
  const seen = new Set(random.list(500, () => random.between(-2, 2)));
  assert.deepEqual([...seen].sort((a, b) => a - b), [-2, -1, 0, 1, 2]);
});

Deno.test("weights are followed", () => {
  const random = new Random(1);
  const drawn = random.list(2000, () => random.weighted([[3, "a"], [1, "b"], [0, "c"]]));
  const count = (item: string) => drawn.filter((other) => other === item).length;
  assert.equal(count("c"), 0);
  assert.ok(count("a") > 2.5 * count("b") && count("b") > 300);
});

Deno.test("a shuffle keeps the items", () => {
  const items = Array.from({ length: 50 }, (_, i) => i);
  const shuffled = new Random(1).shuffled(items);
  assert.notDeepEqual(shuffled, items);
  assert.deepEqual(shuffled.sort((a, b) => a - b), items);
});
