// Replies of a real etcd, as the gRPC library takes them.

import assert from "node:assert/strict";
import { Deadline } from "../deadline.ts";
import { Budget, Expectations, type Flow } from "../memory.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { get, getPrefix, put } from "../testing_requests.ts";
import { REAL } from "../testing_runtime.ts";

const within = (ms: number) => ({ login: { token: null }, deadline: Deadline.after(REAL, ms) });
const soon = () => new Promise((resolve) => setTimeout(resolve, 200));

Deno.test("a large reply is counted while it arrives, and waits for room, which holds up nothing else", async () => {
  const etcd = await TestEtcd.start();
  const channel = REAL.etcd.dial(etcd.endpoint);
  const budget = new Budget(16 * 1024 * 1024);
  const expectations = new Expectations(budget);
  const seen: number[] = [];
  REAL.etcd.meter!({
    arrive(bytes: number, flow: Flow) {
      const gone = expectations.arrive(bytes, flow);
      seen.push(budget.used);
      return gone;
    },
  });
  try {
    const call = (method: string, payload: Uint8Array, ms = 20_000) =>
      channel.call(`/etcdserverpb.KV/${method}`, payload, within(ms));
    for (let i = 0; i < 12; i++) await call("Put", put(`/large/${i}`, "x".repeat(1_000_000)));
    const read = (ms?: number) => call("Range", getPrefix("/large/"), ms);
    const size = (await read()).reply!.length;
    assert.ok(size > 12_000_000);
    assert.deepEqual(seen, [size], "small replies are not looked at");
    assert.equal(budget.used, 0);

    // Somebody else's reply is on its way, and there is room for it alone.
    const gone = expectations.arrive(size, { pause: () => {}, resume: () => {} });
    let here = 0;
    const replies = [read(), read()].map((reply) => reply.then(({ reply }) => (here++, reply!.length)));
    await soon();
    assert.equal(here, 0);
    assert.equal((await call("Range", get("/large/none"), 1_000)).failure, undefined);
    assert.equal((await read(100)).failure?.code, 4, "who is paused has his deadline still");
    assert.equal(budget.used, size);
    gone();
    assert.deepEqual(await Promise.all(replies), [size, size]);
    await soon();
    assert.ok(budget.used <= size, "what nobody waits for any more may still come");
  } finally {
    REAL.etcd.meter!(new Expectations(new Budget(2 ** 40)));
    channel.close();
    await etcd.stop();
  }
});
