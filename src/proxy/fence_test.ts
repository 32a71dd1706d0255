import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../base/bytes.ts";
import {
  AlarmRequest,
  DeleteRequest,
  LeaderRequest,
  LeaseGrantRequest,
  LeaseReply,
  LeaseRequest,
  PutRequest,
  WatchCreate,
} from "../etcd/api.ts";
import { encodeClaim } from "../etcd/queue.ts";
import { encodeRangeRequest } from "../etcd/messages.ts";
import { encodeTxn, type TxnOp } from "../etcd/txn.ts";
import { Method } from "../ipc/frame.ts";
import { Fence, fenced, GrantedLeases } from "./fence.ts";
import type { ClusterHandle } from "./handle.ts";

const bytes = encodeUtf8;
const range = (key: string, end: string | null) =>
  encodeRangeRequest({ key: bytes(key), rangeEnd: end === null ? null : bytes(end) });
const txn = (success: TxnOp[], compareKey = "/a/c") =>
  encodeTxn({
    compare: [{ key: bytes(compareKey), target: "create", result: "equal", value: 0n }],
    success,
    failure: [],
  });
const put = (key: string): TxnOp => ({ put: { key: bytes(key), value: bytes("v"), lease: 0n } });
const claim = (name: string) =>
  encodeClaim({ name: bytes(name), lease: 1n, value: bytes(""), patient: false });

/** Method, payload, and whether a prefix "/a/" lets it pass; whether it writes. */
const REQUESTS: [method: number, payload: Uint8Array, within: boolean, writes: boolean][] = [
  [Method.RANGE, range("/a/x", null), true, false],
  [Method.RANGE, range("/a/", "/a0"), true, false],
  [Method.RANGE, range("/a/", "/b"), false, false],
  [Method.RANGE, range("/a/", "\0"), false, false],
  [Method.RANGE, range("/b", null), false, false],
  [Method.PUT, PutRequest.encode({ key: bytes("/a/x"), value: bytes("v") }), true, true],
  [Method.PUT, PutRequest.encode({ key: bytes("/b"), value: bytes("v") }), false, true],
  [Method.DELETE_RANGE, DeleteRequest.encode({ key: bytes("/a/x") }), true, true],
  [
    Method.DELETE_RANGE,
    DeleteRequest.encode({ key: bytes("/a/x"), range_end: Uint8Array.of(0) }),
    false,
    true,
  ],
  [Method.TXN, txn([put("/a/x")]), true, true],
  [Method.TXN, txn([put("/b")]), false, true],
  [Method.TXN, txn([{ delete: { key: bytes("/a/"), rangeEnd: bytes("/b") } }]), false, true],
  [Method.TXN, txn([], "/b"), false, false],
  [Method.TXN, txn([{ range: { key: bytes("/a/x"), rangeEnd: null } }]), true, false],
  [Method.READ_TXN, txn([{ range: { key: bytes("/b"), rangeEnd: null } }]), false, false],
  [Method.CLAIM, claim("/a/l"), true, true],
  [Method.CLAIM, claim("l"), false, true],
  [Method.LEADER, LeaderRequest.encode({ name: bytes("/a/e") }), true, false],
  [Method.LEADER, LeaderRequest.encode({ name: bytes("e") }), false, false],
  [Method.LEASE_GRANT, LeaseGrantRequest.encode({ TTL: "5" }), true, true],
  [Method.LEASE_REVOKE, LeaseRequest.encode({ ID: "7" }), false, true],
  [Method.LEASE_KEEPALIVE, LeaseRequest.encode({ ID: "7" }), false, true],
  [Method.LEASES, new Uint8Array(0), false, false],
  [Method.LEASE_TTL, LeaseRequest.encode({ ID: "7" }), true, false],
  [Method.LEASE_TTL, LeaseRequest.encode({ ID: "7", keys: true }), false, false],
  [Method.STATUS, new Uint8Array(0), true, false],
  [Method.ALARM, AlarmRequest.encode({ action: 0 }), true, false],
  [Method.ALARM, AlarmRequest.encode({ action: 2 }), false, true],
  [Method.COMPACT, new Uint8Array(0), false, true],
  [Method.USER_ADD, new Uint8Array(0), false, true],
  [Method.MEMBER_REMOVE, new Uint8Array(0), false, true],
];

