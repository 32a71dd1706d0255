import assert from "node:assert/strict";
import { encodeUtf8, fromHex, toHex } from "../../base/bytes.ts";
import { cacheTermsIn, encodeCacheTerms } from "../../etcd/cached.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { readsOf } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { FIRST_PAGE_KEYS, MAX_TXN_OPS, PAGE_BYTES, PAGE_GROWTH } from "../../ipc/limits.ts";
import type {
  BeginInput,
  Comparison,
  Outcome,
  PageInput,
  ParamValue,
  Qual,
  SendAnswer,
} from "../protocol.ts";
import {
  array,
  beginInput,
  compare,
  hex,
  key,
  methodOf,
  payloadOf,
  plan as planOf,
  rangeOf as request,
  text,
  txnOf,
} from "../testing_input.ts";
import { beginScan, nextPage, pageFailed } from "./scan.ts";

function plan(options: Record<string, string>, quals: Qual[] = []): string {
  return planOf({ options, quals }).plan;
}

const begin = (text: string, params: ParamValue[] = [], revision = "0", more: Partial<BeginInput> = {}) =>
  beginScan(beginInput(text, { params, revision, ...more }));

const page = (outcome: Outcome, more: Partial<PageInput> = {}): PageInput => ({
  state: (outcome.answer as SendAnswer).state,
  revision: "7",
  more: true,
  kvs: 1000,
  bytes: 100_000,
  lastKey: toHex(encodeUtf8("/a/m")),
  ...more,
});

Deno.test("beginScan asks for the whole keyspace with the byte 0 at both ends", () => {
  assert.deepEqual(request(begin(plan({}))), { 1: "\0", 2: "\0", 3: BigInt(FIRST_PAGE_KEYS) });
});

Deno.test("beginScan leaves range_end out for a single key", () => {
  assert.deepEqual(request(begin(plan({ key: "/a" }))), { 1: "/a" });
});

Deno.test("beginScan takes key, range_end, revision, consistency and keys_only from the options", () => {
  const options = { key: "a", range_end: "c", revision: "5", consistency: "s", keys_only: "true" };
  assert.deepEqual(request(begin(plan(options))), {
    1: "a",
    2: "c",
    3: BigInt(FIRST_PAGE_KEYS),
    4: 5n,
    7: 1n,
    8: 1n,
  });
});

Deno.test("beginScan asks nothing when no key can match", () => {
  const qual: Comparison = {
    op: "=",
    collation: "deterministic",
    left: { column: "key" },
    right: { param: 0, type: "text" },
  };
  const planned = plan({ prefix: "/a/" }, [qual]);
  assert.deepEqual(begin(planned, [null]).answer, { do: "done" });
  assert.deepEqual(begin(planned, [toHex(encodeUtf8("/b/x"))]).answer, { do: "done" });
  assert.deepEqual(request(begin(planned, [toHex(encodeUtf8("/a/x"))])), { 1: "/a/x" });
});

Deno.test("nextPage goes on after the last key at the first page's revision", () => {
  const first = begin(plan({ prefix: "/a/" }));
  const fields = request(nextPage(page(first)));
  assert.equal(fields[1], "/a/m\0");
  assert.equal(fields[2], "/a0");
  assert.equal(fields[4], 7n);
});

Deno.test("nextPage keeps the revision once it is known", () => {
  const second = nextPage(page(begin(plan({}))));
  assert.equal(request(nextPage(page(second, { revision: "9", lastKey: toHex(encodeUtf8("/a/n")) })))[4], 7n);
});

Deno.test("beginScan of a rescan reads the revision of the first run", () => {
  assert.equal(request(begin(plan({}), [], "42"))[4], 42n);
});

Deno.test("nextPage grows pages, but not beyond their bytes", () => {
  const small = request(nextPage(page(begin(plan({})), { kvs: 1000, bytes: 1000 })));
  assert.equal(small[3], BigInt(FIRST_PAGE_KEYS * PAGE_GROWTH));
  const large = request(nextPage(page(begin(plan({})), { kvs: 4, bytes: 4 * 1024 * 1024 })));
  assert.equal(large[3], BigInt(PAGE_BYTES / (1024 * 1024)));
  const huge = request(nextPage(page(begin(plan({})), { kvs: 1, bytes: 100 * 1024 * 1024 })));
  assert.equal(huge[3], 1n);
});

Deno.test("nextPage refuses a page that makes no progress", () => {
  const violation = (error: unknown) => error instanceof EtcdFdwError && error.sqlstate === "08P01";
  assert.throws(() => nextPage(page(begin(plan({})), { kvs: 0 })), violation);
  const second = nextPage(page(begin(plan({ prefix: "/a/" }))));
  assert.throws(() => nextPage(page(second)), violation);
});

Deno.test("pageFailed asks for smaller pages when one is too large", () => {
  const first = begin(plan({}));
  const state = (first.answer as SendAnswer).state;
  const failed = { state, sqlstate: "54000", message: "too large", detail: "", hint: "" };
  assert.equal(request(pageFailed(failed))[3], BigInt(Math.ceil(FIRST_PAGE_KEYS / PAGE_GROWTH)));
});

Deno.test("pageFailed hands every other error on", () => {
  const state = (begin(plan({})).answer as SendAnswer).state;
  const error = { sqlstate: "08006", message: "m", detail: "d", hint: "h" };
  assert.deepEqual(pageFailed({ state, ...error }).answer, { do: "error", ...error });
});

