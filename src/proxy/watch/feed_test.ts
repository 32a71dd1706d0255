import assert from "node:assert/strict";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { encodeUtf8 } from "../../base/bytes.ts";
import { WatchReply, WatchRequest } from "../../etcd/api.ts";
import { Feed } from "./feed.ts";
import { BATCH_REVISIONS } from "./proof.ts";

/** Where a member stands that has nothing. */
const AT = { cluster: 1n, revision: 0n, term: 1n };

const WATCHED = { key: encodeUtf8("/p/"), rangeEnd: encodeUtf8("/p0"), prev: false };

const response = (revisions: number[], fragment = false, { watch_id = "0", revision = "1000000" } = {}) => {
  const events = revisions.map((at) => ({ type: 0, kv: { key: encodeUtf8("k"), mod_revision: String(at) } }));
  const bytes = WatchReply.encode({ header: { revision }, watch_id, events });
  return fragment ? new BinaryWriter().raw(bytes).uint32(7 << 3).bool(true).finish() : bytes;
};

/** A feed on a stream that was just opened, with nothing to prove. */
const opened = (after = 0n) => {
  const feed = new Feed(WATCHED, after);
  reopen(feed);
  return feed;
};

const reopen = (feed: Feed) => {
  const [message] = feed.open({ ...AT, revision: feed.complete });
  hear(feed, WatchReply.encode({ created: true }));
  return startOf(message);
};

/** What the feed says to a response. */
const hear = (feed: Feed, message: Uint8Array) => {
  const hearing = feed.hear(message);
  for (;;) {
    const { done, value } = hearing.next();
    if (done) return value;
  }
};

/** Whether something new has come. */
const hears = (feed: Feed, message: Uint8Array) => {
  const before = feed.complete;
  hear(feed, message);
  return feed.complete > before;
};

const revisionsOf = ({ events }: { events: { revision: bigint }[] }) =>
  events.map(({ revision }) => Number(revision));
const all = (feed: Feed, after: bigint) => revisionsOf(feed.part(after, 1e9, 1e9));

const startOf = (message: Uint8Array) => WatchRequest.decode(message).create_request!.start_revision;

Deno.test("Feed: a stream that is opened again goes on behind what is complete", () => {
  const feed = opened(4n);
  assert.equal(feed.state, "LIVE");
  assert.ok(hears(feed, response([6, 6, 8])));
  assert.ok(!hears(feed, response([9], true)), "a fragment counts when its last one is there");
  assert.deepEqual(all(feed, 4n), [6, 6, 8]);
  assert.equal(reopen(feed), "9");
  // What had come of the fragments is told again.
  assert.ok(!hears(feed, response([9], true)));
  assert.ok(hears(feed, response([9, 10])));
  assert.deepEqual(all(feed, 8n), [9, 9, 10]);
});

Deno.test("Feed: of fragments, what is whole counts at once", () => {
  const feed = opened();
  assert.ok(hears(feed, response([1, 2, 3, 3], true)));
  assert.deepEqual([all(feed, 0n), feed.complete], [[1, 2], 2n]);
  assert.ok(!hears(feed, response([3, 3], true)));
  assert.ok(hears(feed, response([3, 4])));
  assert.deepEqual(all(feed, 0n), [1, 2, 3, 3, 3, 3, 3, 4]);
  assert.ok(!feed.behind);
  hear(feed, response(Array.from({ length: 600 }, (_, i) => i + 5), true));
  hear(feed, response(Array.from({ length: 400 }, (_, i) => i + 605)));
  assert.ok(feed.behind, "a full part in two fragments");
});

Deno.test("Feed: what was told before, and what is older than asked for, is dropped", () => {
  const feed = opened(5n);
  assert.ok(!hears(feed, response([3, 5])), "older than asked for");
  assert.ok(hears(feed, response([7])));
  assert.ok(!hears(feed, response([6, 7])), "a watch that travels back in time");
  assert.ok(hears(feed, response([7, 8])));
  assert.ok(hears(feed, response([10, 9, 11])), "out of order within a response");
  assert.deepEqual(all(feed, 5n), [7, 8, 10, 11]);
});

