import assert from "node:assert/strict";
import { freePort, silentServer, TestEtcd } from "../testing_etcd.ts";
import { errorFrom } from "../testing_requests.ts";
import { REAL, VirtualRuntime } from "../testing_runtime.ts";
import { Connector, type Member } from "./connector.ts";
import { type Channel, State } from "./transport.ts";

const quiet = () => {};
const acquire = async (connector: Connector, ms: number, signal?: AbortSignal) =>
  await connector.acquire(ms, signal);

Deno.test("Connector: refused everywhere fails at once and says why for each endpoint", async () => {
  const endpoints = [`127.0.0.1:${freePort()}`, `[::1]:${freePort()}`];
  const connector = new Connector(REAL, endpoints, quiet);
  const startedAt = performance.now();
  const error = await errorFrom(acquire(connector, 10_000));
  assert.ok(performance.now() - startedAt < 2_000);
  assert.equal(error.sqlstate, "08001");
  assert.equal(error.message, `could not connect to etcd at "${endpoints.join(",")}"`);
  assert.match(error.detail, /^127\.0\.0\.1:\d+: connect ECONNREFUSED.*\n\[::1\]:\d+: .+\.$/);
  connector.close();
});

Deno.test("Connector: a silent endpoint fails at the timeout, and only then", async () => {
  const silent = silentServer();
  const connector = new Connector(REAL, [silent.endpoint, `127.0.0.1:${freePort()}`], quiet);
  const startedAt = performance.now();
  const error = await errorFrom(acquire(connector, 400));
  const took = performance.now() - startedAt;
  assert.ok(took > 380 && took < 1_500, `${took} ms`);
  assert.equal(error.sqlstate, "08001");
  assert.match(error.detail, /no answer within 400 ms\.\n.*ECONNREFUSED/);
  connector.close();
  silent.stop();
});

Deno.test("Connector: an aborted signal ends the wait", async () => {
  const silent = silentServer();
  const connector = new Connector(REAL, [silent.endpoint], quiet);
  const controller = new AbortController();
  const startedAt = performance.now();
  setTimeout(() => controller.abort(), 50);
  const error = await errorFrom(acquire(connector, 10_000, controller.signal));
  assert.equal(error.sqlstate, "57014");
  assert.ok(performance.now() - startedAt < 1_000);
  connector.close();
  silent.stop();
});

Deno.test("Connector: the endpoint that answers wins, and all get the same channel", async () => {
  const etcd = await TestEtcd.start();
  const silent = silentServer();
  const connector = new Connector(REAL, [silent.endpoint, `127.0.0.1:${freePort()}`, etcd.endpoint], quiet);
  try {
    const channels = await Promise.all([acquire(connector, 5_000), acquire(connector, 5_000)]);
    assert.equal(channels[0].channel.endpoint, etcd.endpoint);
    assert.equal(channels[0], channels[1]);
    // No promise when there is nothing to wait for.
    assert.equal(connector.acquire(1), channels[0]);
  } finally {
    connector.close();
    silent.stop();
    await etcd.stop();
  }
});

Deno.test("Connector: the first request after etcd is back succeeds, however many failed before", async () => {
  const etcd = await TestEtcd.start();
  const connector = new Connector(REAL, [etcd.endpoint], quiet);
  try {
    await acquire(connector, 5_000);
    await etcd.kill();
    for (let i = 0; i < 10; i++) {
      // The loss is noticed within a moment; after that nobody gets a channel.
      if (i === 0) await new Promise((resolve) => setTimeout(resolve, 100));
      assert.equal((await errorFrom(acquire(connector, 5_000))).sqlstate, "08001");
    }
    await etcd.restart();
    assert.equal((await acquire(connector, 5_000)).channel.endpoint, etcd.endpoint);
  } finally {
    connector.close();
    await etcd.stop();
  }
});

