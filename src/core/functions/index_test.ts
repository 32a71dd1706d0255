import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8, fromHex, toHex } from "../../base/bytes.ts";
import {
  type KeyValueMessage,
  LeaseGrantRequest,
  LeaseReply,
  OnlyHeader,
  PutRequest,
  RangeReply,
} from "../../etcd/api.ts";
import { decodeRangeRequest } from "../../etcd/ranges.ts";
import { Ask, type Frame, FrameDecoder, Method, ReadFlag } from "../../ipc/frame.ts";
import { dispatch } from "../dispatch.ts";
import type { FunctionCallAnswer, ResultAnswer } from "../protocol.ts";

const hex = (text: string) => toHex(encodeUtf8(text));

/** A conversation with core: what it says at each turn. */
function say(op: string, input: unknown, bytes = new Uint8Array(0)) {
  const { control, payload } = dispatch(op, JSON.stringify(input), bytes);
  const [frame] = payload.length > 0 ? [...new FrameDecoder().push(payload)] : [undefined];
  // deno-lint-ignore no-explicit-any -- each test knows what it expects
  return { answer: JSON.parse(control) as any, frame: frame as Frame };
}
const call = (name: string, args: Record<string, unknown> = {}) => say("function", { function: name, args });
const reply = ({ state }: FunctionCallAnswer, bytes: Uint8Array<ArrayBuffer>) =>
  say("functionReply", { state }, bytes);
const bytesOf = (bytes: Uint8Array) => Uint8Array.from(bytes);

const kv = (key: string, value: string): KeyValueMessage => ({
  ...{
    key: encodeUtf8(key),
    value: encodeUtf8(value),
    create_revision: "1",
    mod_revision: "2",
    version: "2",
  },
  lease: "0",
});
const ranged = (...kvs: KeyValueMessage[]) =>
  bytesOf(RangeReply.encode({ header: { revision: "9" }, kvs, count: String(kvs.length) }));

Deno.test("functions: a get leaves the rows to the backend and serves other keys too", () => {
  const { answer, frame } = call("etcd_get", { key: hex("/a"), revision: "7" });
  assert.deepEqual([answer.do, answer.rows, answer.template, answer.writes], ["call", 1, ["key"], 0]);
  assert.equal(frame.code, Method.RANGE);
  const request = decodeRangeRequest(frame.payload);
  assert.deepEqual([decodeUtf8(request.key), request.revision, request.rangeEnd], ["/a", "7", null]);
  // The template's promise: the key stands in front.
  assert.equal(toHex(frame.payload.subarray(0, 4)), `0a02${hex("/a")}`);
  assert.deepEqual(call("etcd_get").answer, { do: "result", rows: [], warning: "" });
});

Deno.test("functions: a range whose page is too large is asked for in smaller ones, from where it was", () => {
  const error = { sqlstate: "54000", message: "too large", detail: "", hint: "" };
  const first = call("etcd_range", { key: hex("/p/"), prefix: true });
  const again = say("functionFailed", { ...error, state: first.answer.state });
  assert.equal(decodeRangeRequest(again.frame.payload).limit, 625);
  const page = { state: again.answer.state, revision: "9", more: true, kvs: 625, bytes: 62_500 };
  const second = say("functionPage", { ...page, lastKey: hex("/p/x") });
  const smaller = decodeRangeRequest(
    say("functionFailed", { ...error, state: second.answer.state }).frame.payload,
  );
  assert.deepEqual([toHex(smaller.key), smaller.revision, smaller.limit], [hex("/p/x\0"), "9", 625]);
  // What cannot be made smaller, or has no pages, is the error that it is; so is any other.
  const one = call("etcd_range", { key: hex("/p/"), prefix: true, limit: "1" });
  const sorted = call("etcd_range", { key: hex("/p/"), prefix: true, sort: hex("version") });
  for (const [state, sqlstate] of [[one, "54000"], [sorted, "54000"], [first, "42501"]] as const) {
    const { answer } = say("functionFailed", { ...error, sqlstate, state: state.answer.state });
    assert.deepEqual([answer.do, answer.sqlstate], ["error", sqlstate]);
  }
});

