import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../../base/bytes.ts";
import { CampaignReply, LeaseReply, LeaseRequest, LockReply } from "../../etcd/api.ts";
import { Method } from "../../ipc/frame.ts";
import { cancelled } from "../deadline.ts";
import { type CallOptions, type ClusterHandle, LateError } from "../handle.ts";
import { VirtualRuntime } from "../testing_runtime.ts";
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
    // A TxnResponse that has succeeded.
    [Method.TXN]: Uint8Array.of(2 << 3, 1),
    [Method.PROCLAIM]: new Uint8Array(0),
  };
  const cut = { now: false, only: -1 };
  /** Answers to `method` wait for go(); while it stalls, so do renewals. */
  const slow = { method: -1, stalls: false, go: () => {} };
  const call = (method: number, payload: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> => {
    const late = () => Promise.reject(new LateError("08006", "etcd did not answer"));
    if (cut.now || method === cut.only || slow.stalls && method === Method.LEASE_KEEPALIVE) return late();
    if (method === Method.LEASE_REVOKE) revoked.push(LeaseRequest.decode(payload).ID);
    if (method === cancelAt) controller.abort();
    if (method === slow.method) {
      return new Promise((resolve, reject) => {
        slow.go = () => resolve(answers[method]);
        options.signal?.addEventListener("abort", () => reject(cancelled()));
      });
    }
    return Promise.resolve(answers[method]);
  };
  const runtime = new VirtualRuntime();
  const rest = { close: () => {}, requestTimeout: 1000, share: () => handle };
  const handle = { call, ...rest } as Partial<ClusterHandle> as ClusterHandle;
  const by = { signal: controller.signal };
  return { holdings: new Holdings(runtime, handle), by, revoked, runtime, cut, slow };
}

Deno.test("Holdings: what is granted in the moment of the cancel is given back, and not held", async () => {
  const cases: [number, (holdings: Holdings, by: { signal: AbortSignal }) => Promise<unknown>, string[]][] = [
    [Method.LEASE_GRANT, (holdings, by) => holdings.keepNew(60, by), ["7"]],
    [Method.LEASE_GRANT, (holdings, by) => holdings.lock(NAME, 60, Infinity, by), ["7"]],
    [Method.LOCK, (holdings, by) => holdings.lock(NAME, 60, Infinity, by), ["7"]],
    [Method.CAMPAIGN, (holdings, by) => holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity, by), [
      "7",
    ]],
    // It is another one's lease: it is left alone.
    [Method.LEASE_KEEPALIVE, (holdings, by) => holdings.keep(7n, by), []],
  ];
  for (const [at, act, expected] of cases) {
    const { holdings, by, revoked } = setup(at);
    await assert.rejects(act(holdings, by), { sqlstate: "57014" });
    assert.deepEqual(revoked, expected, String(at));
    assert.ok(holdings.empty);
  }
});

Deno.test("Holdings: a lock is given back as often as it was taken, and at the end with all else", async () => {
  const { holdings, by, revoked } = setup(-1);
  assert.ok(await holdings.lock(NAME, 60, Infinity, by));
  assert.ok(await holdings.lock(NAME, 60, 0, by));
  assert.equal(await holdings.unlock(NAME, by), true);
  assert.deepEqual(revoked, []);
  assert.equal(await holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity, by), true);
  await holdings.keep(7n, by);
  assert.deepEqual(holdings.held().map(({ kind }) => kind), ["lease", "lock", "election"]);
  await holdings.end();
  assert.deepEqual(revoked, ["7", "7"], "the lock's and the leadership's, not the kept one");
});

Deno.test("Holdings: a lock whose lease has run out is lost at that moment, whether or not etcd can be asked", async () => {
  const { holdings, by, revoked, runtime, cut } = setup(-1);
  await holdings.lock(NAME, 60, Infinity, by);
  await holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity, by);
  await runtime.pass(50_000);
  cut.now = true;
  const lost = () => holdings.held().map(({ kind, lost }) => [kind, lost]);
  // The last renewal was sent after 40 s.
  await runtime.pass(49_999);
  assert.deepEqual(lost(), [["lock", false], ["election", false]]);
  assert.ok(await holdings.lock(NAME, 60, 0, by), "it is held still");
  await runtime.pass(1);
  assert.deepEqual(lost(), [["lock", true], ["election", true]]);
  await assert.rejects(holdings.lock(NAME, 60, 0, by), { sqlstate: "08006" });
  assert.equal(await holdings.proclaim(NAME, encodeUtf8("v"), by), false);
  cut.now = false;
  assert.ok(await holdings.lock(NAME, 60, 0, by));
  assert.deepEqual(lost(), [["lock", false]]);
  assert.deepEqual(revoked, ["7", "7"], "the lost ones', which may stand in front");
  cut.now = true;
  await runtime.pass(60_000);
  assert.equal(await holdings.unlock(NAME, by), false);
});

Deno.test("Holdings: nobody waits for what the lost lease cannot hold", async () => {
  for (const method of [Method.LOCK, Method.CAMPAIGN]) {
    const { holdings, by, runtime, slow } = setup(-1);
    slow.method = method;
    slow.stalls = true;
    const waiting = method === Method.LOCK
      ? holdings.lock(NAME, 60, Infinity, by)
      : holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity, by);
    let refused = false;
    const end = assert.rejects(waiting, { sqlstate: "08006", message: /lease ran out/ }).then(() =>
      refused = true
    );
    await runtime.pass(59_000);
    assert.equal(refused, false);
    await runtime.pass(1_000);
    await end;
  }
});

Deno.test("Holdings: what etcd grants when the lease has run out already is not held", async () => {
  const { holdings, by, runtime, slow } = setup(-1);
  slow.method = Method.LOCK;
  const lock = holdings.lock(NAME, 60, Infinity, by);
  const refused = assert.rejects(lock, { sqlstate: "08006", message: /lease ran out/ });
  slow.stalls = true;
  await runtime.pass(61_000);
  slow.go();
  await refused;
  assert.deepEqual(holdings.held(), []);
});

Deno.test("Holdings: a lock that etcd could not be told to end is not said to be given back", async () => {
  const { holdings, by, runtime, cut, revoked } = setup(-1);
  await holdings.lock(NAME, 60, Infinity, by);
  cut.now = true;
  const refused = assert.rejects(holdings.unlock(NAME, by), {
    ...{ sqlstate: "08006", message: "etcd did not answer" },
    hint: /lock is given up here; .* its lease 60 s from now at the latest/,
  });
  await runtime.pass(1_000);
  await refused;
  assert.deepEqual([holdings.held(), holdings.empty], [[], false]);
  cut.now = false;
  await runtime.pass(1_000);
  assert.deepEqual([revoked, holdings.empty], [["7"], true]);
});

Deno.test("Holdings: who has resigned is no leader, whatever becomes of the lease", async () => {
  const { holdings, by, runtime, cut } = setup(-1);
  const lead = () => holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity, by);
  await lead();
  cut.only = Method.LEASE_REVOKE;
  const resigned = holdings.resign(NAME, by);
  await runtime.pass(1_000);
  assert.equal(await resigned, true);
  await lead();
  cut.now = true;
  const refused = assert.rejects(holdings.resign(NAME, by), {
    sqlstate: "08006",
    hint: /^The leadership is/,
  });
  await runtime.pass(1_000);
  await refused;
});
