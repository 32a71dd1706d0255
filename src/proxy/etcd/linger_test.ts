import assert from "node:assert/strict";
import { VirtualRuntime } from "../testing_runtime.ts";
import { Lingering } from "./linger.ts";

function lingering() {
  const runtime = new VirtualRuntime();
  const calls = new Lingering(runtime);
  const reset: string[] = [];
  const add = (name: string, bytes = 1) => calls.add(bytes, () => reset.push(name));
  return { runtime, calls, reset, add };
}

Deno.test("Lingering: a call that ends soon is not reset, one that does not is", async () => {
  const { runtime, calls, reset, add } = lingering();
  const ended = add("soon");
  add("never");
  await runtime.pass(1_000);
  ended();
  ended();
  assert.deepEqual([calls.size, reset], [1, []]);
  await runtime.pass(1_100);
  assert.deepEqual([calls.size, reset], [0, ["never"]]);
  assert.equal(runtime.timers, 0);
});

Deno.test("Lingering: many are reset one at a time, the oldest first, in number and in bytes", async () => {
  const { runtime, calls, reset, add } = lingering();
  for (let i = 0; i < 300; i++) add(`${i}`);
  assert.deepEqual(reset, []);
  await runtime.pass(500);
  assert.deepEqual(reset, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
  await runtime.pass(1_490);
  assert.equal(calls.size, 300 - 39, "no faster because there are many");
  await runtime.pass(20_000);
  assert.deepEqual([calls.size, runtime.timers], [0, 0]);

  add("large", 17 * 1024 * 1024);
  await runtime.pass(100);
  assert.equal(reset.at(-1), "large");
});

Deno.test("Lingering: there is a number that is not exceeded", () => {
  const { calls, reset, add } = lingering();
  for (let i = 0; i < 5_000; i++) add(`${i}`);
  assert.deepEqual([calls.size, reset.length, reset[0]], [4_096, 904, "0"]);
});
