import assert from "node:assert/strict";
import { compareBytes, decodeUtf8, encodeUtf8 } from "../base/bytes.ts";
import { type KeyRange, singleKey } from "./keyrange.ts";
import { covering, RIGHT_BYTES, rightsSize, writeRights } from "./rights.ts";
import { Out } from "./wire.ts";

function cover(ranges: KeyRange[], most: number): KeyRange[] {
  const work = covering(ranges, most);
  for (;;) {
    const { value, done } = work.next();
    if (done) return value;
  }
}

const keys = (...names: string[]) => names.map((name) => singleKey(encodeUtf8(name)));
const shown = (ranges: KeyRange[]) =>
  ranges.map(({ start, end }) =>
    `${decodeUtf8(start)}..${end === null ? "" : decodeUtf8(end).replace("\0", "+")}`
  );

Deno.test("covering: what is few is named as it is", () => {
  assert.deepEqual(shown(cover(keys("b", "a"), 2)), ["b..b+", "a..a+"]);
  assert.deepEqual(cover([], 2), []);
});

Deno.test("covering: ranges are parted where keys have least in common", () => {
  const many = keys("/app/1/a", "/app/1/b", "/app/2/a", "/other/1", "/other/2", "x");
  assert.deepEqual(shown(cover(many, 3)), ["/app/1/a../app/2/a+", "/other/1../other/2+", "x..x+"]);
  assert.deepEqual(shown(cover(many.toReversed(), 2)), ["/app/1/a../other/2+", "x..x+"]);
  assert.deepEqual(shown(cover(many, 1)), ["/app/1/a..x+"]);
});

Deno.test("covering: a range that reaches over others is not cut, and the end may be open", () => {
  const wide = { start: encodeUtf8("a"), end: encodeUtf8("n") };
  const open = { start: encodeUtf8("x"), end: null };
  assert.deepEqual(shown(cover([wide, ...keys("b", "c", "o"), open, ...keys("y")], 3)), [
    "a..n",
    "o..o+",
    "x..",
  ]);
});

Deno.test("covering: everything lies within, whatever is asked for", () => {
  let seed = 7;
  const below = (end: number) => (seed = (seed * 1103515245 + 12345) % 2 ** 31) % end;
  for (let round = 0; round < 300; round++) {
    const ranges = Array.from({ length: 1 + below(600) }, () => {
      const key = Uint8Array.from({ length: 1 + below(5) + (below(9) === 0 ? 300 : 0) }, () => below(3));
      const end = below(20) === 0 ? Uint8Array.from([...key, 200]) : null;
      return end === null ? singleKey(key) : { start: key, end };
    });
    const most = 1 + below(40);
    const covers = cover(ranges, most);
    assert.ok(covers.length <= most);
    for (const { start, end } of ranges) {
      const holds = covers.some((one) =>
        compareBytes(one.start, start) <= 0 &&
        (one.end === null || end !== null && compareBytes(end, one.end) <= 0)
      );
      assert.ok(holds, `round ${round}`);
    }
    const rights = { read: covers, written: covers };
    const size = rightsSize(rights);
    assert.ok(size <= 2 * covers.length * RIGHT_BYTES);
    const out = new Out(size);
    writeRights(out, rights);
    assert.equal(out.at, size);
  }
});
