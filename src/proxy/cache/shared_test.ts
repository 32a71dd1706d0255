import assert from "node:assert/strict";
import { settled, VirtualRuntime } from "../testing_runtime.ts";
import { Shared } from "./shared.ts";

/** Questions that are answered when the test says so. */
function world() {
  const runtime = new VirtualRuntime();
  const asked: ((answer: string) => void)[] = [];
  const shared = new Shared(
    () => new Promise<string>((resolve) => asked.push(resolve)),
    runtime,
  );
  const come = (count: number) => Array.from({ length: count }, () => shared.answer());
  return { runtime, asked, come };
}

Deno.test("Shared: who comes while a question is on its way is answered by the next one, one for all", async () => {
  const { asked, come } = world();
  const [first] = come(1);
  await settled();
  assert.equal(asked.length, 1);
  const others = come(9);
  await settled();
  assert.equal(asked.length, 1);
  asked[0]("old");
  assert.equal(await first, "old");
  await settled();
  assert.equal(asked.length, 1, "the first one is expected to come back");
  const back = come(1);
  await settled();
  assert.equal(asked.length, 2);
  const late = come(1);
  asked[1]("new");
  assert.deepEqual(await Promise.all([...others, ...back]), Array(10).fill("new"));
  await settled();
  const more = come(10);
  await settled();
  asked[2]("newer");
  assert.deepEqual(await Promise.all([...late, ...more]), Array(11).fill("newer"));
});

Deno.test("Shared: those who do not come back are not waited for long", async () => {
  const { runtime, asked, come } = world();
  come(6);
  come(5);
  await settled();
  asked[0]("1");
  await runtime.pass(1);
  await runtime.pass(3);
  asked[1]("2");
  await settled();
  const [alone] = come(1);
  await runtime.pass(2);
  assert.equal(asked.length, 2);
  // No longer than the last one took.
  await runtime.pass(1);
  assert.equal(asked.length, 3);
  asked[2]("3");
  assert.equal(await alone, "3");
  await settled();
  come(1);
  await settled();
  assert.equal(asked.length, 4, "at once again");
  assert.equal(runtime.timers, 0);
});

Deno.test("Shared: a question that fails does so for those who waited for it alone", async () => {
  const runtime = new VirtualRuntime();
  let count = 0;
  const shared = new Shared(
    () => ++count === 1 ? Promise.reject(new Error("no")) : Promise.resolve(count),
    runtime,
  );
  const [first, second] = [shared.answer(), shared.answer()];
  await assert.rejects(first, /no/);
  await runtime.pass(5);
  assert.equal(await second, 2);
});
