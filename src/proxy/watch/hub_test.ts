import assert from "node:assert/strict";
import { decodeUtf8 } from "../../base/bytes.ts";
import { Method } from "../../ipc/frame.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { compact, errorFrom, put } from "../testing_requests.ts";

import { WINDOW_BYTES } from "./hub.ts";
import { MB, names, World, world } from "./testing_hub.ts";

Deno.test("Hub: past and new events follow each other, call by call, and one watch serves all", () =>
  world(async (w) => {
    for (const key of names(0, 5)) await w.put(key);
    await w.put("/other");
    const first = await w.read("/p/", 1n, { wait: 0 });
    assert.deepEqual(first.keys, names(0, 5), "the past comes, however short the wait");
    const [one, other] = [
      w.read("/p/", first.revision, { count: 1, wait: 5_000 }),
      w.read("/p/", 3n, { count: 4 }),
    ];
    await w.put("/p/5");
    assert.deepEqual((await one).keys, ["/p/5"]);
    assert.equal((await one).left, 0);
    assert.deepEqual((await other).keys, names(2, 6));
    assert.equal(w.hub.size, 1);
    const none = await w.read("/p/", (await one).revision, { wait: 50 });
    assert.deepEqual([none.keys, none.revision], [[], (await one).revision]);
    await w.cluster.call(Method.PUT, put("/p/6", "x"), w.terms());
    const prev = w.read("/p/", null, { prev: true, count: 2, wait: 5_000 });
    await new Promise((resolve) => setTimeout(resolve, 100));
    await w.put("/p/6", "y");
    await w.etcd.ctl("del", "/p/6");
    assert.deepEqual(
      (await prev).decoded.map(({ type, prev_kv }) => [type, prev_kv && decodeUtf8(prev_kv.value)]),
      [[0, "x"], [1, "y"]],
    );
  }));

