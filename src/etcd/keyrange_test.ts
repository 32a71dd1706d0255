import assert from "node:assert/strict";
import { encodeUtf8 } from "../base/bytes.ts";
import {
  ALL_KEYS,
  intersect,
  isSingleKey,
  type KeyRange,
  prefixRange,
  singleKey,
  toEtcd,
} from "./keyrange.ts";

const key = encodeUtf8;
const range = (start: string, end: string | null): KeyRange => ({
  start: key(start),
  end: end === null ? null : key(end),
});

Deno.test("prefixRange ends at the next prefix, whatever bytes it ends in", () => {
  assert.deepEqual(prefixRange(key("/a/")), range("/a/", "/a0"));
  assert.deepEqual(prefixRange(Uint8Array.of(0x61, 0xff, 0xff)).end, Uint8Array.of(0x62));
  assert.equal(prefixRange(Uint8Array.of(0xff, 0xff)).end, null);
  assert.equal(prefixRange(key("")).end, null);
});

Deno.test("intersect keeps what both hold", () => {
  assert.deepEqual(intersect(range("a", "m"), range("f", null)), range("f", "m"));
  assert.deepEqual(intersect(range("a", null), range("f", null)), range("f", null));
  assert.deepEqual(intersect(ALL_KEYS, singleKey(key("x"))), singleKey(key("x")));
  assert.equal(intersect(range("a", "b"), range("b", "c")), null);
  assert.equal(intersect(singleKey(key("a")), singleKey(key("b"))), null);
});

Deno.test("intersect knows that no key is empty", () => {
  assert.equal(intersect(ALL_KEYS, singleKey(key(""))), null);
});

Deno.test("isSingleKey tells one key from a range", () => {
  assert.ok(isSingleKey(singleKey(key("a"))));
  assert.ok(!isSingleKey(range("a", "b")));
  assert.ok(!isSingleKey(range("a", null)));
  assert.ok(!isSingleKey(range("a", "b\0")));
});

Deno.test("toEtcd never sends an empty range_end", () => {
  assert.deepEqual(toEtcd(singleKey(key("a"))), { key: key("a"), rangeEnd: null });
  assert.deepEqual(toEtcd(ALL_KEYS), { key: key("\0"), rangeEnd: key("\0") });
  assert.deepEqual(toEtcd(range("a", null)), { key: key("a"), rangeEnd: key("\0") });
});