Deno.test("Feed: a part has whole revisions, and says up to where it is complete", () => {
  const feed = opened();
  hear(feed, response([1, 2, 2, 2, 5]));
  assert.deepEqual(feed.part(0n, 2, 1e9).revision, 2n);
  assert.deepEqual(revisionsOf(feed.part(0n, 2, 1e9)), [1, 2, 2, 2]);
  assert.deepEqual(revisionsOf(feed.part(0n, 1, 1e9)), [1]);
  assert.deepEqual(revisionsOf(feed.part(0n, 100, 1)), [1]);
  assert.deepEqual(feed.part(2n, 100, 1e9).revision, 5n);
  assert.deepEqual(feed.part(7n, 100, 1e9), { events: [], revision: 7n });
  assert.equal(feed.available(2n).count, 1);
});

Deno.test("Feed: a compaction and a refusal are told apart", () => {
  const compacted = opened();
  hear(compacted, WatchReply.encode({ canceled: true, compact_revision: "7" }));
  assert.deepEqual([compacted.state, compacted.compacted], ["COMPACTED", 7n]);
  const refused = new Feed(WATCHED, 0n);
  refused.open(AT);
  hear(refused, WatchReply.encode({ created: true, canceled: true, cancel_reason: "no" }));
  assert.deepEqual([refused.state, refused.reason], ["REFUSED", "no"]);
});

Deno.test("Feed: a feed on its way through the past is none for readers ahead of it", () => {
  const feed = opened();
  assert.ok(feed.holds(50_000n));
  hear(feed, response(Array.from({ length: 1000 }, (_, i) => i + 1)));
  assert.ok(feed.behind && feed.holds(1000n) && !feed.holds(1001n));
  hear(feed, response([1001]));
  assert.ok(!feed.behind && feed.holds(5000n));
});

Deno.test("Feed: random responses, trims and readers beside a model", () => {
  for (let seed = 1; seed <= 200; seed++) {
    let random = seed;
    const next = (below: number) => (random = random * 48271 % 2147483647) % below;
    const feed = opened();
    const model: number[] = [];
    const readers = [0, 0, 0].map(() => ({ after: 0n, got: [] as number[] }));
    let last = 0;
    for (let turn = 0; turn < 60; turn++) {
      const batch: number[] = [];
      for (let i = next(5); i >= 0; i--) {
        batch.push(last += next(3) === 0 && batch.length > 0 ? 0 : 1 + next(3));
      }
      hear(feed, response(batch));
      model.push(...batch);
      if (next(4) === 0) feed.trim(next(3000), null);
      const reader = readers[next(readers.length)];
      if (!feed.holds(reader.after)) {
        // Fallen out of the window: it begins anew, elsewhere.
        reader.got = model.filter((at) => at <= Number(feed.floor));
        reader.after = feed.floor;
      }
      const part = feed.part(reader.after, 1 + next(6), 1 + next(2000));
      reader.got.push(...revisionsOf(part));
      reader.after = part.revision;
      assert.deepEqual(reader.got, model.filter((at) => at <= Number(reader.after)), `seed ${seed}`);
      const window = model.filter((at) => at > Number(feed.floor));
      assert.equal(feed.available(feed.floor).count, window.length);
      assert.equal(feed.available(feed.floor).bytes, feed.bytes);
    }
  }
});

Deno.test("Feed: a part goes no further than it is asked to", () => {
  const feed = opened();
  hear(feed, response([1, 2, 4]));
  assert.deepEqual(feed.part(0n, 9, 1e9, 3n), { ...feed.part(0n, 2, 1e9), revision: 3n });
  assert.equal(feed.part(0n, 9, 1e9, 4n).revision, 4n);
  assert.deepEqual(feed.part(3n, 9, 1e9, 3n), { events: [], revision: 3n });
});

