import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import {
  decodeRangeRequest,
  decodeRangeResponse,
  encodeRangeResponse,
  makeKeyRow,
} from "../../etcd/ranges.ts";
import type { Limits } from "../../etcd/batches.ts";
import { encodeReadResponses, readsOf } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { Stats } from "../stats.ts";
import { Deadline } from "../deadline.ts";
import { settled, VirtualRuntime } from "../testing_runtime.ts";
import type { Terms } from "./cluster.ts";
import { Coalescer } from "./coalesce.ts";

const get = (key: string, end: string | null = null) =>
  encodeRangeRequest({ key: encodeUtf8(key), rangeEnd: end === null ? null : encodeUtf8(end) });

/** etcd's answer to a Range of one key: the key is its own value. */
function answerOf(request: Uint8Array): Uint8Array {
  const { key } = decodeRangeRequest(request);
  const row = makeKeyRow({ key, value: key, createRevision: 1n, modRevision: 1n, version: 1n, lease: 0n });
  return encodeRangeResponse({
    header: Uint8Array.of(0x18, 1),
    revision: 1n,
    rows: [row],
    more: false,
    count: 1n,
  });
}

const LIMITS: Limits = { maxTxnOps: 128, maxRequestBytes: 1536 * 1024 };

/** A coalescer over calls that end when the test says so. */
function setup(fail: (key: string) => boolean = () => false) {
  const runtime = new VirtualRuntime();
  const terms = (ms: number, more: Partial<Terms> = {}): Terms => ({
    connect: 1000,
    deadline: Deadline.after(runtime, ms),
    ...more,
  });
  const calls: { method: number; keys: string[]; deadline: Deadline; end: () => void }[] = [];
  const shared = new Coalescer(
    runtime,
    (method, payload, { deadline }) =>
      new Promise((resolve, reject) => {
        const requests = method === Method.READ_TXN ? readsOf(payload) : [payload];
        const keys = requests.map((request) => decodeUtf8(decodeRangeRequest(request).key));
        const end = () => {
          if (keys.some(fail)) return reject(new EtcdFdwError("42501", `no ${keys.join()}`));
          resolve(
            method === Method.READ_TXN
              ? encodeReadResponses(Uint8Array.of(0x18, 7), requests.map(answerOf))
              : answerOf(payload),
          );
        };
        calls.push({ method, keys, deadline, end });
      }),
  );
  const coalescer = {
    call: (method: number, payload: Uint8Array, terms: Terms, limits: Limits = LIMITS) =>
      shared.call(method, payload, terms, limits),
  };
  return { coalescer, calls, runtime, terms };
}
const valueOf = (reply: Uint8Array) => decodeUtf8(decodeRangeResponse(reply).rows[0].value);

Deno.test("Coalescer: what arrives while others are under way leaves as one Txn, each with its own answer", async () => {
  const { coalescer, calls, terms } = setup();
  const counters = new Stats(() => 0).of({ database: "d", server: "s", role: "r" });
  const read = (key: string) => coalescer.call(Method.RANGE, get(key), terms(1000, { counters }));
  const replies = ["a", "b", "c", "d", "e"].map(read);
  assert.deepEqual(calls.map(({ keys }) => keys), [["a"], ["b"]], "the first ones go by themselves");
  calls[0].end();
  await settled();
  assert.deepEqual(calls[2], { ...calls[2], method: Method.READ_TXN, keys: ["c", "d", "e"] });
  calls[1].end();
  calls[2].end();
  assert.deepEqual((await Promise.all(replies)).map(valueOf), ["a", "b", "c", "d", "e"]);
  assert.equal(decodeRangeResponse(await replies[3]).revision, 7n, "the Txn's revision");
  assert.equal(counters.coalesced, 3);
});

Deno.test("Coalescer: ranges and other calls are never held back", () => {
  const { coalescer, calls, terms } = setup();
  for (const key of ["a", "b", "c"]) coalescer.call(Method.RANGE, get(key), terms(1000));
  coalescer.call(Method.RANGE, get("r", "s"), terms(1000));
  coalescer.call(Method.PUT, get("p"), terms(1000));
  assert.deepEqual(calls.map(({ keys: [key] }) => key), ["a", "b", "r", "p"]);
});

