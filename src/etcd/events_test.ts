import assert from "node:assert/strict";
import { concatBytes, encodeUtf8 } from "../base/bytes.ts";
import { WatchReply } from "./api.ts";
import { readEvents, type WatchPart } from "./events.ts";

function read(message: Uint8Array, isWanted: (revision: bigint) => boolean): WatchPart & { pauses: number } {
  const work = readEvents(message, isWanted);
  for (let pauses = 0;; pauses++) {
    const { done, value } = work.next();
    if (done) return { ...value, pauses };
  }
}

const event = (i: number) => ({
  type: i % 2,
  kv: { key: encodeUtf8(`/${i}`), create_revision: "1", mod_revision: String(i), value: encodeUtf8("v") },
});
const message = (...revisions: number[]) =>
  WatchReply.encode({ header: { revision: "99" }, watch_id: "7", events: revisions.map(event) });

Deno.test("readEvents: the events that are wanted stay as they are, the others go", () => {
  const { head, events, revisions, last } = read(message(2, 3, 3, 4, 5, 6), (at) => at !== 4n && at < 6n);
  assert.deepEqual([head.watch_id, head.header!.revision, head.events], ["7", "99", []]);
  assert.deepEqual([revisions, last, events.length], [5, 6n, 2]);
  assert.deepEqual(
    WatchReply.decode(concatBytes(...events)).events,
    WatchReply.decode(message(2, 3, 3, 5)).events,
  );
});

Deno.test("readEvents: a reply without events, and one that goes on behind them", () => {
  const none = read(message(), () => true);
  assert.deepEqual([none.events, none.revisions, none.last], [[], 0, 0n]);
  const more = read(concatBytes(message(2), WatchReply.encode({ canceled: true }), message(3)), () => true);
  assert.deepEqual([more.head.canceled, more.events.length, more.last], [true, 2, 3n]);
});

Deno.test("readEvents: it pauses, and damaged bytes are an error", () => {
  const many = message(...Array.from({ length: 10_000 }, (_, i) => i + 1));
  const { pauses, events } = read(many, () => true);
  assert.ok(pauses >= 30, `${pauses} pauses`);
  assert.equal(events.length, 1);
  const whole = message(2, 3);
  for (let cut = whole.length - 1; cut > whole.length - 8; cut--) {
    assert.throws(() => read(whole.subarray(0, cut), () => true), { sqlstate: "08P01" }, `cut at ${cut}`);
  }
  // An event whose key is longer than the event.
  const longer = Uint8Array.of(11 << 3 | 2, 4, 2 << 3 | 2, 3, 1 << 3 | 2, 9, 1);
  assert.throws(() => read(concatBytes(longer, whole), () => true), { sqlstate: "08P01" });
});
