import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { readTableOptions } from "./options.ts";

const read = (options: Record<string, string>, server: Record<string, string> = {}) =>
  readTableOptions({ table: "t", server, options });

Deno.test("readTableOptions: the server's prefix stands in front of the table's, and both are stripped", () => {
  const { range, strip } = read({ prefix: "a/", strip_prefix: "true" }, { prefix: "/s/" });
  assert.deepEqual(range, { start: encodeUtf8("/s/a/"), end: encodeUtf8("/s/a0") });
  assert.equal(decodeUtf8(strip), "/s/a/");
  assert.deepEqual(read({}, { prefix: "/s/" }).range, { start: encodeUtf8("/s/"), end: encodeUtf8("/s0") });
  assert.equal(read({ prefix: "a/" }).strip.length, 0);
});

Deno.test("readTableOptions: key and range_end are whole keys, which the prefix narrows", () => {
  const options = { prefix: "/s/", key: "/s/b", range_end: "/t" };
  assert.deepEqual(read(options).range, { start: encodeUtf8("/s/b"), end: encodeUtf8("/s0") });
  assert.equal(read({ prefix: "/s/", key: "/t" }).range, null);
  assert.deepEqual(read({ key: "/a", range_end: "\\0" }).range, { start: encodeUtf8("/a"), end: null });
});

Deno.test("readTableOptions: a range that ends before it begins is refused by name", () => {
  assert.throws(() => read({ key: "b", range_end: "a" }), {
    sqlstate: "22023",
    message: 'range_end of foreign table "t" does not sort after its key',
  });
});

Deno.test("readTableOptions: a cache holds all of the table's keys, by the server's options or the table's own", () => {
  const start = encodeUtf8("/s/");
  const range = { start, end: encodeUtf8("/s0") };
  const cacheOf = (options: Record<string, string>, server: Record<string, string> = {}) =>
    read({ prefix: "/s/", ...options }, server).cache;
  assert.equal(cacheOf({}), null);
  assert.deepEqual(cacheOf({ cache: "true" }), { ...range, maxStaleness: 0, verify: 600 });
  assert.deepEqual(
    cacheOf({ consistency: "s" }, { cache: "true", max_staleness: "50", cache_verify: "0" }),
    { ...range, maxStaleness: 50, verify: 0 },
  );
  const own = { cache: "true", consistency: "s", max_staleness: "7", cache_verify: "9" };
  assert.deepEqual(cacheOf(own, { max_staleness: "50" }), { ...range, maxStaleness: 7, verify: 9 });
  // Linearizable answers are not stale; the past is not cached.
  assert.equal(cacheOf({ cache: "true" }, { max_staleness: "50" })?.maxStaleness, 0);
  assert.equal(cacheOf({ cache: "false" }, { cache: "true" }), null);
  assert.equal(cacheOf({ revision: "5" }, { cache: "true" }), null);
  assert.deepEqual(
    cacheOf({ cache: "true", key_pattern: "/s/a/{x}" })?.start,
    encodeUtf8("/s/a/"),
  );
});
