import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { makeKeyRow } from "../../etcd/ranges.ts";
import type { WatchedEvent } from "../../etcd/watch.ts";
import { fieldSize, Out } from "../../etcd/wire.ts";
import { atOnce } from "../testing_runtime.ts";
import { type Version, Versions } from "./versions.ts";

/** A key as it was put with a revision for the nth time. */
function row(key: string, mod: number, version = 1, create = mod, value = `${key}@${mod}`): Uint8Array {
  return makeKeyRow({
    ...{ key: encodeUtf8(key), value: encodeUtf8(value), lease: 0n },
    ...{ createRevision: BigInt(create), modRevision: BigInt(mod), version: BigInt(version) },
  }).raw;
}

function event(kv: Uint8Array, revision: number, deleted = false): WatchedEvent {
  const out = new Out((deleted ? 2 : 0) + fieldSize(kv.length));
  if (deleted) out.open(1 << 3, 1);
  out.field(2 << 3 | 2, kv);
  return { revision: BigInt(revision), raw: out.bytes };
}

const put = (key: string, mod: number, version = 1, create = mod) =>
  event(row(key, mod, version, create), mod);
const deletion = (key: string, mod: number) => event(row(key, mod, 0, 0, ""), mod, true);

function load(revision: number, ...rows: Uint8Array[]): Versions {
  const versions = new Versions();
  for (const _ of versions.load(rows, rows.reduce((sum, { length }) => sum + length, 0))) { /* at once */ }
  versions.loaded(BigInt(revision));
  return versions;
}

const tell = (versions: Versions, events: WatchedEvent[], revision: bigint) =>
  atOnce(versions.tell(events, revision));

const keys = (version: Version | null) => version && [...version.rows.keys()].map(decodeUtf8).join(" ");
const at = (versions: Versions, revision: number) => keys(versions.at(BigInt(revision)));
const read = (versions: Versions, now = 0) => versions.read(versions.current, now);

Deno.test("Versions: what was read can be named again, what nobody has read is not kept", () => {
  const versions = load(10, row("a", 3), row("b", 4));
  assert.equal(at(versions, 9), null);
  read(versions);
  assert.equal(tell(versions, [put("c", 12), deletion("a", 14)], 15n), null);
  assert.deepEqual([10, 11, 12, 13, 14, 15, 16].map((n) => at(versions, n)), [
    ...["a b", "a b"],
    // Between the two nobody has read.
    ...[null, null, "b c", "b c", null],
  ]);
  assert.equal(versions.kept, 1);
  assert.equal(tell(versions, [put("a", 20)], 20n), null);
  assert.deepEqual([at(versions, 15), at(versions, 20)], [null, "a b c"]);
});

Deno.test("Versions: events of one revision come together, and what is known is passed over", () => {
  const versions = load(10);
  read(versions);
  assert.equal(tell(versions, [put("old", 9), put("a", 11), put("b", 11)], 11n), null);
  assert.deepEqual([at(versions, 10), at(versions, 11)], ["", "a b"]);
  assert.equal(tell(versions, [put("a", 11), put("b", 11), put("c", 12)], 13n), null);
  assert.equal(at(versions, 13), "a b c");
});

Deno.test("Versions: a state that was proven for a later revision is that one's, whatever was there between", () => {
  const versions = load(10, row("a", 3));
  const { current } = versions;
  read(versions);
  versions.prove(current, 20n);
  assert.deepEqual([at(versions, 20), at(versions, 15), current.newest], ["a", null, 20n]);
  // A key that came and went: the watch tells it late.
  assert.equal(tell(versions, [put("x", 15)], 15n), null);
  assert.deepEqual([at(versions, 14), at(versions, 15), at(versions, 20)], ["a", "a x", "a"]);
  assert.equal(tell(versions, [deletion("x", 16)], 16n), null);
  tell(versions, [], 25n);
  assert.deepEqual([at(versions, 16), at(versions, 20), versions.current.newest], ["a", "a", 25n]);
});

Deno.test("Versions: an event that does not follow from what is held is told", () => {
  const cases: [string, WatchedEvent][] = [
    ["a lost put", put("a", 20, 3, 3)],
    ["a put of a key that is not known", put("n", 20, 2, 15)],
    ["a lost deletion", put("a", 20, 1, 20)],
    ["another life of the key", put("a", 20, 2, 15)],
    ["a deletion of a key that is not known", deletion("n", 20)],
  ];
  for (const [what, one] of cases) {
    const versions = load(10, row("a", 3));
    assert.match(tell(versions, [one], 20n) ?? "", /follows no event/, what);
  }
  const versions = load(10, row("a", 3));
  assert.equal(tell(versions, [put("a", 20, 2, 3), deletion("a", 21), put("a", 22)], 22n), null);
});

Deno.test("Versions: what is kept is bounded, in time, in number and in bytes, and counted", () => {
  const versions = load(10, row("a", 3));
  const begun = versions.bytes;
  read(versions, 0);
  tell(versions, [put("a", 11, 2, 3)], 11n);
  assert.ok(versions.bytes > begun);
  read(versions, 20_000);
  assert.equal(versions.kept, 0);
  for (let i = 0; i < 200; i++) {
    read(versions, 20_000 + i);
    tell(versions, [put("a", 12 + i, 3 + i, 3)], BigInt(12 + i));
  }
  assert.equal(versions.kept, 64);
  read(versions, 60_000);
  assert.equal(versions.kept, 0);
  assert.equal(versions.bytes, begun + row("a", 211).length, "the first row's page, and the last row");
  const large = load(
    10,
    ...Array.from({ length: 30 }, (_, i) => row(`k${i}`, 3, 1, 3, "v".repeat(300_000))),
  );
  for (let i = 0; i < 30; i++) {
    read(large, 0);
    tell(large, [event(row(`k${i}`, 11 + i, 2, 3, "v".repeat(300_000)), 11 + i)], BigInt(11 + i));
  }
  assert.ok(large.kept < 25, `${large.kept} are kept`);
  assert.ok(large.isWasteful);
});

Deno.test("Versions: a revision of very many events is taken in piece by piece, and seen when it is whole", () => {
  const many = Array.from({ length: 20_000 }, (_, i) => `k${String(i).padStart(5, "0")}`);
  const versions = load(10, ...many.map((key) => row(key, 3)));
  const before = versions.bytes;
  const telling = versions.tell([put("a", 11), ...many.map((key) => deletion(key, 12)), put("b", 13)], 13n);
  let pauses = 0;
  for (;;) {
    const { done, value } = telling.next();
    if (done) {
      assert.equal(value, null);
      break;
    }
    pauses++;
    const { current } = versions;
    assert.equal(current.rows.size, current.upto < 12n ? 20_001 : 1, `at ${current.upto}`);
    // One of those who come meanwhile may name what he has read.
    if (pauses === 20) read(versions);
  }
  assert.ok(pauses > 70, `${pauses} pauses`);
  assert.equal(keys(versions.current), "a b");
  // It would cost more than all that is held.
  assert.equal(versions.at(11n), null);
  assert.ok(versions.bytes < before, `${versions.bytes} bytes, ${before} before`);
});

Deno.test("Versions: what was there before a long revision is kept as long as that is cheap", () => {
  const many = Array.from({ length: 300 }, (_, i) => `k${String(i).padStart(3, "0")}`);
  const versions = load(10, ...many.map((key) => row(key, 3)));
  read(versions);
  assert.equal(tell(versions, many.map((key) => deletion(key, 12)), 12n), null);
  assert.deepEqual([versions.at(11n)?.rows.size, versions.at(12n)?.rows.size], [300, 0]);
});
