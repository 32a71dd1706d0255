// What the hub does with events for which there is little room, or which nobody reads; and that no reader pays for it.

import assert from "node:assert/strict";
import { errorFrom } from "../testing_requests.ts";
import { MB, names, type World, world } from "./testing_hub.ts";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function fill(w: World, keys: string[], bytes: number): Promise<void> {
  const value = "v".repeat(bytes);
  for (let at = 0; at < keys.length; at += 50) {
    await Promise.all(keys.slice(at, at + 50).map((key) => w.put(key, value)));
  }
}

/** All keys behind a revision, page by page, as etcd_watch() reads them. */
async function readAll(w: World, after: bigint): Promise<string[]> {
  const keys: string[] = [];
  let page = await w.read("/p/", after, { wait: 0 });
  keys.push(...page.keys);
  while (page.upto !== 0n) {
    page = await w.read("/p/", page.revision, { wait: 0, upto: page.upto });
    keys.push(...page.keys);
  }
  return keys;
}

Deno.test("Hub: several readers of a past that is larger than a window miss nothing", () =>
  world(async (w) => {
    await fill(w, names(0, 900), 10_000);
    const all = await Promise.all([readAll(w, 1n), readAll(w, 1n), readAll(w, 1n)]);
    for (const keys of all) assert.deepEqual(new Set(keys), new Set(names(0, 900)));
    for (const keys of all) assert.equal(keys.length, 900);
  }));

Deno.test("Hub: who comes while nobody reads what is held hears what is new", () =>
  world(async (w) => {
    await w.read("/p/", null, { wait: 10 });
    await fill(w, names(0, 7), MB);
    await pause(300);
    const now = (await w.read("/q/", null, { wait: 0 })).revision;
    const news = w.read("/p/", now, { wait: 8_000, count: 1 });
    const later = w.read("/p/", null, { wait: 8_000, count: 1 });
    await pause(200);
    await w.put("/p/new");
    assert.deepEqual([(await news).keys, (await later).keys], [["/p/new"], ["/p/new"]]);
    assert.deepEqual((await w.read("/p/", now - 1n, { wait: 0, bytes: 8 * MB })).keys.slice(1), ["/p/new"]);
  }));

Deno.test("Hub: without memory a reader takes what there is, and loses nothing", () =>
  world(async (w) => {
    w.budget.take(64 * MB - 400);
    const slow = w.read("/p/", 1n, { count: 10, wait: 5_000 });
    const fast = w.read("/p/", 1n, { count: 1, wait: 5_000 });
    await pause(300);
    await fill(w, names(0, 1), 300);
    assert.deepEqual((await fast).keys, ["/p/0"]);
    let after = (await fast).revision;
    for (const key of names(1, 5)) {
      const next = w.read("/p/", after, { count: 1, wait: 5_000 });
      await w.put(key, "v".repeat(300));
      const page = await next;
      assert.deepEqual(page.keys, [key]);
      after = page.revision;
    }
    const part = await slow;
    assert.deepEqual(part.keys, names(0, part.keys.length));
    assert.ok(part.keys.length > 0 && part.left > 0, "it may come back for the rest");
    assert.deepEqual(await readAll(w, part.revision), names(part.keys.length, 5));
    w.budget.give(64 * MB - 400);
  }));

Deno.test("Hub: ranges that nobody reads any more leave their memory, and time, to others", () =>
  world(async (w) => {
    w.budget.take(56 * MB);
    const prefixes = Array.from({ length: 6 }, (_, i) => `/p/${i}/`);
    for (const prefix of prefixes) await w.read(prefix, null, { wait: 10 });
    await fill(w, prefixes.flatMap((prefix) => [1, 2, 3, 4].map((i) => prefix + i)), 700_000);
    let turns = 0;
    for (const end = performance.now() + 500; performance.now() < end; turns++) await pause(1);
    assert.ok(turns > 20, `${turns} turns in half a second`);
    const news = w.read("/p/new", null, { wait: 8_000, count: 1 });
    await pause(300);
    await w.put("/p/new");
    assert.deepEqual((await news).keys, ["/p/new"]);
    w.budget.give(56 * MB);
  }));

Deno.test("Hub: another store in etcd's place is an error, not silence", () =>
  world(async (w) => {
    await fill(w, names(0, 8), 10);
    const { revision } = await w.read("/p/", 1n, { wait: 0 });
    const waiting = errorFrom(w.read("/p/", revision, { wait: 20_000, count: 1 }));
    await w.etcd.forget();
    await w.put("/p/new");
    assert.equal((await waiting).sqlstate, "22023");
    assert.deepEqual((await w.read("/p/", 1n, { wait: 0 })).keys, ["/p/new"]);
    assert.equal((await errorFrom(w.read("/p/", revision, { known: true }))).sqlstate, "22023");
  }));
