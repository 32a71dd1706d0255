import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { status } from "@grpc/grpc-js";
import { EtcdClient, readFields } from "./etcd_client.ts";
import { damagedReplies, type FakeHandler, rangeResponse, startFakeEtcd } from "./fake_etcd.ts";

const RANGE = "/etcdserverpb.KV/Range";
const REQUEST = Uint8Array.of(0x0a, 1, 97);

/** A fake and a client of it for one test; both end with it. */
async function withFake(
  handler: FakeHandler,
  test: (
    call: (timeoutMs?: number) => Promise<Uint8Array>,
    requests: unknown[],
    client: EtcdClient,
  ) => Promise<void>,
) {
  await using fake = await startFakeEtcd(handler);
  const client = new EtcdClient([fake.endpoint]);
  try {
    await test((timeoutMs = 3000) => client.callMember(0, RANGE, REQUEST, timeoutMs), fake.requests, client);
  } finally {
    client.close();
  }
}

Deno.test("a fake answers with the bytes it is given and keeps the requests", async () => {
  const reply = rangeResponse([{ key: "/a", value: "1", lease: "7587870000000000000" }], {
    revision: "9000000000",
  });
  await withFake(() => reply, async (call, requests, client) => {
    deepEqual(await call(), reply);
    equal(requests.length, 1);
    const { path, message } = requests[0] as { path: string; message: Uint8Array };
    deepEqual([path, [...message]], [RANGE, [...REQUEST]]);
    const kv = await client.get("/a");
    equal(kv?.lease, 7587870000000000000n);
    equal(await client.revision(), 9000000000n);
  });
});

Deno.test("a fake answers with a status", async () => {
  const fault = { status: status.RESOURCE_EXHAUSTED, message: "etcdserver: mvcc: database space exceeded" };
  await withFake(() => fault, async (call) => {
    await rejects(call(), { code: status.RESOURCE_EXHAUSTED, details: fault.message });
  });
  await withFake(() => Promise.reject(new Error("a slip")), async (call) => {
    await rejects(call(), { code: status.INTERNAL, details: "a slip" });
  });
});

Deno.test("a fake can keep silent, and still be stopped", async () => {
  await withFake(() => "silence", async (call) => {
    await rejects(call(200), { code: status.DEADLINE_EXCEEDED });
  });
});

Deno.test("a fake breaks the connection, before or in the middle of a reply, and takes the next one", async () => {
  const reply = rangeResponse([{ key: "/a", value: new Uint8Array(300_000) }]);
  let calls = 0;
  const faults = ["hangup", { reply, afterBytes: 100_000 }, reply] as const;
  await withFake(() => faults[Math.min(calls++, 2)], async (call) => {
    await rejects(call(), (error: { code: number }) => error.code !== status.DEADLINE_EXCEEDED);
    const again = async () => {
      for (let left = 20;; left--) {
        const before = calls;
        try {
          return await call();
        } catch (error) {
          // Not connected again yet: the call has not reached the fake.
          if (calls > before || left === 0) throw error;
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      }
    };
    await rejects(again(), (error: { code: number }) => error.code !== status.DEADLINE_EXCEEDED);
    equal(calls, 2);
    equal((await again()).length, reply.length);
  });
});

Deno.test("a fake sends a huge reply", async () => {
  const reply = rangeResponse([{ key: "/a", value: new Uint8Array(32 << 20) }]);
  await withFake(() => reply, async (call) => {
    equal((await call(10_000)).length, reply.length);
  });
});

Deno.test("damaged replies arrive as they are, and are damaged", async () => {
  const names = Object.keys(damagedReplies);
  let next = 0;
  await withFake(() => damagedReplies[names[next]](), async (call) => {
    for (next = 0; next < names.length; next++) {
      const arrived = await call();
      deepEqual(arrived, damagedReplies[names[next]](), names[next]);
      if (names[next].startsWith("valid")) readFields(arrived);
      else throws(() => walk(arrived), () => true, names[next]);
    }
  });
  ok(next >= 12);
});

/** Reads a RangeResponse strictly, as deep as its keys. */
function walk(reply: Uint8Array) {
  readFields(reply, (field, value) => {
    if (field === 2) readFields(value as Uint8Array);
  });
}
