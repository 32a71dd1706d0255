import assert from "node:assert/strict";
import { locked } from "./run.ts";

Deno.test("locked: one after the other, also after one that failed", async () => {
  const path = await Deno.makeTempFile();
  try {
    const events: string[] = [];
    const work = (name: string) =>
      locked(path, async () => {
        events.push(`${name} begins`);
        await new Promise((resolve) => setTimeout(resolve, 50));
        events.push(`${name} ends`);
        if (name === "a") throw new Error("a fails");
        return name;
      });
    const first = work("a").catch((error: Error) => error.message);
    while (events.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.deepEqual(await Promise.all([first, work("b")]), ["a fails", "b"]);
    assert.deepEqual(events, ["a begins", "a ends", "b begins", "b ends"]);
  } finally {
    await Deno.remove(path);
  }
});