Deno.test("Coalescer: one that is refused does not spoil the others, and one that is cancelled is gone at once", async () => {
  const { coalescer, calls, terms } = setup((key) => key === "bad");
  const cancel = new AbortController();
  const first = [
    coalescer.call(Method.RANGE, get("a"), terms(1000)),
    coalescer.call(Method.RANGE, get("b"), terms(1000)),
  ];
  const good = coalescer.call(Method.RANGE, get("good"), terms(1000));
  const bad = assert.rejects(coalescer.call(Method.RANGE, get("bad"), terms(1000)), /no bad/);
  const gone = assert.rejects(
    coalescer.call(Method.RANGE, get("gone"), terms(1000, { signal: cancel.signal })),
    /cancelled/,
  );
  cancel.abort();
  await gone;
  for (let i = 0; i < calls.length || i < 4; i++) {
    calls[i]?.end();
    await settled();
  }
  assert.equal(valueOf(await good), "good");
  await bad;
  await Promise.all(first);
  assert.ok(calls.every(({ keys }) => !keys.includes("gone")));
});

Deno.test("Coalescer: reads are not held back for long behind those that are stalled", async () => {
  const { coalescer, calls, terms, runtime } = setup();
  for (const key of ["a", "b", "c", "d"]) coalescer.call(Method.RANGE, get(key), terms(60_000));
  await runtime.pass(19);
  assert.equal(calls.length, 2);
  await runtime.pass(1);
  assert.deepEqual(calls.map(({ keys }) => keys), [["a"], ["b"], ["c", "d"]]);
  coalescer.call(Method.RANGE, get("e"), terms(1000));
  await runtime.pass(20);
  assert.deepEqual(calls[3].keys, ["e"]);
  for (const { end } of calls) end();
  await settled();
  assert.equal(runtime.timers, 0);
});

Deno.test("Coalescer: who is less patient than the others of a Txn does not end their time", async () => {
  const late = new Set<string>();
  const { coalescer, calls, terms, runtime } = setup((key) => late.has(key));
  for (const key of ["a", "b"]) coalescer.call(Method.RANGE, get(key), terms(60_000));
  const hasty = coalescer.call(Method.RANGE, get("hasty"), terms(300));
  const patient = coalescer.call(Method.RANGE, get("patient"), terms(60_000));
  await runtime.pass(20);
  assert.deepEqual([calls[2].keys, calls[2].deadline.left()], [["hasty", "patient"], 280]);
  late.add("hasty");
  calls[2].end();
  await settled();
  assert.deepEqual(calls.slice(3).map(({ keys, deadline }) => [keys, deadline.left()]), [
    [["hasty"], 280],
    [["patient"], 59_980],
  ]);
  const refused = assert.rejects(hasty, /no hasty/);
  for (const { end } of calls.slice(3)) end();
  await refused;
  assert.equal(valueOf(await patient), "patient");
});

Deno.test("Coalescer: a Txn has no more reads, and no more bytes, than etcd takes", async () => {
  const { coalescer, calls, terms, runtime } = setup();
  const read = (key: string, limits: Limits) => coalescer.call(Method.RANGE, get(key), terms(60_000), limits);
  const few: Limits = { ...LIMITS, maxTxnOps: 3 };
  for (const key of ["a", "b", "c", "d", "e", "f"]) read(key, key === "e" ? few : LIMITS);
  await runtime.pass(20);
  assert.deepEqual(calls[2].keys, ["c", "d", "e"]);
  await runtime.pass(20);
  assert.deepEqual(calls[3].keys, ["f"]);
  const short: Limits = { ...LIMITS, maxRequestBytes: 1024 + 500 };
  for (const key of ["g", "h", "i"]) read(key.repeat(200), short);
  await runtime.pass(20);
  assert.deepEqual(calls[4].keys.map((key) => key[0]), ["g", "h"]);
  await runtime.pass(20);
  for (const { end } of calls) end();
  await settled();
});