Deno.test("functions: an empty name of a lock or an election is refused", () => {
  for (
    const name of [
      "etcd_lock",
      "etcd_try_lock",
      "etcd_unlock",
      "etcd_campaign",
      "etcd_proclaim",
      "etcd_resign",
    ]
      .concat("etcd_leader", "etcd_observe")
  ) {
    const { answer } = call(name, { name: "", ttl: "1000", value: "" });
    assert.deepEqual([answer.do, answer.sqlstate], ["error", "22023"], name);
    assert.match(answer.message, /argument "name" .*must not be empty/);
  }
});

Deno.test("functions: what is wrong with a Txn is told with the name of the field", () => {
  const cases: [unknown, RegExp][] = [
    [{ success: [{}] }, /an operation is one thing/],
    [{ success: [{ get: { key: "a" }, put: { key: "a" } }] }, /an operation is one thing/],
    [{ success: [null] }, /an operation is not an object/],
    [{ success: [{ put: null }] }, /a put is not an object/],
    [
      { success: [{ put: { key: "a", value: "b", lease: "9999999999999999999" } }] },
      /"lease" of a put is out of/,
    ],
    [
      { success: [{ get: { key: "a", revision: "9999999999999999999" } }] },
      /"revision" of a get is out of range/,
    ],
    [{ success: [{ get: { key: "a", limit: "9223372036854775807" } }] }, /"limit" of a get is out of range/],
    [{ success: [{ get: { key: "a", limit: 1.5 } }] }, /"limit" of a get is not a whole number/],
    [
      { compare: [{ key: "a", version: "-9999999999999999999" }] },
      /"version" of a comparison is out of range/,
    ],
    [{ success: [{ txn: { success: [{}] } }] }, /an operation is one thing/],
  ];
  for (const [txn, message] of cases) {
    const { answer } = call("etcd_txn", { txn: JSON.stringify(txn) });
    assert.deepEqual([answer.do, answer.sqlstate], ["error", "22023"], JSON.stringify(txn));
    assert.match(answer.message, message);
  }
});

Deno.test("functions: a range goes on behind the last key, at the first page's revision, up to its limit", () => {
  const first = call("etcd_range", { key: hex("/p/"), prefix: true, limit: "15000" });
  assert.equal(decodeRangeRequest(first.frame.payload).limit, 10_000);
  const page = { state: first.answer.state, revision: "9", more: true, kvs: 10_000, bytes: 1_000_000 };
  const second = say("functionPage", { ...page, lastKey: hex("/p/x") });
  const request = decodeRangeRequest(second.frame.payload);
  assert.deepEqual([toHex(request.key), request.revision, request.limit], [hex("/p/x\0"), "9", 5000]);
  const done = say("functionPage", { ...page, state: second.answer.state, kvs: 5000, lastKey: hex("/p/y") });
  assert.equal(done.answer.do, "result");
});

Deno.test("functions: a put with a ttl is granted its lease first", () => {
  const grant = call("etcd_put", { key: hex("/a"), value: hex("v"), ttl: "1500" });
  assert.equal(grant.frame.code, Method.LEASE_GRANT);
  assert.equal(LeaseGrantRequest.decode(grant.frame.payload).TTL, "2");
  assert.deepEqual(grant.answer.template, [], "the lease is this call's alone");
  const put = reply(grant.answer, bytesOf(LeaseReply.encode({ ID: "77", TTL: "2" })));
  assert.equal(put.frame.code, Method.PUT);
  assert.equal(PutRequest.decode(put.frame.payload).lease, "77");
  assert.equal(put.answer.rows, 4);
  const plain = call("etcd_put", { key: hex("/a"), value: hex("v") });
  assert.deepEqual([plain.answer.template, plain.answer.writes], [["key", "value"], 1]);
  assert.equal(toHex(plain.frame.payload), `0a02${hex("/a")}1201${hex("v")}`);
});

