import assert from "node:assert/strict";
import { encodeUtf8 } from "../../base/bytes.ts";
import { encodeCacheTerms } from "../../etcd/cached.ts";
import { encodeRangeRequest, encodeReadTxn, type RangeRequest } from "../../etcd/messages.ts";
import { answerHeader, decodePage, decodeRangeRequest } from "../../etcd/ranges.ts";
import { decodeTxn, readsOf } from "../../etcd/txn.ts";
import { Method, type OpenPayload } from "../../ipc/frame.ts";
import { Clusters } from "../etcd/clusters.ts";
import { Budget } from "../memory.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { errorFrom, put } from "../testing_requests.ts";
import { REAL } from "../testing_runtime.ts";
import { GrantedLeases } from "../fence.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { Header } from "../../etcd/api.ts";
import { fieldSize, Out } from "../../etcd/wire.ts";
import type { ClusterHandle } from "../handle.ts";
import { Stats } from "../stats.ts";
import { VirtualRuntime } from "../testing_runtime.ts";
import { cached, Caches } from "./caches.ts";
import { Written } from "./written.ts";

const range = { key: encodeUtf8("/c/"), rangeEnd: encodeUtf8("/c0") };
const terms = (maxStaleness = 0) =>
  encodeCacheTerms({ start: range.key, end: range.rangeEnd, maxStaleness, verify: 0 });

const openOf = (etcd: TestEtcd): OpenPayload => ({
  ...{
    endpoints: [etcd.endpoint],
    connectTimeout: 5_000,
    requestTimeout: 5_000,
    maxRetries: 2,
    retryBackoff: 10,
  },
  ...{ maxTxnOps: 128, requireAtomic: false, maxStagedBytes: 1024 * 1024 },
  ...{ database: "db", server: "s", role: "r" },
});

function isCached(reply: Uint8Array): boolean {
  const work = decodePage(reply, undefined);
  for (;;) {
    const { done, value } = work.next();
    if (done) return value.cached ?? false;
  }
}

async function world(
  work: (clusters: Clusters, etcd: TestEtcd) => Promise<void>,
  bytes: number,
): Promise<void> {
  const etcd = await TestEtcd.start();
  const budget = new Budget(bytes);
  const clusters = new Clusters(REAL, () => {}, { graceMs: 0, caches: budget });
  try {
    await work(clusters, etcd);
  } finally {
    await new Promise((resolve) => setTimeout(resolve, 50));
    await etcd.stop();
  }
  assert.equal(clusters.caches.rows().length, 0, "they end with the last session");
  assert.equal(budget.used, 0);
}

Deno.test("caches: one for all sessions, in front of the reads that say so, and counted", () =>
  world(async (clusters, etcd) => {
    const written = new Written();
    const [one, two] = [
      clusters.open(openOf(etcd), new GrantedLeases(), written),
      clusters.open({ ...openOf(etcd), role: "other" }),
    ];
    const read = (more: Partial<RangeRequest> = {}) => encodeRangeRequest({ ...range, ...more });
    const cache = terms();
    const began = answerHeader(await one.call(Method.PUT, put("/c/1", "x")));
    assert.equal(written.revisionOf(began.cluster), began.revision);
    while (!isCached(await one.call(Method.RANGE, read({ cache })))) { /* loading */ }
    assert.ok(isCached(await two.call(Method.RANGE, read({ cache: terms(50), serializable: true }))));
    assert.ok(!isCached(await one.call(Method.RANGE, read())), "a read that does not say so");
    const txn = encodeReadTxn([range, { ...range, countOnly: true }], cache);
    const { responses } = decodeTxn(await one.call(Method.READ_TXN, txn));
    assert.deepEqual(responses.map((response) => isCached(response!)), [true, true]);
    const mixed = encodeReadTxn([{ ...range, revision: "1" }, range], cache);
    const theirs = decodeTxn(await one.call(Method.READ_TXN, mixed)).responses;
    assert.deepEqual(theirs.map((response) => isCached(response!)), [false, false], "two states");
    const rows = clusters.caches.rows();
    assert.deepEqual(
      rows.map(({ role, key, range_end, state, keys }) => [role, key, range_end, state, keys]),
      [
        ["r", "/c/", "/c0", "LIVE", 1],
        ["other", "/c/", "/c0", "LIVE", 1],
      ],
    );
    const [mine, others] = rows;
    assert.deepEqual([mine.hits, others.hits, others.misses], [2, 1, 0]);
    const [stat] = clusters.stats.rows();
    assert.deepEqual([stat.cache_hits, stat.cache_misses], [mine.hits, mine.misses]);
    assert.ok(stat.cache_bytes > 0);
    assert.equal((await errorFrom(one.call(Method.PUT, new Uint8Array(0)))).sqlstate.length, 5);
    assert.equal(written.floorOf(one.cluster), null, "what has failed may have been written");
    assert.ok(isCached(await one.call(Method.RANGE, read({ cache, serializable: true }))));
    assert.equal(written.floorOf(one.cluster), began.revision, "etcd was asked");
    one.close();
    two.close();
  }, 1024 * 1024));

