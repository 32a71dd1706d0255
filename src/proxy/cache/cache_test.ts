// A cache beside the etcd that it holds a range of. Whatever it answers is compared with what etcd has at the revision that
// the answer tells, and that revision with what had been written when the read began.

import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../../base/bytes.ts";
import { prefixRange, toEtcd } from "../../etcd/keyrange.ts";
import { encodeRangeRequest, type RangeRequest } from "../../etcd/messages.ts";
import { answerHeader, decodeRangeResponse, type RangeResponse } from "../../etcd/ranges.ts";
import { decodeWatchedPage, encodeWatchedPage } from "../../etcd/watch.ts";
import { Method } from "../../ipc/frame.ts";
import { Deadline } from "../deadline.ts";
import { Cluster } from "../etcd/cluster.ts";
import { Budget } from "../memory.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { TestMembers } from "../testing_members.ts";
import { compact, errorFrom, put } from "../testing_requests.ts";
import { atOnce, REAL } from "../testing_runtime.ts";
import { Hub } from "../watch/hub.ts";
import { type Asked, Cache } from "./cache.ts";

const MB = 1024 * 1024;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what: string, holds: () => boolean | Promise<boolean>, ms = 8_000): Promise<void> {
  const end = Date.now() + ms;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await pause(10);
  }
}

class World {
  readonly etcd: Pick<TestEtcd, "signal" | "kill" | "restart">;
  readonly cluster: Cluster;
  readonly hub: Hub;
  readonly budget: Budget;
  readonly cache: Cache;
  readonly log: string[] = [];
  readonly #running: Promise<void>;
  /** Takes events away as if etcd had not told them. */
  loses = (_key: string) => false;
  /** What the watch tells comes so much later, in milliseconds. */
  delay = () => 0;

  constructor(
    etcd: TestEtcd | TestMembers,
    { prefix = "/c/", bytes = 64 * MB, user = {} } = {},
  ) {
    const isOne = etcd instanceof TestEtcd;
    const none = () => Promise.reject(new Error("several members"));
    this.etcd = isOne ? etcd : { signal: none, kill: none, restart: none };
    const endpoints = isOne ? [etcd.endpoint] : etcd.endpoints;
    this.cluster = new Cluster({ runtime: REAL, endpoints, log: () => {}, ...user });
    this.hub = new Hub(REAL, this.cluster, new Budget(64 * MB));
    this.budget = new Budget(bytes);
    const hub = {
      read: async (...what: Parameters<Hub["read"]>) => {
        const page = atOnce(decodeWatchedPage(await this.hub.read(...what)));
        if (this.delay() > 0) await pause(this.delay());
        const events = page.events.filter(({ raw }) => !this.loses(toHex(raw)));
        return atOnce(encodeWatchedPage({ ...page, events }));
      },
    };
    const world = { runtime: REAL, cluster: this.cluster, hub, budget: this.budget, makeRoom: () => {} };
    this.cache = new Cache(
      { ...world, log: (text) => this.log.push(text) },
      prefixRange(encodeUtf8(prefix)),
    );
    this.#running = this.cache.run();
  }

  terms = () => ({ connect: 3_000, deadline: Deadline.after(REAL, 10_000) });

  /** Writes; the revision. */
  async put(key: string, value = ""): Promise<bigint> {
    const reply = await this.cluster.call(Method.PUT, put(key, value), this.terms());
    return answerHeader(reply).revision;
  }

  async delete(key: string): Promise<bigint> {
    const request = encodeRangeRequest({ key: encodeUtf8(key), rangeEnd: null });
    return answerHeader(await this.cluster.call(Method.DELETE_RANGE, request, this.terms())).revision;
  }

  range = (more: Partial<RangeRequest> = {}): RangeRequest => ({ ...toEtcd(this.cache.range), ...more });

  async fromEtcd(request: RangeRequest): Promise<RangeResponse> {
    return decodeRangeResponse(
      await this.cluster.call(Method.RANGE, encodeRangeRequest(request), this.terms()),
    );
  }

  async ask(request: RangeRequest, more: Partial<Asked> = {}): Promise<RangeResponse | null> {
    const deadline = Deadline.after(REAL, 5_000);
    const asked = { requests: [request], isTxn: false, floor: 0n, maxStaleness: 0, deadline, ...more };
    const answer = await this.cache.read(asked);
    return answer && decodeRangeResponse(answer.reply);
  }

