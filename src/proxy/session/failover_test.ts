// Locks and leaderships with three real members, one of which is lost while somebody waits there.

import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8, toHex } from "../../base/bytes.ts";
import { Deadline } from "../deadline.ts";
import type { Cluster } from "../etcd/cluster.ts";
import { Clusters } from "../etcd/clusters.ts";
import { TestMembers } from "../testing_members.ts";
import { REAL } from "../testing_runtime.ts";
import { Holdings } from "./holdings.ts";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

Deno.test("what was granted while a member was silent is held still when it wakes, and its key stands", async () => {
  const members = await TestMembers.start();
  const lines: string[] = [];
  const all: Holdings[] = [];
  const opened = (endpoints: string[]) => {
    const handle = new Clusters(REAL, (line) => lines.push(line)).open({
      ...{ database: "d", server: "s", role: "r", endpoints },
      ...{ connectTimeout: 2_000, requestTimeout: 5_000, maxRetries: 2, retryBackoff: 100 },
      ...{ maxTxnOps: 128, requireAtomic: false, maxStagedBytes: 1024 * 1024 },
    });
    const holdings = new Holdings(REAL, handle);
    all.push(holdings);
    handle.close();
    return holdings;
  };
  let silent = 0;
  const [first, second, third] = members.endpoints;
  const keys = async (name: string) =>
    (await members.ctl(2, "get", "--prefix", `${name}/`, "--keys-only")).split("\n").filter(Boolean);
  try {
    const owner = opened([third]);
    const [lock, office] = ["job", "office"].map((name) => toHex(encodeUtf8(name)));
    assert.ok(await owner.lock(lock, 60, Infinity, {}));
    assert.ok(await owner.campaign(office, encodeUtf8("a"), 60, Infinity, {}));
    const waiter = opened([first, second]);
    const waiting = waiter.lock(lock, 6, Infinity, {});
    const candidate = waiter.campaign(office, encodeUtf8("b"), 6, Infinity, {});
    while ((await keys("job")).length + (await keys("office")).length < 4) await pause(50);
    await pause(300);
    const terms = { connect: 2_000, deadline: Deadline.after(REAL, 5_000) };
    const cluster = waiter.origin.cluster as Cluster;
    const at = await cluster.stream(({ endpoint }) => Promise.resolve({ reply: endpoint }), terms);
    silent = members.endpoints.indexOf(at);
    members.signal(silent, "SIGSTOP");
    while (lines.length === 0) await pause(50);
    await owner.unlock(lock, {});
    await owner.resign(office, {});
    const key = decodeUtf8((await waiting)!);
    assert.equal(await candidate, true);
    members.signal(silent, "SIGCONT");
    await pause(2_000);
    assert.deepEqual(await keys("job"), [key]);
    assert.equal((await keys("office")).length, 1);
    assert.deepEqual(waiter.held().map(({ lost }) => lost), [false, false]);
    assert.equal(await owner.lock(lock, 60, 0, {}), null);
  } finally {
    members.signal(silent, "SIGCONT");
    await Promise.all(all.map((holdings) => holdings.end()));
    await members.stop();
  }
});
