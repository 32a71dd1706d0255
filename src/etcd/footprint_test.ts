import assert from "node:assert/strict";
import { encodeUtf8 } from "../base/bytes.ts";
import { areApart, footprintOf } from "./footprint.ts";
import { encodeTxn, type TxnRequest } from "./txn.ts";

const bytes = encodeUtf8;
const compare = (key: string, rangeEnd?: string) => ({
  key: bytes(key),
  ...(rangeEnd === undefined ? {} : { rangeEnd: bytes(rangeEnd) }),
  ...{ target: "mod" as const, result: "equal" as const, value: 7n },
});
const put = (key: string) => ({ put: { key: bytes(key), value: bytes("v"), lease: 0n } });
const remove = (key: string, rangeEnd?: string) => ({
  delete: { key: bytes(key), ...(rangeEnd === undefined ? {} : { rangeEnd: bytes(rangeEnd) }) },
});
const of = (txn: Partial<TxnRequest>) =>
  footprintOf({ kind: "txn", payload: encodeTxn({ compare: [], success: [], failure: [], ...txn }) });

Deno.test("footprint: keys that are compared, and keys that are written", () => {
  const seen = of({
    compare: [compare("a"), compare("b", "c")],
    success: [put("d"), remove("e"), remove("f", "\0")],
  })!;
  const shown = (ranges: { start: Uint8Array; end: Uint8Array | null }[]) =>
    ranges.map(({ start, end }) => [new TextDecoder().decode(start), end && new TextDecoder().decode(end)]);
  assert.deepEqual(shown(seen.read), [["a", "a\0"], ["b", "c"]]);
  assert.deepEqual(shown(seen.written), [["d", "d\0"], ["e", "e\0"], ["f", null]]);
});

Deno.test("footprint: what reads, has another side, or is large, goes by itself", () => {
  assert.equal(of({ success: [{ range: { key: bytes("a"), rangeEnd: null } }] }), null);
  assert.equal(of({ success: [put("a")], failure: [put("b")] }), null);
  assert.equal(of({ success: Array.from({ length: 17 }, (_, i) => put(`${i}`)) }), null);
  assert.notEqual(of({}), null);
});

Deno.test("footprint: writes are apart when neither touches what the other looks at", () => {
  const cases: [Partial<TxnRequest>, Partial<TxnRequest>, boolean][] = [
    [{ success: [put("a")] }, { success: [put("b")] }, true],
    [{ success: [put("a")] }, { success: [put("a")] }, false],
    [{ success: [put("a")] }, { success: [remove("a")] }, false],
    [{ success: [put("b")] }, { success: [remove("a", "c")] }, false],
    [{ success: [put("c")] }, { success: [remove("a", "c")] }, true],
    [{ success: [put("zz")] }, { success: [remove("x", "\0")] }, false],
    [{ success: [put("x")], compare: [compare("a")] }, { success: [put("a")] }, false],
    [{ success: [put("x")], compare: [compare("a", "b")] }, { success: [put("aa")] }, false],
    // What both only look at does not part them.
    [
      { success: [put("x")], compare: [compare("a")] },
      { success: [put("y")], compare: [compare("a")] },
      true,
    ],
    [{ compare: [compare("a", "\0")] }, { success: [put("a")] }, false],
    [{ compare: [compare("b", "\0")] }, { success: [put("a")] }, true],
  ];
  for (const [a, b, apart] of cases) {
    assert.equal(areApart(of(a)!, of(b)!), apart);
    assert.equal(areApart(of(b)!, of(a)!), apart);
  }
});