  /** Asks, and compares with etcd; the revision, or null when etcd was to be asked. */
  async check(request: RangeRequest, what: string, more: Partial<Asked> = {}): Promise<bigint | null> {
    const own = await this.ask(request, more);
    if (own === null) return null;
    const theirs = await this.fromEtcd({ ...request, serializable: false, revision: String(own.revision) });
    const text = (
      { rows, count, more }: RangeResponse,
    ) => [...rows.map(({ raw }) => toHex(raw)), count, more];
    assert.deepEqual(text(own), text(theirs), `${what}, at revision ${own.revision}`);
    return own.revision;
  }

  async live(): Promise<void> {
    await until("LIVE", () => this.cache.state === "LIVE");
  }

  async close(): Promise<void> {
    this.cache.close();
    await this.#running;
    this.hub.close();
    this.cluster.close();
    assert.equal(this.budget.used, 0);
  }
}

async function world(
  work: (world: World) => Promise<void>,
  { keys = 20, ...options }: { keys?: number; bytes?: number } = {},
): Promise<void> {
  const etcd = await TestEtcd.start();
  const first = new Cluster({ runtime: REAL, endpoints: [etcd.endpoint], log: () => {} });
  try {
    for (let i = 0; i < keys; i++) {
      const terms = { connect: 3_000, deadline: Deadline.after(REAL, 10_000) };
      await first.call(Method.PUT, put(`/c/${String(i).padStart(5, "0")}`, `v${i}`), terms);
    }
    const one = new World(etcd, options);
    try {
      await work(one);
    } finally {
      await one.close();
    }
  } finally {
    first.close();
    await etcd.stop();
  }
}

/** Whether so much time has not passed yet; on a slow machine, not before enough has been done. */
function atLeast(ms: number, enough: () => boolean): () => boolean {
  const began = Date.now();
  return () => Date.now() < began + ms || !enough() && Date.now() < began + 20_000;
}

/** Writers and readers at the same time. How many reads were answered. */
async function race(w: World, keys: number, elsewhere: boolean): Promise<number> {
  const goesOn = atLeast(1_500, () => hits > 20);
  let acknowledged = 0n;
  let hits = 0;
  let steps = 0;
  const key = () => `/c/${String(Math.floor(Math.random() * keys)).padStart(5, "0")}`;
  const writer = async () => {
    while (goesOn()) {
      const kind = Math.random();
      const revision = elsewhere && kind < 0.6
        ? await w.put(`/o/${steps++ % 10}`, "x")
        : kind < 0.85
        ? await w.put(key(), `w${steps++}`)
        : await w.delete(key());
      if (revision > acknowledged) acknowledged = revision;
      await pause(Math.random() * 4);
    }
  };
  const reader = async () => {
    while (goesOn()) {
      const before = acknowledged;
      const request = Math.random() < 0.5
        ? w.range()
        : Math.random() < 0.5
        ? { key: encodeUtf8(key()), rangeEnd: null }
        : w.range({ countOnly: true });
      const revision = await w.check(request, "linearizable");
      if (revision === null) {
        await pause(2);
        continue;
      }
      hits++;
      assert.ok(revision >= before, `${revision} was read, ${before} had been written`);
      if (Math.random() < 0.3) await pause(Math.random() * 50);
      // What was read once is answered again as it was, or by etcd.
      const again = await w.check(w.range({ revision: String(revision) }), "named");
      assert.ok(again === null || again === revision);
    }
  };
  const stale = async () => {
    while (goesOn()) {
      const floor = await w.put(key(), `own${steps++}`);
      const revision = await w.check(w.range({ serializable: true }), "serializable", { floor });
      assert.ok(revision === null || revision >= floor, `${revision} was read, the own write is ${floor}`);
      await pause(5);
    }
  };
  await Promise.all([writer(), writer(), reader(), reader(), reader(), reader(), stale()]);
  return hits;
}

