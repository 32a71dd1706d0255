import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import { decodeRangeResponse } from "../../etcd/ranges.ts";
import { encodeReadResponses, readsOf } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { StageFlag, StageKind } from "../../ipc/stage.ts";
import { errorFrom, getPrefix, put } from "../testing_requests.ts";
import { deletion, entry, REAL_PACE, TestTransaction, withEtcd, write } from "../testing_txn.ts";
import { listingPage, readAll } from "./batches.ts";
import { type Call, run } from "./driver.ts";

const OPS = 16;
const BYTES = 200_000;
const LIMITS = { maxTxnOps: OPS, maxRequestBytes: BYTES };

/** etcd with small limits of its own. */
const bounded = (call: Call): Call => async (method, payload) => {
  assert.ok(payload.length <= BYTES - 1024, `${payload.length} bytes`);
  if (method === Method.READ_TXN) {
    assert.ok(readsOf(payload).length <= OPS, `${readsOf(payload).length} reads`);
  }
  return await call(method, payload);
};

Deno.test("batches: each of many reads has its answer, and few Txns are on their way", async () => {
  let underWay = 0;
  let most = 0;
  const call: Call = async (_, payload) => {
    most = Math.max(most, ++underWay);
    await new Promise((resolve) => setTimeout(resolve, 1));
    underWay--;
    return encodeReadResponses(new Uint8Array(0), readsOf(payload));
  };
  const reads = Array.from({ length: 1000 }, (_, i) => ({ key: encodeUtf8(`${i}`), rangeEnd: null }));
  const answers = await run(readAll(reads, LIMITS), bounded(call), REAL_PACE, { aborted: false });
  assert.deepEqual(
    answers.map((one) => decodeUtf8(one)),
    reads.map((one) => decodeUtf8(encodeRangeRequest(one))),
  );
  assert.ok(most > 1 && most <= 8, `${most} at once`);
});

Deno.test("batches: a listing's pages are bounded by what their keys weigh", () => {
  assert.equal(listingPage(1000, 50_000), 20_000);
  assert.equal(listingPage(1000, 1000 * 20_000), Math.floor(8 * 1024 * 1024 / 20_000));
  assert.equal(listingPage(1, 2 ** 30), 1);
});

for (const bytes of [10, 20_000]) {
  Deno.test(`batches: counts, existing keys and conflicts of keys of ${bytes} bytes keep to what etcd takes`, async () => {
    await withEtcd(async (call) => {
      const name = (i: number) => `/b/${String(i).padStart(4, "0")}${"k".repeat(bytes)}`;
      for (let i = 0; i < 60; i++) await call(Method.PUT, put(name(i), "x"));
      const stored = decodeRangeResponse(await call(Method.RANGE, getPrefix("/b/"))).rows;
      const transaction = new TestTransaction(bounded(call), LIMITS);
      const update = (i: number) => entry(StageKind.UPDATE, name(i), "y", stored[i]);
      transaction.stage(write(stored.map((_, i) => update(i))));
      const count = { key: encodeUtf8("/b/"), rangeEnd: encodeUtf8("/b0"), countOnly: true };
      const read = await transaction.read(Method.RANGE, encodeRangeRequest(count), 9);
      assert.equal(decodeRangeResponse(read).count, 60n);
      const inserts = Array.from({ length: 70 }, (_, i) => entry(StageKind.INSERT, name(i), "z"));
      const other = new TestTransaction(bounded(call), LIMITS);
      for (let at = 0; at < inserts.length; at += 5) {
        const part = inserts.slice(at, at + 5);
        const { refused } = await other.write(write(part, { flags: StageFlag.CHECK }));
        assert.deepEqual(refused, at < 60 ? [0, 1, 2, 3, 4] : []);
      }
      const all = new TestTransaction(bounded(call), LIMITS);
      assert.equal((await all.write(write(inserts, { flags: StageFlag.CHECK }))).refused.length, 60);
      await call(Method.PUT, put(name(59), "theirs"));
      const error = await errorFrom(transaction.commit());
      assert.equal(error.sqlstate, "40001");
      assert.ok(error.detail.includes("/b/0059"));
      const deleting = new TestTransaction(bounded(call), LIMITS);
      assert.equal((await deleting.deleteRange(deletion("/b/", "/b0"))).count, 60);
      await deleting.commit();
    });
  });
}
