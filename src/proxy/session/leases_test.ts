import assert from "node:assert/strict";
import { EtcdFdwError } from "../../base/errors.ts";
import { LeaseReply } from "../../etcd/api.ts";
import { Method } from "../../ipc/frame.ts";
import type { CallOptions, ClusterHandle } from "../handle.ts";
import { Deadline } from "../deadline.ts";
import { VirtualRuntime } from "../testing_runtime.ts";
import { KeptLease } from "./leases.ts";

/** A lease and an etcd that answers renewals with this time to live, null for not at all; and when it was asked. */
function setup(ttl: number) {
  const runtime = new VirtualRuntime();
  const answer = { ttl: ttl as number | null };
  const renewed: number[] = [];
  const limits: number[] = [];
  const revoked: number[] = [];
  const failure = { revoke: null as EtcdFdwError | null };
  const call = (method: number, _: Uint8Array, { deadline }: CallOptions = {}) => {
    if (method === Method.LEASE_REVOKE) {
      revoked.push(runtime.now() - begun);
      if (failure.revoke !== null) return Promise.reject(failure.revoke);
      return Promise.resolve(new Uint8Array(0));
    }
    renewed.push(runtime.now() - begun);
    limits.push(deadline!.left());
    if (answer.ttl === null) return Promise.reject(new Error("no etcd"));
    return Promise.resolve(LeaseReply.encode({ ID: "7", TTL: String(answer.ttl) }));
  };
  const begun = runtime.now();
  const handle = { call, requestTimeout: 30_000 } as Partial<ClusterHandle> as ClusterHandle;
  const lease = new KeptLease(runtime, handle, 7n, ttl, begun);
  return { runtime, answer, renewed, limits, revoked, failure, lease };
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

Deno.test("KeptLease: a revoke that etcd is not told of is tried until it is, and until then it is said", async () => {
  const { runtime, revoked, failure, lease } = setup(9);
  failure.revoke = new EtcdFdwError("08006", "lost connection");
  const told = lease.revoke(Deadline.after(runtime, 2_500));
  const refused = assert.rejects(told, { sqlstate: "08006", message: "lost connection" });
  await runtime.pass(2_500);
  await refused;
  assert.deepEqual([lease.state, revoked], ["REVOKED", [0, 1_000, 2_000]]);
  failure.revoke = null;
  let over = false;
  void lease.over.then(() => over = true);
  await runtime.pass(500);
  assert.deepEqual([over, revoked.length, runtime.timers], [true, 4, 0]);
});

Deno.test("KeptLease: nobody tries to revoke it when its time to live is over, or when etcd says no", async () => {
  const unheard = setup(9);
  unheard.failure.revoke = new EtcdFdwError("08001", "could not connect");
  const hopeless = assert.rejects(unheard.lease.revoke(), { sqlstate: "08001" });
  await unheard.runtime.pass(100_000);
  await hopeless;
  assert.deepEqual([unheard.revoked.length, unheard.runtime.timers], [9, 0]);
  const denied = setup(9);
  denied.failure.revoke = new EtcdFdwError("42501", "permission denied");
  await assert.rejects(denied.lease.revoke(), { sqlstate: "42501" });
  assert.equal(denied.runtime.timers, 0);
  const gone = setup(9);
  gone.failure.revoke = new EtcdFdwError("42704", "no lease");
  assert.equal(await gone.lease.revoke(), false, "it was lost");
});
