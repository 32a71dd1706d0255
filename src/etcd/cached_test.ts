import assert from "node:assert/strict";
import { encodeUtf8 } from "../base/bytes.ts";
import { type CacheTerms, cacheTermsIn, decodeCacheTerms, encodeCacheTerms } from "./cached.ts";
import { encodeRangeRequest, encodeReadTxn } from "./messages.ts";
import { decodePage, decodeRangeRequest, encodePage } from "./ranges.ts";
import { readsOf } from "./txn.ts";

const key = encodeUtf8("/a");

Deno.test("cache terms come back as they were, in a read and once in a Txn of reads", () => {
  const all: CacheTerms[] = [
    { start: key, end: encodeUtf8("/b"), maxStaleness: 0, verify: 0 },
    { start: new Uint8Array(0), end: null, maxStaleness: 86_400_000, verify: 600 },
    { start: key, end: new Uint8Array(300).fill(255), maxStaleness: 1, verify: 1 },
  ];
  for (const terms of all) {
    const cache = encodeCacheTerms(terms);
    assert.deepEqual(decodeCacheTerms(cache), terms);
    const request = { key, rangeEnd: null, revision: "7", serializable: true, cache };
    const read = encodeRangeRequest(request);
    assert.deepEqual(cacheTermsIn(read), cache);
    assert.deepEqual(decodeRangeRequest(read), request);
    const txn = encodeReadTxn([request, request], cache);
    assert.deepEqual(cacheTermsIn(txn), cache);
    assert.deepEqual(readsOf(txn).map(cacheTermsIn), [undefined, undefined]);
  }
  assert.equal(cacheTermsIn(encodeRangeRequest({ key, rangeEnd: null })), undefined);
});

function done<T>(work: Generator<undefined, T, unknown>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

Deno.test("a page keeps the mark of a cache", () => {
  const page = { header: new Uint8Array(0), revision: 5n, rows: [], more: false, count: 0n };
  assert.equal(done(decodePage(done(encodePage({ ...page, cached: true })), undefined)).cached, true);
  assert.equal(done(decodePage(done(encodePage(page)), undefined)).cached, undefined);
});
