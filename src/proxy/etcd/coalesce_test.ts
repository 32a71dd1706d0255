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
import { encodeReadResponses, readsOf } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { Stats } from "../stats.ts";
import { Coalescer } from "./coalesce.ts";

const TIMES = { connect: 1000, request: 1000 };
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

/** A coalescer over calls that end when the test says so. */
function setup(fail: (key: string) => boolean = () => false) {
  const calls: { method: number; keys: string[]; timeout: number; end: () => void }[] = [];
  const coalescer = new Coalescer((method, payload, { request: timeout }) =>
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
      calls.push({ method, keys, timeout, end });
    })
  );
  return { coalescer, calls };
}
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));
const valueOf = (reply: Uint8Array) => decodeUtf8(decodeRangeResponse(reply).rows[0].value);

Deno.test("Coalescer: what arrives while others are under way leaves as one Txn, each with its own answer", async () => {
  const { coalescer, calls } = setup();
  const counters = new Stats().of({ database: "d", server: "s", role: "r" });
  const read = (key: string) => coalescer.call(Method.RANGE, get(key), TIMES, undefined, counters);
  const replies = ["a", "b", "c", "d", "e"].map(read);
  assert.deepEqual(calls.map(({ keys }) => keys), [["a"], ["b"]], "the first ones go by themselves");
  calls[0].end();
  await turn();
  assert.deepEqual(calls[2], { ...calls[2], method: Method.READ_TXN, keys: ["c", "d", "e"] });
  calls[1].end();
  calls[2].end();
  assert.deepEqual((await Promise.all(replies)).map(valueOf), ["a", "b", "c", "d", "e"]);
  assert.equal(decodeRangeResponse(await replies[3]).revision, 7n, "the Txn's revision");
  assert.equal(counters.coalesced, 3);
});

Deno.test("Coalescer: ranges and other calls are never held back", () => {
  const { coalescer, calls } = setup();
  for (const key of ["a", "b", "c"]) coalescer.call(Method.RANGE, get(key), TIMES);
  coalescer.call(Method.RANGE, get("r", "s"), TIMES);
  coalescer.call(Method.PUT, get("p"), TIMES);
  assert.deepEqual(calls.map(({ keys: [key] }) => key), ["a", "b", "r", "p"]);
});

Deno.test("Coalescer: one that is refused does not spoil the others, and one that is cancelled is gone at once", async () => {
  const { coalescer, calls } = setup((key) => key === "bad");
  const cancel = new AbortController();
  const first = [
    coalescer.call(Method.RANGE, get("a"), TIMES),
    coalescer.call(Method.RANGE, get("b"), TIMES),
  ];
  const good = coalescer.call(Method.RANGE, get("good"), TIMES);
  const bad = assert.rejects(coalescer.call(Method.RANGE, get("bad"), TIMES), /no bad/);
  const gone = assert.rejects(coalescer.call(Method.RANGE, get("gone"), TIMES, cancel.signal), /cancelled/);
  cancel.abort();
  await gone;
  for (let i = 0; i < calls.length || i < 4; i++) {
    calls[i]?.end();
    await turn();
  }
  assert.equal(valueOf(await good), "good");
  await bad;
  await Promise.all(first);
  assert.ok(calls.every(({ keys }) => !keys.includes("gone")));
});

Deno.test("Coalescer: the time that a read was held back is part of the time it may take", async () => {
  const { coalescer, calls } = setup();
  for (const key of ["a", "b", "c", "d"]) coalescer.call(Method.RANGE, get(key), TIMES);
  await new Promise((resolve) => setTimeout(resolve, 60));
  calls[0].end();
  await turn();
  assert.equal(calls[0].timeout, TIMES.request);
  assert.ok(calls[2].timeout <= TIMES.request - 50 && calls[2].timeout > 0, `${calls[2].timeout} ms`);
});