Deno.test("Connector: an endpoint left for a reason is the second choice, not no choice", async () => {
  const [one, two] = await Promise.all([TestEtcd.start(), TestEtcd.start()]);
  const lines: string[] = [];
  const connector = new Connector(REAL, [one.endpoint, two.endpoint], (line) => lines.push(line));
  try {
    const first = await acquire(connector, 5_000);
    connector.drop(first, "no leader");
    const second = await acquire(connector, 5_000);
    assert.notEqual(second.channel.endpoint, first.channel.endpoint);
    assert.deepEqual(lines, [
      `leaving etcd at "${first.channel.endpoint}": no leader`,
      `connected to etcd at "${second.channel.endpoint}"`,
    ]);
    await (first.channel.endpoint === one.endpoint ? one : two).kill();
    connector.drop(second, "no leader");
    assert.equal((await acquire(connector, 5_000)).channel.endpoint, second.channel.endpoint);
  } finally {
    connector.close();
    await Promise.all([one.stop(), two.stop()]);
  }
});

/** Endpoints that become ready after so many milliseconds, null for refused at once; the channels of the last race. */
function worldOf(delays: Record<string, number | null>) {
  const runtime = new VirtualRuntime({
    dial(endpoint) {
      const delay = delays[endpoint];
      const begun = runtime.now();
      const now = (): State =>
        delay === null
          ? State.TRANSIENT_FAILURE
          : runtime.now() - begun >= delay
          ? State.READY
          : State.CONNECTING;
      return {
        endpoint,
        connect: now,
        connectError: () => Promise.resolve("refused"),
        onChange: (from, changed) => {
          if (from === State.CONNECTING) {
            runtime.after(delay! - (runtime.now() - begun), () => changed(now()));
          }
        },
        close: () => {},
      } as Partial<Channel> as Channel;
    },
  });
  const connector = new Connector(runtime, Object.keys(delays), quiet);
  /** Who wins, and after how many milliseconds. */
  const win = async (): Promise<[string, number]> => {
    const begun = runtime.now();
    let won: Member | null = null;
    void Promise.resolve(connector.acquire(10_000)).then((member) => won = member);
    for (let ms = 0; won === null && ms < 10_000; ms += 10) await runtime.pass(10);
    return [won!.channel.endpoint, runtime.now() - begun];
  };
  /** The active one fails. */
  const fail = async () => connector.drop(await connector.acquire(1), "it fails");
  return { runtime, connector, win, fail, delays };
}

Deno.test("Connector: an endpoint that failed is no first choice until its breaker's time is over", async () => {
  const { runtime, win, fail } = worldOf({ near: 10, far: 500 });
  assert.deepEqual(await win(), ["near", 10]);
  await fail();
  assert.deepEqual(await win(), ["far", 500], "though the other one is ready sooner");
  await runtime.pass(2_000);
  await fail();
  assert.equal((await win())[0], "near", "its time is over");
  await fail();
  assert.equal((await win())[0], "near", "both have failed: all are tried");
});

Deno.test("Connector: of endpoints that failed, those that miss their leader come before the one that was silent", async () => {
  const { runtime, connector, win, delays } = worldOf({ old: 10, one: 20, two: 30 });
  const leaderless = async () => connector.drop(await connector.acquire(1), "no leader", "leaderless");
  assert.equal((await win())[0], "old");
  connector.drop(await connector.acquire(1), "it does not answer");
  for (const next of ["one", "two", "one", "one"]) {
    assert.equal((await win())[0], next);
    await leaderless();
  }
  // Better than nobody.
  delays.one = delays.two = null;
  assert.deepEqual(await win(), ["old", 10]);
  await leaderless();
  delays.one = delays.two = 20;
  await runtime.pass(2_000);
  assert.equal((await win())[0], "old", "the time of all is over");
});

Deno.test("Connector: a second choice is no worse than none", async () => {
  const world = worldOf({ near: 10, far: 60_000 });
  assert.deepEqual(await world.win(), ["near", 10]);
  await world.fail();
  assert.deepEqual(await world.win(), ["near", 1_010]);
  const other = worldOf({ near: 10, far: null });
  await other.win();
  await other.fail();
  assert.deepEqual(await other.win(), ["near", 10], "nobody is left to wait for");
});

Deno.test("Connector: an answer for which the member asked its cluster closes its breaker, another one does not", async () => {
  for (const proves of [true, false]) {
    const { connector, win, fail, delays } = worldOf({ near: 10, far: 60_000 });
    await win();
    await fail();
    await win();
    connector.answered(await connector.acquire(1), proves);
    delays.far = 500;
    // Lost without a reason that speaks against it.
    connector.drop(await connector.acquire(1));
    assert.equal((await win())[0], proves ? "near" : "far");
  }
});
