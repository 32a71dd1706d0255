import assert from "node:assert/strict";
import { log } from "./log.ts";

Deno.test("log: one line an event, whatever the text holds", () => {
  const lines: unknown[] = [];
  const { error } = console;
  console.error = (line: unknown) => void lines.push(line);
  try {
    log("first\n  second\r\n");
  } finally {
    console.error = error;
  }
  assert.deepEqual(lines, ["etcd_fdw proxy: first; second"]);
});
