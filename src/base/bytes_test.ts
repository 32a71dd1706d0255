import assert from "node:assert/strict";
import { compareBytes, concatBytes, decodeUtf8, encodeUtf8, fromHex, printable, toHex } from "./bytes.ts";

const TEXTS = ["", "plain", "äöü €", "\u{1f600}\u{10ffff}", "\0\x7f\x80\u07ff\u0800\uffff", "\ud7ff\ue000"];

/** Byte strings that are not UTF-8, and some in between that are. */
const BROKEN = [
  [0x80],
  [0xc3],
  [0xc0, 0xaf],
  [0xe0, 0x80, 0x80],
  [0xe2, 0x82],
  [0xed, 0xa0, 0x80],
  [0xf0, 0x80, 0x80, 0x80],
  [0xf4, 0x90, 0x80, 0x80],
  [0xf5, 0x80, 0x80, 0x80],
  [0xff, 0xfe],
  [0x61, 0xc3, 0x62],
];

Deno.test("encodeUtf8: as TextEncoder does it, lone surrogates included", () => {
  for (const text of [...TEXTS, "a\ud800b", "\udc00", "\ud800"]) {
    assert.deepEqual(encodeUtf8(text), new TextEncoder().encode(text), JSON.stringify(text));
  }
});

Deno.test("decodeUtf8: inverse of encodeUtf8; a byte that does not fit becomes U+FFFD and the rest stays", () => {
  for (const text of TEXTS) assert.equal(decodeUtf8(encodeUtf8(text)), text);
  for (const bytes of BROKEN) {
    assert.match(decodeUtf8(Uint8Array.from([...bytes, 0x7a])), /^a?\ufffd+b?z$/, String(bytes));
  }
});

Deno.test("hex: both ways, in either case", () => {
  const all = new Uint8Array(256).map((_, i) => i);
  assert.deepEqual(fromHex(toHex(all)), all);
  assert.deepEqual(fromHex("aBCd"), Uint8Array.of(0xab, 0xcd));
  assert.equal(toHex(new Uint8Array(0)), "");
  for (const bad of ["a", "0g", " 00", "0x10"]) assert.throws(() => fromHex(bad), { sqlstate: "22023" }, bad);
});

Deno.test("printable: what a person can read stays, the rest is escaped without ambiguity", () => {
  assert.equal(printable(encodeUtf8("/a/ä\u{1f600}")), "/a/ä\u{1f600}");
  assert.equal(printable(encodeUtf8("a\\x00")), "a\\\\x00");
  assert.equal(printable(Uint8Array.of(0, 0x61, 0xff, 0x0a, 0xc2, 0x85)), "\\x00a\\xff\\x0a\\xc2\\x85");
});

Deno.test("compareBytes: unsigned, and a prefix sorts first", () => {
  const sorted = [[], [0], [0, 0], [1], [0x7f], [0x80], [0x80, 1], [0xff], [0xff, 0xff]];
  for (let i = 0; i < sorted.length; i++) {
    for (let k = 0; k < sorted.length; k++) {
      const sign = Math.sign(compareBytes(Uint8Array.from(sorted[i]), Uint8Array.from(sorted[k])));
      assert.equal(sign, Math.sign(i - k));
    }
  }
});

Deno.test("concatBytes: none, empty and several", () => {
  assert.equal(concatBytes().length, 0);
  const parts = [Uint8Array.of(1), new Uint8Array(0), Uint8Array.of(2, 3)];
  assert.deepEqual(concatBytes(...parts), Uint8Array.of(1, 2, 3));
});
