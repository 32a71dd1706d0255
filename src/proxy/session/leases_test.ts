import assert from "node:assert/strict";
import { LeaseReply } from "../../etcd/api.ts";
import { Method } from "../../ipc/frame.ts";
import type { CallOptions, ClusterHandle } from "../handle.ts";
import { VirtualRuntime } from "../testing_runtime.ts";
import { KeptLease } from "./leases.ts";

/** A lease and an etcd that answers renewals with this time to live, null for not at all; and when it was asked. */
function setup(ttl: number) {
  const runtime = new VirtualRuntime();
  const answer = { ttl: ttl as number | null };
  const renewed: number[] = [];
  const limits: number[] = [];
  const revoked: number[] = [];
  const call = (method: number, _: Uint8Array, { deadline }: CallOptions = {}) => {
    if (method === Method.LEASE_REVOKE) {
      revoked.push(runtime.now() - begun);
      return Promise.resolve(new Uint8Array(0));
    }
    renewed.push(runtime.now() - begun);
    limits.push(deadline!.left());
    if (answer.ttl === null) return Promise.reject(new Error("no etcd"));
    return Promise.resolve(LeaseReply.encode({ ID: "7", TTL: String(answer.ttl) }));
  };
  const begun = runtime.now();
  const handle = { call, requestTimeout: 30_000 } as Partial<ClusterHandle> as ClusterHandle;
  return { runtime, answer, renewed, limits, revoked, lease: new KeptLease(runtime, handle, 7n, ttl, begun) };
}

Deno.test("KeptLease: it is renewed at a third of its time, and an attempt takes no longer than that", async () => {
  const { runtime, renewed, limits, lease } = setup(9);
  await runtime.pass(10_000);
  assert.deepEqual(renewed, [3_000, 6_000, 9_000]);
  assert.deepEqual(limits, [3_000, 3_000, 3_000]);
  assert.equal(lease.state, "HELD");
  lease.release();
  assert.equal(lease.state, "RELEASED");
  await runtime.pass(100_000);
  assert.deepEqual([renewed.length, lease.state, runtime.timers], [3, "RELEASED", 0]);
});

Deno.test("KeptLease: without an answer it is lost a time to live after the last renewal that succeeded was sent", async () => {
  const { runtime, answer, renewed, lease } = setup(9);
  await runtime.pass(3_000);
  answer.ttl = null;
  await runtime.pass(8_999);
  assert.equal(lease.state, "HELD");
  await runtime.pass(1);
  assert.deepEqual([lease.state, lease.lost], ["LOST", true]);
  assert.deepEqual(renewed, [3_000, 6_000, 7_000, 8_000, 9_000, 10_000, 11_000]);
  answer.ttl = 9;
  await runtime.pass(100_000);
  assert.deepEqual([lease.state, renewed.length, runtime.timers], ["LOST", 7, 0]);
});

Deno.test("KeptLease: etcd's word that it has ended counts at once", async () => {
  const { runtime, answer, lease } = setup(9);
  answer.ttl = 0;
  await runtime.pass(3_000);
  assert.deepEqual([lease.state, runtime.timers], ["LOST", 0]);
});

Deno.test("KeptLease: a revoke says whether it was held until then", async () => {
  const held = setup(9);
  assert.equal(await held.lease.revoke(), true);
  assert.deepEqual([held.lease.state, held.revoked, held.runtime.timers], ["REVOKED", [0], 0]);
  const lost = setup(9);
  lost.answer.ttl = null;
  await lost.runtime.pass(9_000);
  assert.equal(await lost.lease.revoke(), false);
  assert.equal(lost.lease.state, "LOST");
});

Deno.test("KeptLease: one of 75 days is renewed every 25 days, not all the time", async () => {
  const day = 86_400_000;
  const { runtime, renewed } = setup(75 * 86_400);
  await runtime.pass(80 * day);
  assert.deepEqual(renewed, [25 * day, 50 * day, 75 * day]);
});
