import assert from "node:assert/strict";
import { encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError, GrpcStatus } from "../../base/errors.ts";
import { WatchRequest } from "../../etcd/api.ts";
import { Deadline } from "../deadline.ts";
import { freePort, silentServer, TestEtcd } from "../testing_etcd.ts";
import { getPrefix, put } from "../testing_requests.ts";
import { REAL } from "../testing_runtime.ts";
import { reasonsOf, transportBy, type Way } from "./channel.ts";
import { type Channel, type Hear, State } from "./transport.ts";

const dial = (endpoint: string) => REAL.etcd.dial(endpoint);
const within = (ms: number) => ({ login: { token: null }, deadline: Deadline.after(REAL, ms) });

/** A test of calls on a wire, and of the same by the library. */
function bothWays(name: string, test: (dial: (endpoint: string) => Channel) => Promise<void>): void {
  for (const way of ["wire", "library"] as const satisfies Way[]) {
    Deno.test(`Channel by ${way}: ${name}`, () => test((endpoint) => transportBy(way).dial(endpoint)));
  }
}

bothWays("a call's end is a value, also when there is no connection", async (dial) => {
  const channel = dial(`127.0.0.1:${freePort()}`);
  const { failure } = await channel.call("/x/y", new Uint8Array(0), within(5_000));
  assert.equal(failure?.code, GrpcStatus.UNAVAILABLE);
  assert.match(await channel.connectError(), /^connect ECONNREFUSED [\d.:]+$/);
  channel.close();
});

bothWays("an abort ends the call, before and after it has begun, and so does the deadline", async (dial) => {
  const silent = silentServer();
  const channel = dial(silent.endpoint);
  const controller = new AbortController();
  const options = { ...within(5_000), signal: controller.signal };
  const call = channel.call("/x/y", new Uint8Array(0), options);
  controller.abort();
  assert.equal((await call).failure?.code, GrpcStatus.CANCELLED);
  assert.equal((await channel.call("/x/y", new Uint8Array(0), options)).failure?.code, GrpcStatus.CANCELLED);
  assert.equal(
    (await channel.call("/x/y", new Uint8Array(0), within(50))).failure?.code,
    GrpcStatus.DEADLINE_EXCEEDED,
  );
  // No deadline, and one beyond what a timer takes, are none that is over at once.
  for (const ms of [Infinity, 80 * 86_400_000]) {
    const patient = new AbortController();
    const waiting = channel.call("/x/y", new Uint8Array(0), { ...within(ms), signal: patient.signal });
    assert.equal(
      await Promise.race([waiting, new Promise((resolve) => setTimeout(resolve, 100, "waits"))]),
      "waits",
    );
    patient.abort();
    assert.equal((await waiting).failure?.code, GrpcStatus.CANCELLED);
  }
  channel.close();
  silent.stop();
});

bothWays("large answers that nobody waits for any more leave the connection to the others", async (dial) => {
  const etcd = await TestEtcd.start();
  const channel = dial(etcd.endpoint);
  try {
    const write = (key: string, value: string) =>
      channel.call("/etcdserverpb.KV/Put", put(key, value), within(10_000));
    for (let i = 0; i < 400; i++) await write(`/large/${i}`, "x".repeat(1_000));
    let over = false;
    const others = (async () => {
      const failures: unknown[] = [];
      while (!over) {
        const { failure } = await write("/other", "1");
        if (failure !== undefined) failures.push(failure);
      }
      return failures;
    })();
    const read = (ms: number, signal?: AbortSignal) =>
      channel.call("/etcdserverpb.KV/Range", getPrefix("/large/"), { ...within(ms), signal });
    const codes = new Set<number | undefined>();
    for (let i = 0; i < 200; i++) {
      const controller = new AbortController();
      const cancelled = read(10_000, controller.signal);
      const late = read(1);
      await new Promise((resolve) => setTimeout(resolve, 2));
      controller.abort();
      for (const { failure } of await Promise.all([cancelled, late])) codes.add(failure?.code);
    }
    over = true;
    assert.deepEqual(await others, []);
    assert.ok(codes.has(GrpcStatus.CANCELLED) && codes.has(GrpcStatus.DEADLINE_EXCEEDED));
  } finally {
    channel.close();
    await etcd.stop();
  }
});

Deno.test("Channel: onChange tells of a refused connection", async () => {
  const channel = dial(`127.0.0.1:${freePort()}`);
  const state = await new Promise<State>((resolve) => {
    const follow = (state: State) =>
      state === State.TRANSIENT_FAILURE ? resolve(state) : channel.onChange(state, follow);
    follow(channel.connect());
  });
  assert.equal(state, State.TRANSIENT_FAILURE);
  channel.close();
});

Deno.test("Channel: a host with several addresses tells what each of them said", async () => {
  const server = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const hangingUp = (async () => {
    for await (const connection of server) connection.close();
  })();
  const reason = await reasonsOf(["::1", "127.0.0.1"], server.addr.port, {
    verify: true,
    servername: "localhost",
  });
  server.close();
  await hangingUp.catch(() => {});
  // Refused at one, no TLS at the other.
  assert.match(reason, /^\[::1\]: connect E\w+ .*; 127\.0\.0\.1: (?!connect)\w+/);
});

Deno.test("Channel: a login that fails is a value too, without the password", async () => {
  const channel = dial(`127.0.0.1:${freePort()}`);
  const outcome = await channel.login("u", "s3cret", Deadline.after(REAL, 1_000));
  channel.close();
  assert.equal(outcome.failure?.code, GrpcStatus.UNAVAILABLE);
  assert.doesNotMatch(JSON.stringify(outcome), /s3cret/);
});

Deno.test("Channel: a listener's error is the stream's, and while it takes its time no other reply is heard", async () => {
  const etcd = await TestEtcd.start();
  const channel = dial(etcd.endpoint);
  try {
    const watch = WatchRequest.encode({ create_request: { key: encodeUtf8("/a") } });
    const converse = (heard: Hear) =>
      channel.converse("/etcdserverpb.Watch/Watch", [watch, watch, watch], within(5_000), heard);
    const damaged = () => {
      throw new EtcdFdwError("08P01", "damaged");
    };
    await assert.rejects(converse(damaged), { sqlstate: "08P01" });
    await assert.rejects(converse(() => Promise.resolve().then(damaged)), { sqlstate: "08P01" });
    let [heard, hearing, most] = [0, 0, 0];
    const { failure } = await converse(async () => {
      most = Math.max(most, ++hearing);
      await new Promise((resolve) => setTimeout(resolve, 20));
      hearing--;
      return ++heard === 3;
    });
    assert.deepEqual([failure, heard, most], [undefined, 3, 1]);
  } finally {
    channel.close();
    await etcd.stop();
  }
});
