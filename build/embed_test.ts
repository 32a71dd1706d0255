import assert from "node:assert/strict";
import { cArray } from "./embed.ts";

Deno.test("cArray counts the bytes without the NUL behind them", () => {
  const text = cArray("x", Uint8Array.of(1, 255));
  assert.match(text, /const unsigned char x\[\] = \{\n1,255,\n0\};/);
  assert.match(text, /const size_t x_len = 2;/);
});