Deno.test("functions: an increment that another client got ahead of is tried again", () => {
  let turn = call("etcd_incr", { key: hex("/n"), by: "2" });
  turn = reply(turn.answer, ranged(kv("/n", "5")));
  assert.equal(turn.frame.code, Method.TXN);
  // TxnResponse: succeeded is absent, that is false
  turn = reply(turn.answer, bytesOf(OnlyHeader.encode({ header: { revision: "9" } })));
  assert.equal(turn.frame.code, Method.RANGE, "read again");
  turn = reply(turn.answer, ranged(kv("/n", "6")));
  const { answer } = reply(turn.answer, Uint8Array.of(0x10, 1));
  assert.deepEqual((answer as ResultAnswer).rows, [["8"]]);
  const wrong = reply(call("etcd_incr", { key: hex("/n"), by: "1" }).answer, ranged(kv("/n", "x")));
  assert.deepEqual([wrong.answer.do, wrong.answer.sqlstate], ["error", "22P02"]);
});

Deno.test("functions: each endpoint is asked by name, and one that fails has its row", () => {
  let turn = call("etcd_defragment");
  assert.equal(turn.frame.code, Ask.ENDPOINTS);
  turn = reply(turn.answer, encodeUtf8('["a:1","b:2"]'));
  assert.equal(turn.frame.flags! & ReadFlag.ENDPOINT, ReadFlag.ENDPOINT);
  assert.equal(toHex(turn.frame.payload), `0003${hex("a:1")}`);
  const error = { sqlstate: "08001", message: "down", detail: "why", hint: "" };
  turn = say("functionFailed", { state: turn.answer.state, ...error });
  assert.equal(toHex(turn.frame.payload), `0003${hex("b:2")}`);
  turn = reply(turn.answer, new Uint8Array(0));
  assert.deepEqual(turn.answer.rows, [[hex("a:1"), hex("down: why")], [hex("b:2"), null]]);
});

Deno.test("functions: a wrong argument names the function, the argument and the way out", () => {
  const cases: [string, Record<string, unknown>, string, RegExp][] = [
    ["etcd_put", { key: hex("/a") }, "22004", /"value" of etcd_put\(\)/],
    ["etcd_range", { key: hex("/a"), limit: "0" }, "22023", /"limit" of etcd_range\(\)/],
    ["etcd_range", { key: hex("/a"), sort: hex("size") }, "22023", /"sort"/],
    ["etcd_range", { key: hex("/a"), prefix: true, range_end: hex("/b") }, "22023", /"range_end"/],
    ["etcd_watch", { key: hex("/n"), range_end: hex("/a"), wait: "0" }, "22023", /"range_end"/],
    ["etcd_lock", { name: hex("a"), ttl: "0" }, "22023", /"ttl" of etcd_lock\(\)/],
    ["etcd_lock", { name: hex("a"), ttl: "1000", wait: "-1" }, "22023", /"wait"/],
    ["etcd_member_remove", { member_id: hex("xyz") }, "22023", /no member id/],
    ["etcd_nonsense", {}, "XX000", /etcd_nonsense/],
  ];
  for (const [name, args, sqlstate, message] of cases) {
    const { answer } = call(name, args);
    assert.deepEqual([answer.do, answer.sqlstate], ["error", sqlstate], name);
    assert.match(answer.message, message);
  }
});

Deno.test("functions: a Txn's answer is JSON whose bytes can go back in", () => {
  const txn = { success: [{ get: { key: "/b", range_end: "/c" } }] };
  const { answer } = call("etcd_txn", { txn: JSON.stringify(txn) });
  const range = RangeReply.encode({
    header: { revision: "4" },
    kvs: [{ ...kv("/b", ""), key: fromHex("2f62ff") }],
    count: "1",
  });
  const response = Uint8Array.of(0x0a, range.length, ...range);
  const message = Uint8Array.of(0x10, 1, 0x1a, response.length, ...response);
  const { rows: [[json]] } = reply(answer, message).answer as ResultAnswer;
  assert.deepEqual(JSON.parse(json!), {
    succeeded: true,
    responses: [{
      get: {
        ...{ count: 1, more: false },
        kvs: [{
          key: { hex: "2f62ff" },
          value: "",
          create_revision: 1,
          mod_revision: 2,
          version: 2,
          lease: 0,
        }],
      },
    }],
  });
});
