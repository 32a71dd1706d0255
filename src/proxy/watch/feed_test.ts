import assert from "node:assert/strict";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { encodeUtf8 } from "../../base/bytes.ts";
import { WatchReply, WatchRequest } from "../../etcd/api.ts";
import { Feed } from "./feed.ts";

const WATCHED = { key: encodeUtf8("/p/"), rangeEnd: encodeUtf8("/p0"), prev: false };

const response = (revisions: number[], fragment = false) => {
  const events = revisions.map((at) => ({ type: 0, kv: { key: encodeUtf8("k"), mod_revision: String(at) } }));
  const bytes = WatchReply.encode({ header: { revision: "1000000" }, events });
  return fragment ? new BinaryWriter().raw(bytes).uint32(7 << 3).bool(true).finish() : bytes;
};

const opened = (after = 0n) => {
  const feed = new Feed(WATCHED, after);
  feed.open();
  feed.hear(WatchReply.encode({ created: true }));
  return feed;
};

const revisionsOf = ({ events }: { events: { revision: bigint }[] }) =>
  events.map(({ revision }) => Number(revision));
const all = (feed: Feed, after: bigint) => revisionsOf(feed.part(after, 1e9, 1e9));

const startOf = (message: Uint8Array) => WatchRequest.decode(message).create_request!.start_revision;

Deno.test("Feed: a stream that is opened again goes on behind what is complete", () => {
  const feed = opened(4n);
  assert.equal(feed.state, "LIVE");
  assert.ok(feed.hear(response([6, 6, 8])));
  assert.ok(!feed.hear(response([9], true)), "a fragment counts when its last one is there");
  assert.deepEqual(all(feed, 4n), [6, 6, 8]);
  assert.equal(startOf(feed.open()), "9");
  assert.equal(feed.state, "OPENING");
  feed.hear(WatchReply.encode({ created: true }));
  // What had come of the fragments is told again.
  assert.ok(!feed.hear(response([9], true)));
  assert.ok(feed.hear(response([9, 10])));
  assert.deepEqual(all(feed, 8n), [9, 9, 10]);
});

Deno.test("Feed: of fragments, what is whole counts at once", () => {
  const feed = opened();
  assert.ok(feed.hear(response([1, 2, 3, 3], true)));
  assert.deepEqual([all(feed, 0n), feed.seen], [[1, 2], 2n]);
  assert.ok(!feed.hear(response([3, 3], true)));
  assert.ok(feed.hear(response([3, 4])));
  assert.deepEqual(all(feed, 0n), [1, 2, 3, 3, 3, 3, 3, 4]);
  assert.ok(!feed.behind);
  feed.hear(response(Array.from({ length: 600 }, (_, i) => i + 5), true));
  feed.hear(response(Array.from({ length: 400 }, (_, i) => i + 605)));
  assert.ok(feed.behind, "a full part in two fragments");
});

Deno.test("Feed: what was told before, and what is older than asked for, is dropped", () => {
  const feed = opened(5n);
  assert.ok(!feed.hear(response([3, 5])), "older than asked for");
  assert.ok(feed.hear(response([7])));
  assert.ok(!feed.hear(response([6, 7])), "a watch that travels back in time");
  assert.ok(feed.hear(response([7, 8])));
  assert.ok(feed.hear(response([10, 9, 11])), "out of order within a response");
  assert.deepEqual(all(feed, 5n), [7, 8, 10, 11]);
});

Deno.test("Feed: a part has whole revisions, and says up to where it is complete", () => {
  const feed = opened();
  feed.hear(response([1, 2, 2, 2, 5]));
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
  assert.ok(compacted.hear(WatchReply.encode({ canceled: true, compact_revision: "7" })));
  assert.deepEqual([compacted.state, compacted.compacted], ["COMPACTED", 7n]);
  const refused = new Feed(WATCHED, 0n);
  refused.open();
  assert.ok(refused.hear(WatchReply.encode({ created: true, canceled: true, cancel_reason: "no" })));
  assert.deepEqual([refused.state, refused.reason], ["REFUSED", "no"]);
});

Deno.test("Feed: a feed on its way through the past is none for readers ahead of it", () => {
  const feed = opened();
  assert.ok(feed.holds(50_000n));
  feed.hear(response(Array.from({ length: 1000 }, (_, i) => i + 1)));
  assert.ok(feed.behind && feed.holds(1000n) && !feed.holds(1001n));
  feed.hear(response([1001]));
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
      feed.hear(response(batch));
      model.push(...batch);
      if (next(4) === 0) feed.trim(next(3000));
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
  feed.hear(response([1, 2, 4]));
  assert.deepEqual(feed.part(0n, 9, 1e9, 3n), { ...feed.part(0n, 2, 1e9), revision: 3n });
  assert.equal(feed.part(0n, 9, 1e9, 4n).revision, 4n);
  assert.deepEqual(feed.part(3n, 9, 1e9, 3n), { events: [], revision: 3n });
});
