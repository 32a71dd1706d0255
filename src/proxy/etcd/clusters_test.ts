import assert from "node:assert/strict";
import type { OpenPayload } from "../../ipc/frame.ts";
import { REAL } from "../testing_runtime.ts";
import { Cluster, type ClusterOptions } from "./cluster.ts";
import { Clusters } from "./clusters.ts";

const OPEN: OpenPayload = {
  endpoints: ["127.0.0.1:1"],
  connectTimeout: 1000,
  requestTimeout: 1000,
  maxRetries: 0,
  retryBackoff: 0,
  maxTxnOps: 128,
  requireAtomic: false,
  maxStagedBytes: 1024 * 1024,
  database: "d",
  server: "s",
  role: "r",
};
const quiet = () => {};
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A registry that counts what it creates and closes. */
function counted(graceMs: number) {
  const count = { created: 0, closed: 0 };
  class Counted extends Cluster {
    constructor(options: ClusterOptions) {
      super(options);
      count.created++;
    }
    override close() {
      super.close();
      count.closed++;
    }
  }
  return {
    count,
    clusters: new Clusters(REAL, quiet, { graceMs, create: (options) => new Counted(options) }),
  };
}

Deno.test("Clusters: same endpoints and user share one, another password does not", async () => {
  const { count, clusters } = counted(0);
  const handles = [
    clusters.open(OPEN),
    clusters.open({ ...OPEN, requestTimeout: 5 }),
    clusters.open({ ...OPEN, username: "u", password: "p" }),
    clusters.open({ ...OPEN, username: "u", password: "q" }),
    clusters.open({ ...OPEN, endpoints: ["127.0.0.1:2"] }),
    clusters.open({ ...OPEN, tls: { verify: true } }),
    clusters.open({ ...OPEN, tls: { verify: false } }),
  ];
  assert.equal(count.created, 6);
  for (const handle of handles) handle.close();
  await pause(20);
  assert.equal(count.closed, 6);
  assert.equal(clusters.size, 0);
});

Deno.test("Clusters: one that is used again within its grace time is kept", async () => {
  const { count, clusters } = counted(40);
  clusters.open(OPEN).close();
  const again = clusters.open(OPEN);
  await pause(80);
  assert.deepEqual(count, { created: 1, closed: 0 });
  again.close();
  // A second close of the same handle counts once.
  const other = clusters.open(OPEN);
  again.close();
  await pause(80);
  assert.equal(count.closed, 0);
  other.close();
  await pause(80);
  assert.equal(count.closed, 1);
});

Deno.test("Clusters: malformed options are refused without being quoted", () => {
  const bad: unknown[] = [
    {},
    { ...OPEN, endpoints: [] },
    { ...OPEN, endpoints: [1] },
    { ...OPEN, connectTimeout: 0 },
    { ...OPEN, requestTimeout: "1" },
    { ...OPEN, password: 1 },
    { ...OPEN, maxRetries: -1 },
    { ...OPEN, retryBackoff: undefined },
    { ...OPEN, tls: { verify: "no" } },
    { ...OPEN, tls: { verify: true, ca: 1 } },
  ];
  for (const open of bad) {
    assert.throws(() => new Clusters(REAL, quiet).open(open as OpenPayload), {
      sqlstate: "22023",
      message: "malformed connection options in an open frame",
    });
  }
});
