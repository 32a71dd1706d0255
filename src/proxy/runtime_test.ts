import assert from "node:assert/strict";
import { longTimer, MAX_TIMER_MS, sleep } from "./runtime.ts";
import { REAL, VirtualRuntime } from "./testing_runtime.ts";

Deno.test("longTimer: no timer of the system is longer than it takes, and all of them add up", () => {
  const armed: number[] = [];
  let pending = () => {};
  let fired = 0;
  const arm = (ms: number, act: () => void) => {
    armed.push(ms);
    pending = act;
    return () => pending = () => {};
  };
  const ms = 75 * 86_400_000;
  longTimer(ms, arm, () => fired++);
  for (let i = 0; i < 10; i++) pending();
  assert.deepEqual(armed, [MAX_TIMER_MS, MAX_TIMER_MS, MAX_TIMER_MS, ms - 3 * MAX_TIMER_MS]);
  // The last act was called again and again by this test; the timer itself is not set any more.
  assert.ok(fired > 0);
  armed.length = 0;
  longTimer(Infinity, arm, () => assert.fail());
  longTimer(-5, arm, () => {});
  assert.deepEqual(armed, [0]);
  longTimer(2 * MAX_TIMER_MS, arm, () => assert.fail()).cancel();
  pending();
});

Deno.test("Runtime: a timer beyond what the system takes does not fire at once", async () => {
  let fired = false;
  const timer = REAL.after(75 * 86_400_000, () => fired = true);
  const before = REAL.now();
  await sleep(REAL, 20);
  assert.ok(!fired && REAL.now() - before >= 15);
  timer.cancel();
});

Deno.test("sleep: ends with its time or its signal, and leaves no timer", async () => {
  const runtime = new VirtualRuntime();
  const controller = new AbortController();
  const both = Promise.all([sleep(runtime, 10), sleep(runtime, 1_000, controller.signal)]);
  controller.abort();
  await runtime.pass(10);
  await both;
  await sleep(runtime, 1_000, controller.signal);
  assert.equal(runtime.timers, 0);
});
