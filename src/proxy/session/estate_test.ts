import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { LeaseReply } from "../../etcd/api.ts";
import type { Place } from "../../etcd/queue.ts";
import { Method } from "../../ipc/frame.ts";
import type { ClusterHandle } from "../handle.ts";
import { foundKeys } from "../testing_requests.ts";
import { VirtualRuntime } from "../testing_runtime.ts";
import { Estate } from "./estate.ts";

const NAME = toHex(encodeUtf8("job"));
const BY = {};

function setup() {
  const log: string[] = [];
  const wanted: number[] = [Method.CLAIM, Method.TXN, Method.LEASE_REVOKE];
  const names = ["claim", "proclaim", "revoke"];
  // Every lease has the same number, on whichever cluster.
  const leaseOn = (id: string) => LeaseReply.encode({ header: { cluster_id: id }, ID: "7", TTL: "60" });
  const answers: Record<number, Uint8Array> = {
    [Method.CLAIM]: foundKeys("job/7", "job/7"),
    // A TxnResponse that has succeeded.
    [Method.TXN]: Uint8Array.of(2 << 3, 1),
  };
  const open = { count: 0 };
  let clusters = 0;
  /** A handle whose calls go into the log; a readonly one forbids all. */
  const handleOn = (
    cluster: object,
    title: string,
    { readonly = false, id = String(++clusters), user = "me" } = {},
  ): ClusterHandle => {
    const check = () => {
      if (readonly) throw new EtcdFdwError("42501", "no");
    };
    const handle = {
      ...{ cluster, user, check, requestTimeout: 1000 },
      call(method: number) {
        if (wanted.includes(method)) log.push(`${title}: ${names[wanted.indexOf(method)]}`);
        // What a RangeResponse has behind its header does not matter here.
        return Promise.resolve(answers[method] ?? leaseOn(id));
      },
      stand: (_: Place, wanted: "FIRST" | "GONE") =>
        wanted === "FIRST" ? Promise.resolve(wanted) : new Promise(() => {}),
      share: () => {
        open.count++;
        return handle;
      },
      close: () => void open.count--,
    } as Partial<ClusterHandle> as ClusterHandle;
    return handle;
  };
  return { log, open, handleOn, estate: new Estate(new VirtualRuntime()) };
}

Deno.test("Estate: what is new goes through the present handle, what is held stays with its own", async () => {
  const { estate, log, handleOn } = setup();
  const first = handleOn({}, "first");
  const second = handleOn({}, "second");
  await estate.keepNew(first, 60, BY);
  await estate.lock(first, NAME, 60, Infinity, BY);
  await estate.lock(second, "aa", 60, Infinity, BY);
  await estate.campaign(second, NAME, encodeUtf8("v"), 60, Infinity, BY);
  assert.deepEqual(log.splice(0), ["first: claim", "second: claim", "second: claim"]);
  assert.deepEqual(estate.held().map(({ kind }) => kind), ["lock", "election", "lease", "lock"]);
  assert.equal(await estate.unlock(NAME, BY), true);
  assert.equal(await estate.unlock("aa", BY), true);
  assert.deepEqual(log, ["first: revoke", "second: revoke"]);
  assert.equal(estate.release(7n), true);
  assert.equal(estate.release(7n), false);
});

Deno.test("Estate: a lock that is held on another cluster is not held on this one", async () => {
  const { estate, log, handleOn } = setup();
  const [first, second] = [handleOn({}, "first"), handleOn({}, "second")];
  await estate.lock(first, NAME, 60, Infinity, BY);
  await estate.lock(second, NAME, 60, Infinity, BY);
  assert.deepEqual(log.splice(0), ["first: claim", "second: claim"]);
  assert.equal(await estate.proclaim(second, NAME, encodeUtf8("v"), BY), false);
  for (const expected of [true, true, false]) assert.equal(await estate.unlock(NAME, BY), expected);
  assert.deepEqual(log, ["second: revoke", "first: revoke"]);
});

Deno.test("Estate: one that an earlier handle holds on the same cluster is taken once more, if that is allowed now", async () => {
  const { estate, log, handleOn } = setup();
  const cluster = {};
  const first = handleOn(cluster, "first");
  await estate.lock(first, NAME, 60, Infinity, BY);
  await estate.campaign(first, NAME, encodeUtf8("v"), 60, Infinity, BY);
  log.length = 0;
  const readonly = handleOn(cluster, "readonly", { readonly: true });
  await assert.rejects(estate.lock(readonly, NAME, 60, Infinity, BY), { sqlstate: "42501" });
  await assert.rejects(estate.proclaim(readonly, NAME, encodeUtf8("w"), BY), { sqlstate: "42501" });
  assert.deepEqual(log, []);
  const second = handleOn(cluster, "second");
  assert.ok(await estate.lock(second, NAME, 60, 0, BY));
  assert.equal(await estate.campaign(second, NAME, encodeUtf8("w"), 60, 0, BY), true);
  assert.deepEqual(log.splice(0), ["first: proclaim"]);
  assert.equal(await estate.unlock(NAME, BY), true);
  assert.deepEqual(log, [], "it was taken twice");
  assert.equal(await estate.unlock(NAME, BY), true);
  assert.deepEqual(log, ["first: revoke"]);
});

Deno.test("Estate: a cluster is known by its id, whatever endpoints name it, and to the same user alone", async () => {
  const { estate, log, handleOn } = setup();
  const first = handleOn({}, "first", { id: "18446744073709551615" });
  await estate.lock(first, NAME, 60, Infinity, BY);
  await estate.keepNew(first, 60, BY);
  const longer = handleOn({}, "longer", { id: "18446744073709551615" });
  assert.ok(await estate.lock(longer, NAME, 60, 0, BY));
  assert.equal(await estate.keep(longer, 7n, BY), 60);
  const other = handleOn({}, "other", { id: "18446744073709551615", user: "somebody" });
  await estate.lock(other, NAME, 60, Infinity, BY);
  assert.deepEqual(log.splice(0), ["first: claim", "other: claim"]);
  assert.equal(estate.held().filter(({ kind }) => kind === "lease").length, 1);
  for (const expected of [true, true, true, false]) {
    assert.equal(await estate.unlock(NAME, BY), expected);
  }
  assert.deepEqual(log, ["other: revoke", "first: revoke"]);
});

Deno.test("Estate: a handle is given up when nothing is held by it and another one is there", async () => {
  const { estate, open, handleOn } = setup();
  const [first, second] = [handleOn({}, "first"), handleOn({}, "second")];
  await estate.lock(first, NAME, 60, Infinity, BY);
  estate.of(second);
  assert.equal(open.count, 2);
  await estate.unlock(NAME, BY);
  estate.of(second);
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(open.count, 1);
  estate.end();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(open.count, 0);
});
