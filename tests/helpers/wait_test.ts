import { equal, ok, rejects } from "node:assert/strict";
import { delay, TIMED_OUT, waitFor, withTimeout } from "./wait.ts";

Deno.test("waitFor returns the first truthy answer", async () => {
  let calls = 0;
  equal(await waitFor("three", () => ++calls === 3 && "here", { intervalMs: 1 }), "here");
  equal(calls, 3);
});

Deno.test("waitFor fails with what was seen last", async () => {
  await rejects(
    waitFor("rows", () => Promise.resolve(0), { timeoutMs: 20, intervalMs: 5 }),
    /^Error: rows not seen within 20 ms; last: 0$/,
  );
});

Deno.test("waitFor goes on after an error and reports the last one", async () => {
  let calls = 0;
  equal(
    await waitFor("luck", () => {
      if (++calls < 3) throw new Error("not yet");
      return true;
    }, { intervalMs: 1 }),
    true,
  );
  await rejects(
    waitFor("luck", () => Promise.reject(new Error("refused")), { timeoutMs: 20, intervalMs: 5 }),
    /last: error: refused/,
  );
});

Deno.test("waitFor ends in time though its probe hangs", async () => {
  const start = performance.now();
  await rejects(waitFor("an answer", () => new Promise(() => {}), { timeoutMs: 50 }), /has not answered/);
  ok(performance.now() - start < 1000);
});

Deno.test("withTimeout tells a late promise from a quick one", async () => {
  equal(await withTimeout(Promise.resolve(1), 1000), 1);
  equal(await withTimeout(new Promise(() => {}), 5), TIMED_OUT);
  await delay(1);
});
