import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8, toHex } from "../../base/bytes.ts";
import { LeaseReply, LeaseRequest } from "../../etcd/api.ts";
import type { Place, Standing } from "../../etcd/queue.ts";
import { Method } from "../../ipc/frame.ts";
import { cancelled } from "../deadline.ts";
import { type CallOptions, type ClusterHandle, LateError } from "../handle.ts";
import { foundKeys } from "../testing_requests.ts";
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
    [Method.CLAIM]: foundKeys("job/7", "job/7"),
    [Method.LEASE_REVOKE]: new Uint8Array(0),
    // A TxnResponse that has succeeded.
    [Method.TXN]: Uint8Array.of(2 << 3, 1),
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
  /** Who stands in front, and how the wait for that to end, or for the key's own end, is over. */
  const queue = {
    ahead(key: string) {
      answers[Method.CLAIM] = foundKeys("job/7", key);
    },
    over: { FIRST: (_: Standing) => {}, GONE: (_: Standing) => {} },
  };
  const stand = (_: Place, wanted: "FIRST" | "GONE", { signal }: CallOptions = {}) =>
    new Promise<Standing>((resolve, reject) => {
      queue.over[wanted] = resolve;
      signal?.addEventListener("abort", () => reject(cancelled()));
    });
  const runtime = new VirtualRuntime();
  const rest = { stand, close: () => {}, requestTimeout: 1000, share: () => handle };
  const handle = { call, ...rest } as Partial<ClusterHandle> as ClusterHandle;
  const by = { signal: controller.signal };
  return { holdings: new Holdings(runtime, handle), by, revoked, runtime, cut, slow, queue };
}

Deno.test("Holdings: what is granted in the moment of the cancel is given back, and not held", async () => {
  const cases: [number, (holdings: Holdings, by: { signal: AbortSignal }) => Promise<unknown>, string[]][] = [
    [Method.LEASE_GRANT, (holdings, by) => holdings.keepNew(60, by), ["7"]],
    [Method.LEASE_GRANT, (holdings, by) => holdings.lock(NAME, 60, Infinity, by), ["7"]],
    [Method.CLAIM, (holdings, by) => holdings.lock(NAME, 60, Infinity, by), ["7"]],
    [Method.CLAIM, (holdings, by) => holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity, by), [
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
  for (const what of ["lock", "leadership"]) {
    const { holdings, by, runtime, slow, queue } = setup(-1);
    queue.ahead("job/1");
    slow.stalls = true;
    const waiting = what === "lock"
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
  slow.method = Method.CLAIM;
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

Deno.test("Holdings: a place behind others is waited in, and lost with its key", async () => {
  for (const [end, key] of [["FIRST", "job/7"], ["GONE", null]] as [Standing, string | null][]) {
    const { holdings, by, runtime, revoked, queue } = setup(-1);
    queue.ahead("job/1");
    assert.equal(await holdings.lock(NAME, 60, 0, by), null);
    assert.deepEqual(revoked.splice(0), ["7"]);
    const waiting = holdings.lock(NAME, 60, Infinity, by);
    await runtime.pass(10_000);
    queue.over.FIRST(end);
    if (key === null) await assert.rejects(waiting, { sqlstate: "08006", detail: /"job\/7"/ });
    else assert.equal(decodeUtf8((await waiting)!), key);
    assert.deepEqual(revoked, key === null ? ["7"] : []);
  }
});

Deno.test("Holdings: what is held is lost with its key at once, whatever its lease is worth", async () => {
  const { holdings, by, runtime, queue } = setup(-1);
  await holdings.lock(NAME, 60, Infinity, by);
  await runtime.pass(1_000);
  assert.deepEqual(holdings.held().map(({ lost }) => lost), [false]);
  queue.over.GONE("GONE");
  await runtime.pass(0);
  assert.deepEqual(holdings.held().map(({ lost }) => lost), [true]);
  assert.equal(await holdings.unlock(NAME, by), false);
});

Deno.test("Holdings: who resigns is no leader, whether or not etcd can be told", async () => {
  const { holdings, by, runtime, cut } = setup(-1);
  const lead = () => holdings.campaign(NAME, encodeUtf8("v"), 60, Infinity, by);
  await lead();
  cut.now = true;
  const refused = assert.rejects(holdings.resign(NAME, by), {
    sqlstate: "08006",
    hint: /^The leadership is/,
  });
  await runtime.pass(1_000);
  await refused;
});