Deno.test("Cache: linearizable while others write to its range and elsewhere", () =>
  world(async (w) => {
    await w.live();
    const inside = await race(w, 30, false);
    const beside = await race(w, 30, true);
    assert.ok(inside > 20 && beside > 20, `${inside} and ${beside} reads were answered`);
    assert.equal(w.cache.counts.repairs, 0, w.log.join("\n"));
    await w.cache.verify();
    assert.equal(w.cache.counts.verifications, 1);
  }));

Deno.test("Cache: the same while the watch is slow to tell, and keys come and go", () =>
  world(async (w) => {
    await w.live();
    w.delay = () => Math.random() * 60;
    let isOver = false;
    const writer = async () => {
      for (let i = 0; !isOver; i++) {
        await w.put("/c/comes", `${i}`);
        await w.delete("/c/comes");
        for (let n = 0; n < 3; n++) await w.put("/o/1", `${i}`);
        await w.delete(`/c/${String(i % 20).padStart(5, "0")}`);
        for (let n = 0; n < 3; n++) await w.put("/o/1", `${i}`);
        await w.put(`/c/${String((i + 10) % 20).padStart(5, "0")}`, `${i}`);
        await pause(30);
      }
    };
    const writing = writer();
    const proven: bigint[] = [];
    for (const goesOn = atLeast(2_500, () => proven.length > 10); goesOn();) {
      const revision = await w.check(w.range(), "behind a slow watch");
      if (revision !== null) proven.push(revision);
      const stale = w.range({ serializable: true });
      const bounded = await w.check(stale, "bounded", { maxStaleness: 60_000 });
      const known = proven.at(-1) ?? 0n;
      assert.ok(bounded === null || bounded >= known, `${bounded} was read, ${known} had been`);
      // Also at those revisions that nobody has proven.
      for (const at of proven.slice(-3).flatMap((one) => [one, one - 1n, one - 2n])) {
        await w.check(w.range({ revision: String(at) }), "near what was proven");
      }
    }
    isOver = true;
    await writing;
    assert.ok(proven.length > 10, `${proven.length} reads were answered`);
    assert.equal(w.cache.counts.repairs, 0, w.log.join("\n"));
  }));

Deno.test("Cache: the same for a range that is too large to be looked at for each read", () =>
  world(async (w) => {
    await w.live();
    const inside = await race(w, 1_300, false);
    assert.ok(inside > 20, `${inside} reads were answered`);
    // Nothing comes any more but elsewhere: the watch catches up.
    await w.put("/o/last");
    await until("an answer", async () => await w.check(w.range({ limit: 3 }), "large") !== null);
    assert.equal(w.cache.counts.repairs, 0, w.log.join("\n"));
    await w.cache.verify();
    assert.equal(w.cache.counts.verifications, 1);
  }, { keys: 1_200 }));

Deno.test("Cache: 's' answers at once, as new as its bound and the session's own writes ask for", () =>
  world(async (w) => {
    await w.live();
    const stale = w.range({ serializable: true });
    const first = await w.check(stale, "at once");
    assert.ok(first !== null);
    // What etcd does not answer, it does not wait for.
    w.etcd.signal("SIGSTOP");
    try {
      const began = Date.now();
      const [old, bounded, own] = [
        await w.ask(stale),
        await w.ask(stale, { maxStaleness: 60_000 }),
        await w.ask(stale, { floor: first + 1n, deadline: Deadline.after(REAL, 300) }),
      ];
      assert.ok(Date.now() - began < 2_000);
      assert.equal(old?.revision, first);
      assert.equal(bounded?.revision, first);
      assert.equal(own, null, "nothing that is older than what the session has written");
      await pause(60);
      assert.equal(await w.ask(stale, { maxStaleness: 50, deadline: Deadline.after(REAL, 300) }), null);
      assert.equal(await w.ask(stale, { floor: null, deadline: Deadline.after(REAL, 300) }), null);
    } finally {
      w.etcd.signal("SIGCONT");
    }
    await w.live();
    const elsewhere = await w.put("/o/1");
    await until("a bounded answer", async () => {
      const answer = await w.ask(stale, { maxStaleness: 1 });
      return answer !== null && answer.revision >= elsewhere;
    });
  }));