Deno.test("Hub: who must wait for his turn holds nothing meanwhile, and then has all of it", () =>
  world(async (w) => {
    const { revision } = await w.read("/p/", null, { wait: 0 });
    let bytes = 0;
    let come = () => {};
    const turn = (size: number) => {
      bytes = size;
      return new Promise<void>((resolve) => come = resolve);
    };
    const waits = w.read("/p/", revision, { count: 1e9, enough: 1, bytes: 64 * MB, wait: 20_000, turn });
    await w.put("/p/0", "v".repeat(1_000));
    while (bytes === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    assert.ok(bytes > 1_000 && bytes < 1_200, `${bytes} bytes`);
    // More than is kept for one who is not there; another reader takes it.
    let seen = revision;
    for (let i = 1; i < 12; i++) {
      await w.put(`/p/${i}`, "v".repeat(MB));
      seen = (await w.read("/p/", seen, { count: 1, wait: 5_000, bytes: 64 * MB })).revision;
    }
    assert.ok(w.budget.used < WINDOW_BYTES + 2 * MB, `${w.budget.used} bytes`);
    come();
    const page = await waits;
    assert.deepEqual(page.keys.slice(0, 1), ["/p/0"]);
    const rest = page.keys.length < 12
      ? (await w.read("/p/", page.revision, { wait: 0, bytes: 64 * MB })).keys
      : [];
    assert.deepEqual([...page.keys, ...rest], names(0, 12));
  }));

Deno.test("Hub: what was compacted is an error that says where it can begin", () =>
  world(async (w) => {
    for (const key of names(0, 9)) await w.put(key);
    await w.cluster.call(Method.COMPACT, compact("6"), w.terms());
    const error = await errorFrom(w.read("/p/", 2n));
    assert.equal(error.sqlstate, "22023");
    assert.match(error.hint, /oldest revision .* is 6/);
    assert.deepEqual((await w.read("/p/", 5n, { wait: 0 })).keys, names(4, 9));
  }));

Deno.test("Hub: a cancelled reader is gone at once, and others go on", () =>
  world(async (w) => {
    const cancel = new AbortController();
    const gone = errorFrom(w.read("/p/", null, { wait: 60_000, signal: cancel.signal }));
    const stays = w.read("/p/", null, { wait: 60_000, count: 1 });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = performance.now();
    cancel.abort();
    assert.equal((await gone).sqlstate, "57014");
    assert.ok(performance.now() - before < 100);
    await w.put("/p/a");
    assert.deepEqual((await stays).keys, ["/p/a"]);
  }));

Deno.test("Hub: who reads slowly loses nothing and holds up nobody, and memory is bounded", () =>
  world(async (w) => {
    const value = "v".repeat(100_000);
    const slow = await w.read("/p/", 1n, { wait: 0 });
    let quick = slow.revision;
    let held = 0;
    for (let i = 0; i < 200; i++) {
      await w.put(`/p/${i}`, value);
      const page = await w.read("/p/", quick, { count: 1, wait: 5_000 });
      assert.deepEqual(page.keys, [`/p/${i}`]);
      quick = page.revision;
      held = Math.max(held, w.budget.used);
    }
    assert.ok(held <= WINDOW_BYTES + 200_000, `${held} bytes`);
    const keys: string[] = [];
    let at = slow.revision;
    while (keys.length < 200) {
      const page = await w.read("/p/", at, { wait: 5_000 });
      keys.push(...page.keys);
      at = page.revision;
      // A stream that nobody reads from goes no further than its window.
      await new Promise((resolve) => setTimeout(resolve, 20));
      held = Math.max(held, w.budget.used);
    }
    assert.deepEqual(keys, names(0, 200));
    assert.ok(w.hub.size > 1, "the slow one has a watch of its own");
    // etcd tells as much as a thousand revisions at once.
    assert.ok(held <= 3 * WINDOW_BYTES + 200 * 100_200, `${held} bytes`);
  }));

Deno.test("Hub: a revision that is larger than all windows comes whole", () =>
  world(async (w) => {
    const value = "v".repeat(1_500);
    for (let at = 0; at < 5_000; at += 500) {
      await Promise.all(names(at, at + 500).map((key) => w.put(key, value)));
    }
    const from = (await w.read("/p/", null, { wait: 0 })).revision;
    await w.etcd.ctl("del", "/p/", "--prefix");
    await w.put("/p/last");
    const first = await w.read("/p/", from, { wait: 0, prev: true });
    assert.deepEqual([first.keys.length, first.revision, first.upto], [5_000, from + 1n, from + 2n]);
    const rest = await w.read("/p/", first.revision, { wait: 0, prev: true, upto: first.upto });
    assert.deepEqual([rest.keys, rest.upto], [["/p/last"], 0n]);
  }));

Deno.test("Hub: an etcd that ends and comes back leaves no gap", () =>
  world(async (w) => {
    await w.put("/p/0");
    const got: string[] = [];
    let at = 1n;
    const reading = (async () => {
      while (got.length < 40) {
        const page = await w.read("/p/", at, { count: 1, wait: 20_000 });
        got.push(...page.keys);
        at = page.revision;
      }
    })();
    for (let i = 1; i < 40; i++) {
      if (i % 13 === 0) {
        await w.etcd.kill();
        await w.etcd.restart();
      }
      await w.put(`/p/${i}`);
    }
    await reading;
    assert.deepEqual(got, names(0, 40));
  }));

Deno.test("Hub: an etcd that comes back with an older state is an error, not silence up to where it was", () =>
  world(async (w) => {
    for (const key of names(0, 20)) await w.put(key);
    const { revision } = await w.read("/p/", 1n, { wait: 0 });
    const waiting = errorFrom(w.read("/p/", revision, { count: 1, wait: 20_000, known: true }));
    const future = w.read("/p/", 5n, { count: 1, wait: 20_000, prev: true });
    assert.equal((await future).keys.length, 1);
    await new Promise((resolve) => setTimeout(resolve, 200));
    await w.etcd.forget();
    const before = performance.now();
    await w.put("/p/new");
    assert.equal((await waiting).sqlstate, "22023");
    assert.ok(performance.now() - before < 10_000);
    assert.deepEqual((await w.read("/p/", 1n, { wait: 0 })).keys, ["/p/new"]);
    // Who waits for what is yet to come goes on waiting.
    const later = w.read("/p/", 4n, { count: 1, wait: 20_000 });
    await new Promise((resolve) => setTimeout(resolve, 200));
    await w.etcd.kill();
    await w.etcd.restart();
    for (const key of names(0, 4)) await w.put(key);
    assert.deepEqual((await later).keys, ["/p/2"]);
  }));

Deno.test("Hub: a user watches what he may read, and no more", () =>
  world(async (w) => {
    for (
      const args of [
        ["user", "add", "root", "--new-user-password", "r"],
        ["user", "grant-role", "root", "root"],
        ["user", "add", "app", "--new-user-password", "a"],
        ["role", "add", "app"],
        ["role", "grant-permission", "app", "read", "/p/", "--prefix=true"],
        ["user", "grant-role", "app", "app"],
      ]
    ) await w.etcd.ctl(...args);
    await w.put("/p/0");
    await w.etcd.ctl("auth", "enable");
    const app = new World(w.etcd, { username: "app", password: "a" });
    const root = new World(w.etcd, { username: "root", password: "r" });
    try {
      assert.deepEqual((await app.read("/p/", 1n, { wait: 0 })).keys, ["/p/0"]);
      assert.equal((await errorFrom(app.read("/q/", 1n))).sqlstate, "42501");
      assert.equal((await errorFrom(app.read("/", 1n))).sqlstate, "42501");
      const waiting = app.read("/p/", null, { count: 1, wait: 10_000 });
      await new Promise((resolve) => setTimeout(resolve, 200));
      await root.put("/p/1");
      assert.deepEqual((await waiting).keys, ["/p/1"]);
    } finally {
      app.close();
      root.close();
    }
  }));

Deno.test("Hub: an etcd that cannot be reached is an error, not silence", async () => {
  const etcd = await TestEtcd.start();
  const w = new World(etcd);
  await etcd.stop();
  assert.equal((await errorFrom(w.read("/p/", 5n, { wait: 0 }))).sqlstate, "08001");
  w.close();
});

Deno.test("Hub: what is heard when all is over is counted for nobody", () =>
  world(async (w) => {
    for (let i = 0; i < 20; i++) await w.put(`/p/${i}`, "v".repeat(50_000));
    for (let i = 0; i < 5; i++) {
      const cancel = new AbortController();
      const gone = errorFrom(w.read("/p/", 1n, { wait: 5_000, signal: cancel.signal }));
      // While the past, which is long, arrives.
      await new Promise((resolve) => setTimeout(resolve, 5 * i));
      w.hub.close();
      cancel.abort();
      await gone;
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }));

Deno.test("Hub: who comes while a stream opens, or hears much, is told all up to now", () =>
  world(async (w) => {
    const value = "v".repeat(200_000);
    for (let round = 0; round < 12; round++) {
      const prefix = `/p/${round}/`;
      await w.put(`${prefix}0`, value);
      const reads: Promise<{ keys: string[] }>[] = [];
      const expected: string[] = [];
      for (let i = 1; i < 12; i++) {
        reads.push(w.read(prefix, 1n, { wait: 0, bytes: 64 * MB }));
        expected.push(`${prefix}${i - 1}`);
        // It tells the revision that the next one must get to, and is no event of the range.
        await Promise.all([w.put(`${prefix}${i}`, value), w.put("/elsewhere")]);
      }
      for (const [i, { keys }] of (await Promise.all(reads)).entries()) {
        assert.deepEqual(keys.slice(0, i + 1), expected.slice(0, i + 1), `round ${round}`);
      }
    }
  }));

Deno.test("Hub: watches that nobody reads make room for others", () =>
  world(async (w) => {
    await w.put("/p/0");
    for (let at = 0; at < 1_050; at += 50) {
      const reads = Array.from(
        { length: 50 },
        (_, i) => w.read(`/q/${at + i}/`, null, { wait: 1, count: 1 }),
      );
      await Promise.all(reads);
    }
    assert.ok(w.hub.size <= 1_000, `${w.hub.size}`);
    assert.deepEqual((await w.read("/p/", 1n, { wait: 0 })).keys, ["/p/0"]);
  }));
