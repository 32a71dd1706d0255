import assert from "node:assert/strict";
import { decodeUtf8 } from "../base/bytes.ts";
import { Ask, FrameDecoder } from "../ipc/frame.ts";
import { beginFollow, followKeys, followTable } from "./follow.ts";
import { column, hex, KEY_VALUE } from "./testing_input.ts";

Deno.test("follow: waits for one event, takes more, and knows where it stands", () => {
  const { answer, payload } = beginFollow({
    ...{ key: "2f61", end: "2f62", prev: true, after: "9007199254740993", wait: 30_000, count: 500 },
  });
  assert.deepEqual(answer, { do: "follow" });
  const [frame] = [...new FrameDecoder().push(payload!)];
  assert.equal(frame.code, Ask.WATCH);
  assert.equal(frame.deadline, 30_000);
  assert.deepEqual(JSON.parse(decodeUtf8(frame.payload)), {
    ...{ key: "2f61", end: "2f62", prev: true, after: "9007199254740993", upto: null },
    ...{ count: 500, enough: 1, known: true, patience: 30_000 },
  });
});

Deno.test("followKeys: a prefix, a range, a key, and everything", () => {
  const keys = (key: string, end: string | null, prefix: boolean) =>
    followKeys({ key: hex(key), end: end === null ? null : hex(end), prefix }).answer;
  const found = { do: "followed", columns: [], ttl: [] };
  assert.deepEqual(keys("/a", null, true), { ...found, key: hex("/a"), end: hex("/b"), single: 0 });
  assert.deepEqual(keys("", null, true), { ...found, key: "00", end: "00", single: 0 });
  assert.deepEqual(keys("/a", "/c", false), { ...found, key: hex("/a"), end: hex("/c"), single: 0 });
  assert.deepEqual(keys("/a", "\0", false), { ...found, key: hex("/a"), end: "00", single: 0 });
  assert.deepEqual(keys("/a", null, false), { ...found, key: hex("/a"), end: "", single: 1 });
  for (const end of ["/a", "/", "a"]) assert.throws(() => keys("b", end, false), /not behind the key/);
});

Deno.test("followTable: the table's keys, and what tells them apart", () => {
  const table = (options: Record<string, string>, columns = KEY_VALUE) =>
    followTable({ table: "t", server: {}, options, columns, quals: [] }).answer;
  const range = { do: "followed", key: hex("/a/"), end: hex("/a0"), single: 0, ttl: [] as number[] };
  assert.deepEqual(table({ prefix: "/a/" }), { ...range, columns: [1] });
  assert.deepEqual(table({ prefix: "/a/" }, [...KEY_VALUE, column(9, "ttl")]), {
    ...range,
    columns: [1],
    ttl: [9],
  });
  const parts = [column(3, "b"), column(5, "a")];
  assert.deepEqual(table({ key_pattern: "/a/{a}/{b}" }, parts), { ...range, columns: [5, 3] });
  assert.throws(() => table({ key_pattern: "/a/{a}/{b}" }, parts.slice(1)), /tells its keys apart/);
  assert.throws(() => table({ prefix: "/a/" }, KEY_VALUE.slice(1)), /tells its keys apart/);
  assert.throws(() => table({ prefix: "/a/", revision: "7" }), /never changes/);
});
