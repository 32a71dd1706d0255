import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../../base/bytes.ts";
import { CampaignReply, LeaseReply, LeaseRequest, LockReply } from "../../etcd/api.ts";
import { Method } from "../../ipc/frame.ts";
import type { ClusterHandle } from "../handle.ts";
import { Holdings } from "./holdings.ts";

const NAME = toHex(encodeUtf8("job"));

/** An etcd that answers everything, and cancels the request in the moment in which it answers this method. */
function setup(cancelAt: number) {
  const controller = new AbortController();
  const revoked: string[] = [];
  const answers: Record<number, Uint8Array> = {
    [Method.LEASE_GRANT]: LeaseReply.encode({ ID: "7", TTL: "60" }),
    [Method.LEASE_KEEPALIVE]: LeaseReply.encode({ ID: "7", TTL: "60" }),
    [Method.LOCK]: LockReply.encode({ key: encodeUtf8("job/7") }),
    [Method.CAMPAIGN]: CampaignReply.encode({ leader: { key: encodeUtf8("job/7") } }),
    [Method.LEASE_REVOKE]: new Uint8Array(0),
  };
  const call = (method: number, payload: Uint8Array) => {
    if (method === Method.LEASE_REVOKE) revoked.push(LeaseRequest.decode(payload).ID);
    if (method === cancelAt) controller.abort();
    return Promise.resolve(answers[method]);
  };
  const holdings = new Holdings({ call, close: () => {} } as Partial<ClusterHandle> as ClusterHandle);
  return { holdings, signal: controller.signal, revoked };
}

Deno.test("Holdings: what is granted in the moment of the cancel is given back, and not held", async () => {
  const cases: [number, (holdings: Holdings, signal: AbortSignal) => Promise<unknown>, string[]][] = [
    [Method.LEASE_GRANT, (holdings, signal) => holdings.keepNew(60, signal), ["7"]],
    [Method.LEASE_GRANT, (holdings, signal) => holdings.lock(NAME, 60, Infinity, signal), ["7"]],
    [Method.LOCK, (holdings, signal) => holdings.lock(NAME, 60, Infinity, signal), ["7"]],
    [Method.CAMPAIGN, (holdings, signal) => holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity, signal), [
      "7",
    ]],
    // It is another one's lease: it is left alone.
    [Method.LEASE_KEEPALIVE, (holdings, signal) => holdings.keep(7n, signal), []],
  ];
  for (const [at, act, expected] of cases) {
    const { holdings, signal, revoked } = setup(at);
    await assert.rejects(act(holdings, signal), { sqlstate: "57014" });
    assert.deepEqual(revoked, expected, String(at));
    assert.ok(holdings.empty);
  }
});

Deno.test("Holdings: a lock is given back as often as it was taken, and at the end with all else", async () => {
  const { holdings, revoked } = setup(-1);
  assert.ok(await holdings.lock(NAME, 60, Infinity));
  assert.ok(await holdings.lock(NAME, 60, 0));
  assert.equal(await holdings.unlock(NAME), true);
  assert.deepEqual(revoked, []);
  assert.equal(await holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity), true);
  await holdings.keep(7n);
  assert.deepEqual(holdings.held().map(({ kind }) => kind), ["lease", "lock", "election"]);
  await holdings.end();
  assert.deepEqual(revoked, ["7", "7"], "the lock's and the leadership's, not the kept one");
});