Deno.test("caches: none where they may hold nothing", () =>
  world(async (clusters, etcd) => {
    const handle = clusters.open(openOf(etcd));
    for (let i = 0; i < 3; i++) {
      const reply = await handle.call(Method.RANGE, encodeRangeRequest({ ...range, cache: terms() }));
      assert.ok(!isCached(reply));
      assert.equal(clusters.caches.rows().length, 0);
    }
    handle.close();
  }, 0));

Deno.test("caches: what they leave to etcd is asked so that it is as new as the session was promised", async () => {
  const never = () => new Promise<Uint8Array>(() => {});
  const runtime = new VirtualRuntime();
  const reply = (revision: string) => {
    const header = Header.encode({ cluster_id: "7", revision });
    const out = new Out(fieldSize(header.length));
    out.field(1 << 3 | 2, header);
    return out.bytes;
  };
  for (const bytes of [0, 1024 * 1024]) {
    const written = new Written();
    const caches = new Caches(runtime, new Budget(bytes), () => {}).of({ call: never }, { read: never });
    const asked: Uint8Array[] = [];
    let fails = false;
    const call = (method: number, payload: Uint8Array) => {
      if (fails) return Promise.reject(new EtcdFdwError("08006", "lost"));
      if (method === Method.RANGE || method === Method.READ_TXN) asked.push(payload);
      return Promise.resolve(reply("5"));
    };
    const label = { database: "d", server: "s", role: "r" };
    const plain = { cluster: {}, label, call, requestTimeout: 1_000 } as unknown as ClusterHandle;
    const handle = cached(plain, caches, new Stats(() => 0).of(label), written);
    const stale: RangeRequest = { ...range, limit: 3, serializable: true };
    const isSerializable = async (maxStaleness = 0) => {
      const cache = terms(maxStaleness);
      await handle.call(Method.RANGE, encodeRangeRequest({ ...stale, cache }));
      await handle.call(Method.READ_TXN, encodeReadTxn([stale, { ...stale, countOnly: true }], cache));
      const [one, txn] = asked.splice(0);
      const seen = [decodeRangeRequest(one), ...readsOf(txn).map(decodeRangeRequest)];
      assert.deepEqual(seen.map(({ limit, countOnly = false }) => [limit, countOnly]), [
        ...[[3, false], [3, false], [3, true]],
      ]);
      return seen.map(({ serializable = false }) => serializable);
    };
    assert.deepEqual(await isSerializable(), [true, true, true], "nothing was promised");
    assert.deepEqual(await isSerializable(1_000), [false, false, false], "a bound");
    await handle.call(Method.PUT, put("/c/1", "x"));
    assert.deepEqual(await isSerializable(), [false, false, false], "an own write");
    fails = true;
    const other = new Written();
    const doubtful = cached(plain, caches, new Stats(() => 0).of(label), other);
    await errorFrom(doubtful.call(Method.PUT, put("/c/1", "x")));
    fails = false;
    await doubtful.call(Method.RANGE, encodeRangeRequest({ ...stale, cache: terms() }));
    assert.ok(!decodeRangeRequest(asked[0]).serializable, "a write in doubt");
    caches.close();
  }
});