/**
 * An etcd by the rules that the proof relies on: watches that are behind are served in rounds, in an order that `order`
 * makes of theirs, each by a part of BATCH_REVISIONS revisions at most, in fragments. Revisions from 2 on have an event each.
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

  /** Answers to a message. */
  take(message: Uint8Array): Uint8Array[] {
    const { create_request } = WatchRequest.decode(message);
    // cancel_request
    if (create_request === null) return [];
    const { key, start_revision } = create_request;
    const all = key.length === 1;
    const id = this.#last++;
    if (all && !this.#mayAll) return [WatchReply.encode({ watch_id: "-1", created: true, canceled: true })];
    this.#behind.push({ id, all, from: Number(start_revision) });
    return [WatchReply.encode({ watch_id: String(id), created: true })];
  }

  round(order: <T>(watches: T[]) => T[]): Uint8Array[] {
    const replies: Uint8Array[] = [];
    for (const watch of order([...this.#behind])) {
      const over = () => this.#behind.splice(this.#behind.indexOf(watch), 1);
      const watch_id = String(watch.id);
      if (watch.from < this.#compacted) {
        const compact_revision = String(this.#compacted);
        replies.push(WatchReply.encode({ watch_id, canceled: true, compact_revision }));
        over();
        continue;
      }
      const revisions: number[] = [];
      for (let at = Math.max(watch.from, 2); at <= this.#now && revisions.length <= BATCH_REVISIONS; at++) {
        if (watch.all || this.#inRange(at)) revisions.push(at);
      }
      if (revisions.length > BATCH_REVISIONS) watch.from = revisions.pop()!;
      else over();
      for (let at = 0; at < revisions.length; at += 300) {
        const part = revisions.slice(at, at + 300);
        replies.push(response(part, at + 300 < revisions.length, { watch_id, revision: String(this.#now) }));
      }
    }
    return replies;
  }
}

/** Lets a feed read from this etcd until it is certain of what it has; how many rounds that took. */
function read(etcd: Rounds, after: number, now: number, seed: number) {
  const feed = new Feed(WATCHED, BigInt(after));
  const queue: Uint8Array[] = feed.open({ ...AT, revision: BigInt(now) });
  let random = seed;
  const order = <T>(watches: T[]) =>
    watches.map((watch) => ({ watch, at: random = random * 48271 % 2147483647 }))
      .sort((a, b) => a.at - b.at).map(({ watch }) => watch);
  let rounds = 0;
  const hearAll = (replies: Uint8Array[]) => {
    for (const reply of replies) queue.push(...hear(feed, reply));
  };
  const isOver = () => feed.state === "COMPACTED" || feed.state === "LIVE" && !feed.isProving;
  for (; !isOver() && rounds < 200; rounds++) {
    while (queue.length > 0) hearAll(etcd.take(queue.shift()!));
    hearAll(etcd.round(order));
    while (queue.length > 0) hearAll(etcd.take(queue.shift()!));
    queue.push(...feed.tick());
  }
  return { feed, rounds };
}

Deno.test("Feed: it knows when all is here whatever the order within the rounds, for users with few rights too", () => {
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
      for (const start of [Math.max(options.compacted ?? 1, 1), 3_000, now]) {
        const expected = Array.from({ length: now + 1 }, (_, at) => at)
          .filter((at) => at >= 2 && at >= start && inRange(at));
        for (let seed = 1; seed <= 5; seed++) {
          const { feed, rounds } = read(new Rounds(now, inRange, options), start - 1, now, seed);
          const label = `${name} from ${start} with ${JSON.stringify(options)}, seed ${seed}`;
          assert.equal(feed.complete, BigInt(now), label);
          assert.deepEqual(all(feed, BigInt(start - 1)), expected, label);
          assert.ok(rounds <= most, `${label}: ${rounds} rounds`);
        }
      }
    }
  }
});

Deno.test("Feed: a live one proves anew, and old marks prove nothing", () => {
  const etcd = new Rounds(50, (at) => at === 40);
  const { feed } = read(etcd, 0, 50, 1);
  assert.equal(feed.complete, 50n);
  const [mark] = feed.prove(60n);
  assert.equal(startOf(mark), "60");
  assert.deepEqual(feed.prove(55n), [], "under way");
  hear(feed, WatchReply.encode({ watch_id: "9", created: true }));
  const more = hear(feed, response([60], false, { watch_id: "9", revision: "60" }));
  assert.equal(feed.complete, 50n, "one mark is not enough");
  assert.equal(more.length, 2);
  const later = feed.prove(70n);
  hear(feed, WatchReply.encode({ watch_id: "10", created: true }));
  hear(feed, response([60], false, { watch_id: "10", revision: "60" }));
  assert.equal(feed.complete, 50n, "the mark of the proof before");
  assert.equal(startOf(later[0]), "70");
  assert.ok(hears(feed, response([71], false, { watch_id: "0", revision: "71" })));
  assert.ok(!feed.isProving);
});

Deno.test("Feed: as long as etcd acknowledges nothing, no silence counts", () => {
  const feed = new Feed(WATCHED, 1n);
  feed.open({ ...AT, revision: 9n });
  for (let i = 0; i < 1_000; i++) assert.deepEqual(feed.tick(), []);
  assert.equal(feed.complete, 1n);
});
