import assert from "node:assert/strict";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { decodeUtf8, encodeUtf8, toHex } from "../ipc/bytes.ts";
import { EtcdFdwError } from "../ipc/errors.ts";
import { FrameDecoder } from "../ipc/frame.ts";
import { FIRST_PAGE_KEYS, PAGE_BYTES, PAGE_GROWTH } from "../ipc/limits.ts";
import { planScan } from "./plan.ts";
import type { Comparison, Outcome, PageInput, PlanAnswer, SendAnswer } from "./protocol.ts";
import { beginScan, nextPage, pageFailed } from "./scan.ts";

const columns = [{ attnum: 1, name: "key", type: "text", used: true }, {
  attnum: 2,
  name: "value",
  type: "text",
  used: true,
}];

function plan(options: Record<string, string>, quals: (Comparison | null)[] = []): string {
  return (planScan({ table: "t", server: {}, options, columns, quals }).answer as PlanAnswer).plan;
}

const begin = (text: string, params: (string | null)[] = [], revision = "0") =>
  beginScan({ plan: text, params, revision });

/** The RangeRequest inside the frame of a "send" answer, by field number. */
function request(outcome: Outcome): Record<number, string | bigint> {
  assert.equal(outcome.answer.do, "send");
  const [frame] = [...new FrameDecoder().push(outcome.payload!)];
  const reader = new BinaryReader(frame.payload);
  const fields: Record<number, string | bigint> = {};
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    fields[field] = wire === 2 ? decodeUtf8(reader.bytes()) : BigInt(reader.int64());
  }
  return fields;
}

const page = (outcome: Outcome, more: Partial<PageInput> = {}): PageInput => ({
  state: (outcome.answer as SendAnswer).state,
  revision: "7",
  count: "1000000",
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

Deno.test("nextPage goes from key to key of a list, at the first one's revision", () => {
  const qual: Comparison = {
    op: "= any",
    collation: "deterministic",
    left: { column: "key" },
    right: { array: [toHex(encodeUtf8("b")), toHex(encodeUtf8("a"))], type: "text[]" },
  };
  const first = begin(plan({}, [qual]));
  assert.deepEqual(request(first), { 1: "a" });
  assert.equal((first.answer as SendAnswer).then, "page");
  const second = nextPage(page(first, { more: false, kvs: 0, lastKey: "" }));
  assert.deepEqual(request(second), { 1: "b", 4: 7n });
  assert.equal((second.answer as SendAnswer).then, "done");
  assert.deepEqual(nextPage(page(second, { more: false })).answer, { do: "done" });
});