Deno.test("keys of a list are read in one Txn, in order", () => {
  const first = begin(plan({}, [compare("= any", key, array("b", "a", "c"))]));
  assert.equal(methodOf(first), Method.READ_TXN);
  assert.deepEqual(txnOf(first), [{ 1: "a" }, { 1: "b" }, { 1: "c" }]);
  assert.equal((first.answer as SendAnswer).then, "done");
  const descending = begin(plan({}, [compare("= any", key, array("b", "a"))]), [], "0", {
    order: "key desc",
  });
  assert.deepEqual(txnOf(descending), [{ 1: "b" }, { 1: "a" }]);
});

Deno.test("more keys than a Txn takes, and ranges among them, follow at the first one's revision", () => {
  const keys = Array.from({ length: MAX_TXN_OPS }, (_, i) => `k${1000 + i}`);
  const or: Qual = { or: [compare("= any", key, array(...keys.slice(1))), compare("^@", key, text("k2"))] };
  const first = begin(plan({}, [or]));
  assert.equal(txnOf(first).length, MAX_TXN_OPS - 1);
  assert.equal((first.answer as SendAnswer).then, "page");
  const second = nextPage(page(first, { more: false, kvs: 3 }));
  assert.deepEqual(request(second), { 1: "k2", 2: "k3", 3: BigInt(FIRST_PAGE_KEYS), 4: 7n });
  assert.deepEqual(nextPage(page(second, { more: false })).answer, { do: "done" });
});

Deno.test("keys are read in Txns of what the server's options say that etcd takes", () => {
  const keys = Array.from({ length: 40 }, (_, i) => `k${10 + i}`);
  const few = planOf({ server: { max_txn_ops: "16" }, quals: [compare("= any", key, array(...keys))] }).plan;
  const first = begin(few);
  const second = nextPage(page(first, { more: false, kvs: 16 }));
  const third = nextPage(page(second, { more: false, kvs: 16 }));
  assert.deepEqual([first, second, third].map((one) => txnOf(one).length), [16, 16, 8]);
  assert.deepEqual(txnOf(third)[7], { 1: "k49", 4: 7n });
  const long = Array.from({ length: 5 }, (_, i) => `${i}${"x".repeat(20_000)}`);
  const server = { max_request_bytes: "50000" };
  const large = begin(planOf({ server, quals: [compare("= any", key, array(...long))] }).plan);
  assert.equal(txnOf(large).length, 2);
  const one = planOf({ server: { max_txn_ops: "1" }, quals: [compare("= any", key, array("a", "b"))] }).plan;
  assert.deepEqual(request(begin(one)), { 1: "a" });
});

Deno.test("a Txn whose answer is too large is halved", () => {
  const first = begin(plan({}, [compare("= any", key, array("a", "b", "c", "d"))]));
  const state = (first.answer as SendAnswer).state;
  const half = pageFailed({ state, sqlstate: "54000", message: "too large", detail: "", hint: "" });
  assert.deepEqual(txnOf(half), [{ 1: "a" }, { 1: "b" }]);
  assert.deepEqual(txnOf(nextPage(page(half, { more: false, kvs: 2 }))).map((r) => r[1]), ["c", "d"]);
});

Deno.test("a descending scan goes on below the last key", () => {
  const first = begin(plan({ prefix: "/a/" }), [], "0", { order: "key desc" });
  assert.deepEqual(request(first), { 1: "/a/", 2: "/a0", 3: BigInt(FIRST_PAGE_KEYS), 5: 2n, 6: 0n });
  const second = request(nextPage(page(first)));
  assert.deepEqual([second[1], second[2], second[5]], ["/a/", "/a/m", 2n]);
});

Deno.test("a limit bounds the pages and ends the scan", () => {
  const first = begin(plan({ prefix: "/a/" }), [], "0", { limit: "1500" });
  assert.equal(request(first)[3], BigInt(FIRST_PAGE_KEYS));
  const second = nextPage(page(first));
  assert.equal(request(second)[3], 500n);
  assert.deepEqual(nextPage(page(second, { kvs: 500, lastKey: hex("/a/z") })).answer, { do: "done" });
  assert.equal(request(begin(plan({}), [], "0", { limit: "5" }))[3], 5n);
  assert.deepEqual(begin(plan({}), [], "0", { limit: "0" }).answer, { do: "done" });
});

Deno.test("an order that has no pages asks for all that is wanted at once", () => {
  const first = begin(plan({}), [], "0", { limit: "5000", order: "mod_revision desc" });
  const fields = request(first);
  assert.deepEqual([fields[3], fields[5], fields[6]], [5000n, 2n, 3n]);
});

Deno.test("which cache may answer goes with every request of a scan, once for a Txn", () => {
  const options = { prefix: "/a/", cache: "true" };
  const terms = encodeCacheTerms({
    ...{ start: encodeUtf8("/a/"), end: encodeUtf8("/a0"), maxStaleness: 0, verify: 600 },
  });
  const termsOf = (outcome: Outcome) => cacheTermsIn(payloadOf(outcome));
  const first = begin(plan(options));
  assert.deepEqual(termsOf(first), terms);
  assert.deepEqual(termsOf(nextPage(page(first))), terms);
  const keys = begin(plan(options, [compare("= any", key, array("/a/b", "/a/c"))]));
  assert.deepEqual(termsOf(keys), terms);
  assert.deepEqual(readsOf(payloadOf(keys)).map(cacheTermsIn), [undefined, undefined]);
  assert.deepEqual(termsOf(begin(plan(options), [], "0", { aggregates: ["count", "max"] })), terms);
  const [, , , , rest] = planOf({ options, quals: [compare("=", key, text("/a/b"))] }).lookup;
  assert.deepEqual(cacheTermsIn(fromHex(rest)), terms);
  assert.equal(termsOf(begin(plan({ prefix: "/a/" }))), undefined);
});
