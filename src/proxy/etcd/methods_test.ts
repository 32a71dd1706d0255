import assert from "node:assert/strict";
import { encodeUtf8 } from "../../base/bytes.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import { encodeRawReads } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { methodInfo, provesQuorum } from "./methods.ts";

Deno.test("methodInfo: every method of the protocol has a path, and no read writes", () => {
  const infos = Object.values(Method).map((code) => methodInfo(code)!);
  // Txns are told apart by what they do.
  assert.equal(new Set(infos.map((info) => info.path)).size, infos.length - 2);
  assert.equal(methodInfo(Method.CLAIM)!.path, methodInfo(Method.TXN)!.path);
  assert.equal(methodInfo(Method.READ_TXN)!.path, methodInfo(Method.TXN)!.path);
  assert.ok(infos.every((info) => !(info.readonly && info.writes)));
  assert.equal(methodInfo(0), undefined);
});

Deno.test("provesQuorum: only answers for which a member has to ask its cluster", () => {
  const read = (serializable: boolean) =>
    encodeRangeRequest({ key: encodeUtf8("/a"), rangeEnd: null, serializable });
  const txn = (...reads: boolean[]) => encodeRawReads(reads.map(read));
  const nothing = new Uint8Array(0);
  assert.deepEqual([provesQuorum(Method.RANGE, read(false)), provesQuorum(Method.RANGE, read(true))], [
    true,
    false,
  ]);
  assert.equal(provesQuorum(Method.READ_TXN, txn(true, true)), false);
  assert.equal(provesQuorum(Method.READ_TXN, txn(true, false)), true);
  assert.equal(provesQuorum(Method.PUT, nothing), true);
  for (
    const local of [Method.STATUS, Method.MEMBER_LIST, Method.LEASES, Method.LEASE_KEEPALIVE, Method.HASH_KV]
  ) {
    assert.equal(provesQuorum(local, nothing), false);
  }
});
