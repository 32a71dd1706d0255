import assert from "node:assert/strict";
import { concatBytes, decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { RangeReply, WatchCreate, WatchReply, WatchRequest } from "../../etcd/api.ts";
import { prefixRange, toEtcd } from "../../etcd/keyrange.ts";
import { Method } from "../../ipc/frame.ts";
import { Deadline } from "../deadline.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { compact, errorFrom, put } from "../testing_requests.ts";
import { REAL } from "../testing_runtime.ts";
import { Cluster } from "./cluster.ts";
import { BATCH_REVISIONS, History } from "./history.ts";
import { pastEvents } from "./streams.ts";
import type { Channel } from "./transport.ts";

const RANGE = { key: encodeUtf8("/p/"), range_end: encodeUtf8("/p0") };

/**
 * An etcd by the rules that the machine relies on: watches that are behind are served in rounds, in an order that `order`
 * makes of theirs, each by a part of BATCH_REVISIONS revisions at most. Revisions from 2 on have one event each.
 */
class Rounds {
  readonly #inRange: (revision: number) => boolean;
  readonly #now: number;
  readonly #compacted: number;
  readonly #mayAll: boolean;
  readonly #behind: { id: number; all: boolean; from: number }[] = [];
  #last = 0;

  constructor(now: number, inRange: (revision: number) => boolean, { compacted = 0, mayAll = true } = {}) {
    this.#now = now;
    this.#inRange = inRange;
    this.#compacted = compacted;
    this.#mayAll = mayAll;
  }

  /** Answers to the creation of a watch. */
  create(message: Uint8Array): Uint8Array[] {
    const { key, start_revision } = WatchRequest.decode(message).create_request!;
    const all = key.length === 1;
    const id = this.#last++;
    if (all && !this.#mayAll) {
      return [WatchReply.encode({ watch_id: "-1", created: true, canceled: true })];
    }
    this.#behind.push({ id, all, from: Number(start_revision) });
    return [WatchReply.encode({ watch_id: String(id), created: true })];
  }

  round(order: <T>(watches: T[]) => T[]): Uint8Array[] {
    const replies: Uint8Array[] = [];
    for (const watch of order([...this.#behind])) {
      const over = () => this.#behind.splice(this.#behind.indexOf(watch), 1);
      const watch_id = String(watch.id);
      if (watch.from < this.#compacted) {
        replies.push(
          WatchReply.encode({ watch_id, canceled: true, compact_revision: String(this.#compacted) }),
        );
        over();
        continue;
      }
      const revisions: number[] = [];
      for (let at = Math.max(watch.from, 2); at <= this.#now && revisions.length <= BATCH_REVISIONS; at++) {
        if (watch.all || this.#inRange(at)) revisions.push(at);
      }
      if (revisions.length > BATCH_REVISIONS) watch.from = revisions.pop()!;
      else over();
      if (revisions.length === 0) continue;
      const events = revisions.map((at) => ({ type: 0, kv: { key: RANGE.key, mod_revision: String(at) } }));
      replies.push(WatchReply.encode({ watch_id, header: { revision: String(this.#now) }, events }));
    }
    return replies;
  }
}

/** What the machine says to a reply. */
function heard(history: History, reply: Uint8Array): Uint8Array[] {
  for (const work = history.hear(reply);;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

/** Lets the machine read from this etcd: revisions it has found, and how many rounds it took. */
function read(etcd: Rounds, start: number, now: number, seed: number) {
  const history = new History(RANGE, BigInt(start), BigInt(now));
  const queue: Uint8Array[] = history.state === "READING" ? history.begin() : [];
  let random = seed;
  const order = <T>(watches: T[]) =>
    watches.map((watch) => ({ watch, at: random = random * 48271 % 2147483647 }))
      .sort((a, b) => a.at - b.at).map(({ watch }) => watch);
  let rounds = 0;
  const hear = (replies: Uint8Array[]) => {
    // Replies that are on the stream already are heard before anything is sent for them.
    for (const reply of replies) if (history.state === "READING") queue.push(...heard(history, reply));
  };
  for (; history.state === "READING" && rounds < 200; rounds++) {
    while (queue.length > 0) hear(etcd.create(queue.shift()!));
    hear(etcd.round(order));
    while (queue.length > 0) hear(etcd.create(queue.shift()!));
    queue.push(...history.tick());
  }
  const { events } = WatchReply.decode(concatBytes(...history.events));
  return { history, found: events.map(({ kv }) => Number(kv!.mod_revision)), rounds };
}

Deno.test("History: it is complete whatever the order within the rounds, for users with few rights too", () => {
  const now = 6_500;
  const wholes: [string, (revision: number) => boolean, number][] = [
    ["all", () => true, 10],
    ["every second", (at) => at % 2 === 0, 10],
    ["one", (at) => at === 40, 10],
    ["none", () => false, 16],
    ["a full part", (at) => at <= 1 + BATCH_REVISIONS, 10],
    ["two full parts", (at) => at <= 1 + 2 * BATCH_REVISIONS, 10],
    ["a full part and one", (at) => at <= 2 + BATCH_REVISIONS, 10],
    ["the last one", (at) => at === now, 10],
  ];
  for (const [name, inRange, most] of wholes) {
    for (const options of [{}, { mayAll: false }, { compacted: 100 }, { compacted: 100, mayAll: false }]) {
      for (const start of [Math.max(options.compacted ?? 1, 1), 3_000, now, now + 1]) {
        const expected = Array.from({ length: now + 1 }, (_, at) => at)
          .filter((at) => at >= 2 && at >= start && inRange(at));
        for (let seed = 1; seed <= 5; seed++) {
          const { history, found, rounds } = read(new Rounds(now, inRange, options), start, now, seed);
          const label = `${name} from ${start} with ${JSON.stringify(options)}, seed ${seed}`;
          assert.equal(history.state, "COMPLETE", label);
          assert.deepEqual(found, expected, label);
          assert.ok(rounds <= most, `${label}: ${rounds} rounds`);
        }
      }
    }
  }
});

Deno.test("History: a compaction and a refusal are told", () => {
  const compacted = read(new Rounds(500, () => true, { compacted: 100 }), 50, 500, 1).history;
  assert.deepEqual([compacted.state, compacted.compacted], ["COMPACTED", "100"]);
  const history = new History(RANGE, 2n, 9n);
  history.begin();
  heard(history, WatchReply.encode({ watch_id: "-1", created: true, canceled: true }));
  assert.equal(history.state, "REFUSED");
});

Deno.test("History: as long as etcd acknowledges nothing, no silence counts", () => {
  const history = new History(RANGE, 2n, 9n);
  history.begin();
  for (let i = 0; i < 1_000; i++) assert.deepEqual(history.tick(), []);
  assert.equal(history.state, "READING");
});

Deno.test("pastEvents: very many events in one reply leave others their turn", async () => {
  const events = Array.from({ length: 200_000 }, (_, i) => {
    const revision = String(2 + Math.floor(i / 50_000));
    const revisions = { create_revision: revision, mod_revision: revision, version: "1" };
    return { type: i % 10 === 0 ? 1 : 0, kv: { key: encodeUtf8(`/p/${i}`), value: RANGE.key, ...revisions } };
  });
  const large = WatchReply.encode({ watch_id: "0", header: { revision: "9" }, events });
  const channel = {
    call: () => Promise.resolve({ reply: RangeReply.encode({ header: { revision: "9" } }) }),
    async converse(_path, _payloads, _options, heard) {
      const say = () => {};
      await heard(WatchReply.encode({ watch_id: "0", created: true }), say);
      assert.equal(await heard(large, say), true);
      return { reply: large };
    },
  } as Partial<Channel> as Channel;
  let longest = 0;
  let over = false;
  const others = (async () => {
    for (let last = performance.now(); !over;) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }
  })();
  const options = { login: { token: null }, deadline: Deadline.after(REAL, 60_000) };
  const { reply } = await pastEvents(
    REAL,
    channel,
    WatchCreate.encode({ ...RANGE, start_revision: "2" }),
    options,
  );
  over = true;
  await others;
  assert.ok(longest < 100, `${longest} ms`);
  const told = WatchReply.decode(reply!);
  assert.deepEqual([told.header!.revision, told.canceled], ["9", false]);
  assert.deepEqual(told.events, WatchReply.decode(large).events);
});

Deno.test("pastEvents: all versions, by a user with rights on one prefix, beside one who may see everything", async (t) => {
  const etcd = await TestEtcd.start();
  const open = (username?: string, password?: string) =>
    new Cluster({ runtime: REAL, endpoints: [etcd.endpoint], username, password, log: () => {} });
  const plain = open();
  const terms = (ms = 20_000) => ({ connect: 3_000, deadline: Deadline.after(REAL, ms) });
  const write = (key: string, value: string) => plain.call(Method.PUT, put(key, value), terms());
  const many = async (prefix: string, count: number) => {
    for (let at = 0; at < count; at += 100) {
      await Promise.all(
        Array.from({ length: Math.min(100, count - at) }, (_, i) => write(`${prefix}${i}`, `${at}`)),
      );
    }
  };
  const all: Cluster[] = [plain];
  try {
    await many("/other/", 50);
    await many("/app/busy/", 25_000);
    await many("/app/full/", BATCH_REVISIONS);
    await many("/app/few/", 3);
    await etcd.ctl("del", "/app/few/1");
    await many("/other/", 50);
    await etcd.ctl("user", "add", "root:r");
    await etcd.ctl("user", "grant-role", "root", "root");
    await etcd.ctl("user", "add", "app:a");
    await etcd.ctl("role", "add", "app");
    await etcd.ctl("role", "grant-permission", "app", "read", "/app/", "--prefix");
    await etcd.ctl("user", "grant-role", "app", "app");
    await etcd.ctl("auth", "enable");
    all.push(open("root", "r"), open("app", "a"));
    const [, root, app] = all;
    const events = async (cluster: Cluster, prefix: string, start = "1", ms?: number) => {
      const { key, rangeEnd } = toEtcd(prefixRange(encodeUtf8(prefix)));
      const request = WatchCreate.encode({ key, range_end: rangeEnd!, start_revision: start });
      const reply = await cluster.stream(
        (channel, options) => pastEvents(REAL, channel, request, options),
        terms(ms),
      );
      return WatchReply.decode(reply);
    };
    for (const [who, cluster] of [["root", root], ["app", app]] as const) {
      await t.step(`${who}: 25,000 versions, a full part, a few with a deletion, none`, async () => {
        const busy = await events(cluster, "/app/busy/");
        assert.equal(busy.events.length, 25_000);
        assert.equal(new Set(busy.events.map(({ kv }) => kv!.mod_revision)).size, 25_000);
        assert.equal((await events(cluster, "/app/full/")).events.length, BATCH_REVISIONS);
        const few = (await events(cluster, "/app/few/")).events;
        const shown = few.map(({ type, kv }) => `${decodeUtf8(kv!.key)} ${type}`);
        // The puts went out side by side.
        assert.deepEqual(shown.slice(0, 3).sort(), ["/app/few/0 0", "/app/few/1 0", "/app/few/2 0"]);
        assert.deepEqual(shown.slice(3), ["/app/few/1 1"]);
        assert.deepEqual((await events(cluster, "/app/none/")).events, []);
        const last = busy.header!.revision;
        assert.deepEqual((await events(cluster, "/app/busy/", last)).events, []);
      });
    }
    await t.step("what may not be read is an error, and so is too little time", async () => {
      assert.equal((await errorFrom(events(app, "/other/"))).sqlstate, "42501");
      assert.equal((await errorFrom(events(app, "/app/busy/", "1", 150))).sqlstate, "08006");
    });
    await t.step("after a compaction, from the oldest revision on", async () => {
      const { header } = await events(root, "/app/few/");
      await root.call(Method.COMPACT, compact(header!.revision), terms());
      for (const cluster of [root, app]) {
        assert.equal((await events(cluster, "/app/few/")).compact_revision, header!.revision);
        const open = await events(cluster, "/app/few/", "0");
        assert.deepEqual([open.canceled, open.compact_revision, open.events.length], [
          false,
          header!.revision,
          0,
        ]);
      }
    });
  } finally {
    for (const cluster of all) cluster.close();
    await etcd.stop();
  }
});