function passes(fence: Fence, method: number, payload: Uint8Array): boolean {
  try {
    fence.check(method, payload);
    return true;
  } catch (error) {
    assert.equal((error as { sqlstate: string }).sqlstate, "42501");
    return false;
  }
}

Deno.test("Fence: a prefix binds every kind of request", () => {
  const fence = new Fence({ server: "s", prefix: toHex(bytes("/a/")) });
  REQUESTS.forEach(([method, payload, within], i) =>
    assert.equal(passes(fence, method, payload), within, `request ${i}`)
  );
});

Deno.test("Fence: without updatable nothing is written", () => {
  const fence = new Fence({ server: "s", updatable: false });
  REQUESTS.forEach(([method, payload, _, writes], i) =>
    assert.equal(passes(fence, method, payload), !writes, `request ${i}`)
  );
});

Deno.test("Fence: every method of etcd is known, and what is not is refused", () => {
  const readonly = new Fence({ server: "s", updatable: false });
  assert.equal(passes(readonly, 250, new Uint8Array(0)), false);
});

Deno.test("Fence: a lease that was granted here may be renewed and revoked here, until it is", () => {
  const fence = new Fence({ server: "s", prefix: toHex(bytes("/a/")) });
  const lease = LeaseRequest.encode({ ID: "7" });
  const may = () =>
    [Method.LEASE_KEEPALIVE, Method.LEASE_REVOKE, Method.LEASE_REVOKE].map((method) =>
      passes(fence, method, lease)
    );
  assert.deepEqual(may(), [false, false, false]);
  fence.note(Method.LEASE_GRANT, LeaseGrantRequest.encode({}), LeaseReply.encode({ ID: "7", TTL: "5" }));
  assert.deepEqual(may(), [true, true, true], "one that failed may be tried again");
  fence.note(Method.LEASE_REVOKE, lease, new Uint8Array(0));
  assert.deepEqual(may(), [false, false, false]);
});

Deno.test("Fence: what a session was granted on one channel it may renew on another of the same cluster", async () => {
  const granted = new GrantedLeases();
  const on = (cluster: object) => {
    const call = () => Promise.resolve(LeaseReply.encode({ ID: "7", TTL: "5" }));
    const handle = { cluster, call } as Partial<ClusterHandle> as ClusterHandle;
    return fenced(handle, { server: "s", prefix: toHex(bytes("/a/")) }, granted);
  };
  const cluster = {};
  await on(cluster).call(Method.LEASE_GRANT, LeaseGrantRequest.encode({ TTL: "5" }));
  const lease = LeaseRequest.encode({ ID: "7" });
  await on(cluster).call(Method.LEASE_KEEPALIVE, lease);
  await assert.rejects(on({}).call(Method.LEASE_KEEPALIVE, lease), { sqlstate: "42501" });
});

Deno.test("Fence: watches, elections and what shows everything", () => {
  const fence = new Fence({ server: "s", prefix: toHex(bytes("/a/")) });
  fence.checkWatch(WatchCreate.encode({ key: bytes("/a/"), range_end: bytes("/a0") }));
  fence.checkName(bytes("/a/e"));
  const beyond = { key: Uint8Array.of(0), range_end: Uint8Array.of(0) };
  assert.throws(() => fence.checkWatch(WatchCreate.encode(beyond)), { sqlstate: "42501" });
  assert.throws(() => fence.checkName(bytes("e")), { sqlstate: "42501" });
  assert.throws(() => fence.checkEverything("a snapshot"), { sqlstate: "42501" });
});

Deno.test("Fence: without options it does not stand", () => {
  assert.equal(new Fence({ server: "s", prefix: "", updatable: true }).stands, false);
  assert.equal(new Fence({ server: "s" }).stands, false);
});