Deno.test("Cache: 's' of a large range is as new as the watch has shown it to be when it caught up", () =>
  world(async (w) => {
    await w.live();
    const stale = w.range({ serializable: true, limit: 3 });
    await pause(3_000);
    await w.put("/o/1");
    await w.ask(stale, { maxStaleness: 1 });
    await pause(600);
    w.etcd.signal("SIGSTOP");
    try {
      const deadline = Deadline.after(REAL, 300);
      assert.ok(await w.ask(stale, { maxStaleness: 2_500, deadline }) !== null);
    } finally {
      w.etcd.signal("SIGCONT");
    }
  }, { keys: 1_200 }));

Deno.test("Cache: what lies beyond the range is etcd's to answer", () =>
  world(async (w) => {
    await w.live();
    const beyond: Partial<RangeRequest>[] = [
      { key: encodeUtf8("/b") },
      { rangeEnd: encodeUtf8("/d") },
      { rangeEnd: Uint8Array.of(0) },
      { key: encodeUtf8("/d"), rangeEnd: null },
    ];
    for (const more of beyond) assert.equal(await w.ask(w.range(more)), null);
    assert.ok(await w.check(w.range({ key: encodeUtf8("/c/00003") }), "within") !== null);
  }));

Deno.test("Cache: a cancelled read ends at once", () =>
  world(async (w) => {
    await w.live();
    w.etcd.signal("SIGSTOP");
    try {
      const cancel = new AbortController();
      const gone = errorFrom(w.ask(w.range(), { signal: cancel.signal }));
      await pause(20);
      const began = Date.now();
      cancel.abort();
      assert.equal((await gone).sqlstate, "57014");
      assert.ok(Date.now() - began < 100);
    } finally {
      w.etcd.signal("SIGCONT");
    }
  }));

Deno.test("Cache: an event that was lost is noticed by those that follow, or by a comparison, and repaired", () =>
  world(async (w) => {
    await w.live();
    const lost = toHex(encodeUtf8("lost"));
    w.loses = (event) => event.includes(lost);
    await w.put("/c/00003", "lost");
    await w.put("/c/00004", "seen");
    await pause(100);
    assert.equal(w.cache.counts.repairs, 0);
    await w.put("/c/00003", "next");
    await until("the repair", () => w.cache.counts.repairs === 1);
    assert.match(w.log.join("\n"), /version 3 of key "\/c\/00003".* follows no event/);
    await w.live();
    await w.put("/c/00005", "lost");
    await w.put("/c/00006", "seen");
    await until(
      "the event",
      async () => (await w.ask(w.range({ serializable: true })))!.rows[6].version === 2n,
    );
    await w.cache.verify();
    assert.equal(w.cache.counts.repairs, 2);
    assert.match(w.log.at(-1)!, /holds key "\/c\/00005" as of revision/);
    await w.live();
    for (const [key, what] of [["/c/0lost", "lacks key"], ["/c/00007", "holds key"]]) {
      const hex = toHex(encodeUtf8(key));
      w.loses = (event) => event.includes(hex);
      await (what === "lacks key" ? w.put(key) : w.delete(key));
      const seen = await w.put("/c/00008", what);
      await until("the event", async () => (await w.ask(w.range({ serializable: true })))!.revision >= seen);
      const before: number = w.cache.counts.repairs;
      await w.cache.verify();
      assert.equal(w.cache.counts.repairs, before + 1, what);
      assert.match(w.log.at(-1)!, new RegExp(what));
      await w.live();
    }
    w.loses = () => false;
    assert.ok(await w.check(w.range(), "repaired") !== null);
  }));

Deno.test("Cache: compaction, and an etcd that is gone for a while", () =>
  world(async (w) => {
    await w.live();
    for (let i = 0; i < 50; i++) await w.put("/c/00001", `${i}`);
    await w.cluster.call(Method.COMPACT, compact(String(await w.put("/o/x"))), w.terms());
    await until("an answer", async () => await w.check(w.range(), "compacted") !== null);
    await w.etcd.kill();
    await pause(200);
    const began = Date.now();
    assert.equal(await w.ask(w.range(), { deadline: Deadline.after(REAL, 500) }), null);
    assert.ok(Date.now() - began < 2_000);
    await w.etcd.restart();
    const revision = await w.put("/c/00002", "later");
    await until("an answer", async () => (await w.check(w.range(), "restarted") ?? 0n) >= revision, 20_000);
  }));

