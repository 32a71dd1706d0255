import assert from "node:assert/strict";
import { EtcdFdwError } from "../base/errors.ts";
import { Deadline, waitFor } from "./deadline.ts";
import { VirtualRuntime } from "./testing_runtime.ts";

Deno.test("Deadline: it runs by the clock, and never below 0", async () => {
  const runtime = new VirtualRuntime();
  const deadline = Deadline.after(runtime, 100);
  await runtime.pass(30);
  assert.deepEqual([deadline.left(), deadline.over, deadline.ms], [70, false, 100]);
  await runtime.pass(200);
  assert.deepEqual([deadline.left(), deadline.over], [0, true]);
  assert.deepEqual([Deadline.after(runtime, Infinity).left(), Deadline.after(runtime, 0).over], [
    Infinity,
    true,
  ]);
});

Deno.test("Deadline: what is within another one is never later", () => {
  const runtime = new VirtualRuntime();
  const deadline = Deadline.after(runtime, 100);
  assert.equal(deadline.within(30).left(), 30);
  assert.equal(deadline.within(300), deadline);
  assert.equal(deadline.within(Infinity), deadline);
  const none = Deadline.after(runtime, Infinity);
  assert.equal(none.within(30).left(), 30);
  assert.equal(none.earlier(deadline), deadline);
  assert.equal(deadline.earlier(none), deadline);
});

Deno.test("waitFor: ends with the promise, the time or the signal, whichever is first", async () => {
  const runtime = new VirtualRuntime();
  const never = new Promise<string>(() => {});
  const late = () => new EtcdFdwError("08006", "late");
  assert.equal(await waitFor(runtime, Promise.resolve("x"), 10, late), "x");
  const waiting = assert.rejects(waitFor(runtime, never, 10, late), { sqlstate: "08006" });
  await runtime.pass(10);
  await waiting;
  const controller = new AbortController();
  const aborted = assert.rejects(waitFor(runtime, never, Infinity, late, controller.signal), {
    sqlstate: "57014",
  });
  controller.abort();
  await aborted;
  await assert.rejects(waitFor(runtime, never, 10, late, controller.signal), { sqlstate: "57014" });
  assert.equal(runtime.timers, 0);
});
