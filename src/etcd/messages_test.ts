import assert from "node:assert/strict";
import { toHex } from "../base/bytes.ts";
import { encodeRangeRequest } from "./messages.ts";

const key = Uint8Array.of(0x61);

Deno.test("encodeRangeRequest writes only what is asked", () => {
  assert.equal(toHex(encodeRangeRequest({ key, rangeEnd: null })), "0a0161");
  assert.equal(toHex(encodeRangeRequest({ key, rangeEnd: Uint8Array.of(0) })), "0a0161120100");
});

Deno.test("encodeRangeRequest writes 64-bit revisions exactly", () => {
  const bytes = encodeRangeRequest({ key, rangeEnd: null, revision: "9223372036854775807" });
  assert.equal(toHex(bytes), "0a016120ffffffffffffffff7f");
});

Deno.test("encodeRangeRequest writes limit and flags", () => {
  const bytes = encodeRangeRequest({ key, rangeEnd: null, limit: 300, serializable: true, keysOnly: true });
  assert.equal(toHex(bytes), "0a016118ac0238014001");
});

Deno.test("encodeRangeRequest writes the bounds of revisions", () => {
  const bytes = encodeRangeRequest({
    key,
    rangeEnd: null,
    minModRevision: "1",
    maxModRevision: "2",
    minCreateRevision: "3",
    maxCreateRevision: "4",
  });
  assert.equal(toHex(bytes), "0a01615001580260036804");
});
