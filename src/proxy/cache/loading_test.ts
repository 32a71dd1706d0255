// How a cache is loaded and compared, with an etcd of the test's own: what it asks for, and what it holds meanwhile.

import assert from "node:assert/strict";
import { compareBytes, encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { Header } from "../../etcd/api.ts";
import { prefixRange } from "../../etcd/keyrange.ts";
import { decodeRangeRequest, encodePage, keyOf, makeKeyRow } from "../../etcd/ranges.ts";
import { encodeWatchedPage } from "../../etcd/watch.ts";
import { Budget } from "../memory.ts";
import { atOnce, VirtualRuntime } from "../testing_runtime.ts";
import { Cache } from "./cache.ts";

const MB = 1024 * 1024;

/** So many keys with values of so many bytes, one behind the other. */
function rowsOf(...runs: [count: number, bytes: number][]): Uint8Array[] {
  let n = 0;
  return runs.flatMap(([count, bytes]) => {
    const value = new Uint8Array(bytes);
    return Array.from({ length: count }, () =>
      makeKeyRow({
        ...{ key: encodeUtf8(`/c/${String(n++).padStart(7, "0")}`), value, lease: 0n },
        ...{ createRevision: 5n, modRevision: 5n, version: 1n },
      }).raw);
  });
}

class World {
  readonly runtime = new VirtualRuntime();
  readonly budget: Budget;
  /** Bytes of the pages that were asked for, and what was taken of the budget before. */
  readonly pages: { bytes: number; rows: number; taken: number }[] = [];
  readonly cache: Cache;
  /** What etcd refuses a page with. */
  error: EtcdFdwError | null = null;
  /** When it was asked to compare, in milliseconds, and what it refused that with. */
  readonly compared: number[] = [];
  compacted: EtcdFdwError | null = null;

  constructor(rows: Uint8Array[], bytes: number) {
    this.budget = new Budget(bytes);
    const keys = rows.map(keyOf);
    const header = Header.encode({ cluster_id: "7", revision: "9" });
    const call = (_method: number, payload: Uint8Array) => {
      if (this.error !== null) return Promise.reject(this.error);
      const { key, limit, keysOnly } = decodeRangeRequest(payload);
      if (keysOnly) {
        this.compared.push(this.runtime.now());
        if (this.compacted !== null) return Promise.reject(this.compacted);
      }
      const from = keys.findIndex((one) => compareBytes(one, key) >= 0);
      const page = rows.slice(from, from + limit!);
      const more = from + limit! < rows.length;
      const count = BigInt(rows.length - from);
      const reply = atOnce(encodePage({ header, revision: 9n, rows: page, more, count }));
      this.pages.push({ bytes: reply.length, rows: page.length, taken: this.budget.used });
      return Promise.resolve(reply);
    };
    // Nothing happens.
    const none = { revision: 9n, events: [], left: 0, upto: 0n, behind: 0, cluster: 7n };
    const read = () =>
      new Promise<Uint8Array>((resolve) =>
        this.runtime.after(3_000, () => resolve(atOnce(encodeWatchedPage(none))))
      );
    const world = { runtime: this.runtime, cluster: { call }, hub: { read }, budget: this.budget };
    this.cache = new Cache({ ...world, makeRoom: () => {}, log: () => {} }, prefixRange(encodeUtf8("/c/")));
    this.cache.run();
  }
}

Deno.test("Cache: it is loaded in few pages, and each of them is in the budget before the next one", async () => {
  const w = new World(rowsOf([50_000, 100]), 64 * MB);
  await w.runtime.pass(100);
  assert.deepEqual([w.cache.state, w.cache.held.keys], ["LIVE", 50_000]);
  assert.ok(w.pages.length < 25, `${w.pages.length} pages`);
  assert.ok(w.pages.every(({ bytes }) => bytes <= 2 * MB));
  let sum = 0;
  for (const { bytes, taken } of w.pages) {
    assert.ok(taken >= sum, `${taken} bytes were taken for ${sum}`);
    sum += bytes;
  }
  w.cache.close();
});

Deno.test("Cache: a large row behind small ones does not make the pages behind it small", async () => {
  const w = new World(rowsOf([5_000, 100], [1, MB], [30_000, 100]), 64 * MB);
  await w.runtime.pass(100);
  assert.equal(w.cache.state, "LIVE");
  assert.ok(w.pages.length < 40, `${w.pages.length} pages`);
  w.cache.close();
});

Deno.test("Cache: a range that has no room is given up at the page that shows it, and not tried again soon", async () => {
  const w = new World(rowsOf([1_010, 1], [20, MB], [8_000, 1], [20, MB], [8_000, 1], [20, MB]), 30 * MB);
  await w.runtime.pass(100);
  assert.equal(w.cache.state, "WAITING");
  assert.equal(w.budget.used, 0);
  const { length } = w.pages;
  const large = w.pages.filter(({ bytes }) => bytes > 8 * MB);
  assert.ok(large.length <= 1, `${large.length} large pages`);
  assert.ok(w.pages.reduce((sum, { bytes }) => sum + bytes, 0) < 30 * MB + 9 * MB);
  await w.runtime.pass(50_000);
  assert.equal(w.pages.length, length);
  w.error = new EtcdFdwError("54000", "etcd's answer is too large");
  await w.runtime.pass(20_000);
  w.error = null;
  await w.runtime.pass(40_000);
  assert.equal(w.pages.length, length, "too large is too large for a while");
  w.cache.close();
});

Deno.test("Cache: where values were large, they are asked for in small pages", async () => {
  const runs: [number, number][] = [[2_000, 1], [12, MB], [4_000, 1], [12, MB], [4_000, 1], [12, MB]];
  const w = new World(rowsOf(...runs), 128 * MB);
  await w.runtime.pass(100);
  assert.equal(w.cache.state, "LIVE");
  const large = w.pages.filter(({ bytes }) => bytes > 9 * MB);
  assert.ok(large.length <= 1, `${large.length} large pages`);
  w.cache.close();
});

Deno.test("Cache: a comparison that a compaction has cut off is made again soon", async () => {
  const w = new World(rowsOf([10, 1]), MB);
  w.cache.verifyEvery = 120;
  w.compacted = new EtcdFdwError("22023", "compacted");
  await w.runtime.pass(140_000);
  assert.deepEqual([w.compared.length, w.cache.counts.verifications], [2, 0]);
  w.compacted = null;
  await w.runtime.pass(15_000);
  assert.equal(w.cache.counts.verifications, 1);
  await w.runtime.pass(100_000);
  assert.equal(w.cache.counts.verifications, 1);
  w.cache.close();
});
