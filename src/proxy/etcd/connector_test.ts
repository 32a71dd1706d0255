import assert from "node:assert/strict";
import { freePort, silentServer, TestEtcd } from "../testing_etcd.ts";
import { errorFrom } from "../testing_requests.ts";
import { REAL } from "../testing_runtime.ts";
import { Connector } from "./connector.ts";

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