Deno.test("Cache: what does not fit is not held", () =>
  world(async (w) => {
    await until("no room", () => w.cache.state === "WAITING");
    assert.equal(w.budget.used, 0);
    assert.equal(await w.ask(w.range()), null);
  }, { bytes: 1_000 }));

Deno.test("Cache: what grows beyond its room is dropped", () =>
  world(async (w) => {
    await w.live();
    for (let i = 0; i < 12; i++) await w.put(`/c/grown${i}`, "v".repeat(10_000)).catch(() => {});
    await until("no room", () => w.cache.state === "WAITING");
    assert.equal(w.budget.used, 0);
    assert.deepEqual(w.log, []);
  }, { bytes: 100_000 }));

Deno.test("Cache: a user who may not read all of it any more is answered by etcd", async () => {
  const etcd = await TestEtcd.start();
  for (
    const args of [
      ["user", "add", "root:r"],
      ["user", "grant-role", "root", "root"],
      ["user", "add", "app:a"],
      ["role", "add", "app"],
      ["role", "grant-permission", "app", "read", "/c/", "--prefix=true"],
      ["user", "grant-role", "app", "app"],
      ["put", "/c/1", "x"],
      ["auth", "enable"],
    ]
  ) await etcd.ctl(...args);
  const user = { username: "app", password: "a" };
  const [allowed, refused] = [new World(etcd, { user }), new World(etcd, { user, prefix: "/" })];
  try {
    await allowed.live();
    assert.ok(await allowed.check(allowed.range(), "allowed") !== null);
    await until("the refusal", () => refused.cache.state === "WAITING");
    assert.equal(await refused.ask(refused.range()), null);
    await etcd.ctl("--user", "root:r", "role", "revoke-permission", "app", "/c/", "--prefix=true");
    assert.equal(await allowed.ask(allowed.range()), null);
    await until("the refusal", () => allowed.cache.state === "WAITING");
    assert.equal(await allowed.ask(allowed.range({ serializable: true })), null);
  } finally {
    await allowed.close();
    await refused.close();
    await etcd.stop();
  }
});

Deno.test("Cache: linearizable while members are cut off from their cluster", async () => {
  const members = await TestMembers.start();
  const [w, writer] = [new World(members), new World(members, { prefix: "/none/" })];
  let acknowledged = 0n;
  let isOver = false;
  let hits = 0;
  const write = async () => {
    for (let i = 0; !isOver; i++) {
      const key = `/c/${i % 12}`;
      const written = i % 5 === 4 ? writer.delete(key) : writer.put(i % 3 === 0 ? `/o/${key}` : key, `${i}`);
      // What was not told may have been written all the same.
      const revision = await written.catch(() => 0n);
      if (revision > acknowledged) acknowledged = revision;
      await pause(3);
    }
  };
  const text = ({ rows, count }: RangeResponse) => [...rows.map(({ raw }) => toHex(raw)), count];
  const read = async () => {
    while (!isOver) {
      const before = acknowledged;
      const own = await w.ask(w.range());
      if (own === null) {
        await pause(5);
        continue;
      }
      assert.ok(own.revision >= before, `${own.revision} was read, ${before} had been written`);
      hits++;
      const named = w.range({ revision: String(own.revision) });
      for (let theirs: RangeResponse | null = null; theirs === null && !isOver;) {
        theirs = await writer.fromEtcd(named).catch(() => null);
        if (theirs !== null) assert.deepEqual(text(own), text(theirs), `at revision ${own.revision}`);
      }
    }
  };
  try {
    const all = Promise.all([write(), write(), read(), read(), read()]);
    for (let i = 0; i < 4; i++) {
      await Promise.race([all, pause(1_000)]);
      members.cut(i % 3);
      await Promise.race([all, pause(1_500)]);
      members.mend();
    }
    const before = hits;
    await until("an answer", () => hits > before, 30_000);
    isOver = true;
    await all;
    assert.equal(w.cache.counts.repairs, 0, w.log.join("\n"));
    assert.ok(hits > 20, `${hits} reads were answered`);
  } finally {
    isOver = true;
    await w.close();
    await writer.close();
    await members.stop();
  }
});
