import assert from "node:assert/strict";
import { encodeUtf8 } from "../base/bytes.ts";
import { Event, RangeReply, WatchReply, WatchRequest } from "./api.ts";
import { answerHeader, decodeKeyRow } from "./ranges.ts";
import {
  changeOf,
  decodeWatchedPage,
  encodeWatch,
  encodeWatchedPage,
  encodeWatchEnd,
  readWatchResponse,
} from "./watch.ts";

function atOnce<T>(work: Generator<undefined, T, unknown>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

const decodeWatchResponse = (message: Uint8Array) => atOnce(readWatchResponse(message));

Deno.test("readWatchResponse: what api.ts writes", () => {
  const kv = (key: string, revision: string) => ({ key: encodeUtf8(key), mod_revision: revision });
  const bytes = WatchReply.encode({
    ...{ header: { revision: "9" }, watch_id: "3", created: true, canceled: true },
    ...{ compact_revision: "7", cancel_reason: "why" },
    events: [{ type: 0, kv: kv("a", "8") }, { type: 1, kv: kv("b", "9223372036854775807") }],
  });
  const { events, ...rest } = decodeWatchResponse(bytes);
  assert.deepEqual(rest, {
    ...{
      id: "3",
      revision: 9n,
      created: true,
      canceled: true,
      compactRevision: 7n,
      reason: "why",
      fragment: false,
    },
  });
  assert.deepEqual(events.map(({ revision }) => revision), [8n, 9223372036854775807n]);
  assert.throws(() => decodeWatchResponse(Uint8Array.of(0x5a, 9, 1)), { sqlstate: "08P01" });
});

Deno.test("encodeWatch: what api.ts reads", () => {
  const watched = { key: encodeUtf8("/p/"), rangeEnd: encodeUtf8("/p0"), prev: true };
  const { create_request: made } = WatchRequest.decode(encodeWatch(watched, 1n << 62n));
  assert.deepEqual(made, {
    ...{ key: watched.key, range_end: watched.rangeEnd, start_revision: String(1n << 62n) },
    ...{ prev_kv: true, watch_id: "0" },
  });
  const single = encodeWatch({ ...watched, rangeEnd: null, prev: false }, 1n, true);
  assert.equal(WatchRequest.decode(single).create_request!.range_end.length, 0);
  // Field 8 of the request is `fragment`.
  assert.deepEqual([...single.subarray(-2)], [8 << 3, 1]);
});

Deno.test("encodeWatchEnd: a cancel_request with the watch's id", () => {
  assert.deepEqual([...encodeWatchEnd("300")], [2 << 3 | 2, 3, 1 << 3, 0xac, 2]);
});

Deno.test("a WatchedPage comes back as it was, its events untouched", () => {
  const raw = WatchReply.encode({ events: [{ type: 1, kv: { key: encodeUtf8("k"), mod_revision: "300" } }] });
  const { events } = decodeWatchResponse(raw);
  const page = {
    revision: 1n << 60n,
    events,
    left: 12_345_678,
    upto: 1n << 62n,
    behind: 300,
    cluster: (1n << 64n) - 1n,
  };
  assert.deepEqual(atOnce(decodeWatchedPage(atOnce(encodeWatchedPage(page)))), page);
});

Deno.test("changeOf: what an event did to which key, and answerHeader: who answered, at which revision", () => {
  const kv = { key: Uint8Array.of(7), mod_revision: "12" };
  const [put, deletion] = [{ kv }, { type: 1, kv }].map((event) => Event.encode(event));
  const changes = [put, deletion].map((raw) => changeOf({ revision: 12n, raw }));
  assert.deepEqual(changes.map(({ deleted }) => deleted), [false, true]);
  for (const change of changes) assert.deepEqual(decodeKeyRow(change.kv).key, Uint8Array.of(7));
  const header = { cluster_id: "18446744073709551615", revision: "9007199254740993", raft_term: "5" };
  assert.deepEqual(answerHeader(RangeReply.encode({ header, count: "1" })), {
    cluster: 18446744073709551615n,
    revision: 9007199254740993n,
    term: 5n,
  });
  assert.deepEqual(answerHeader(new Uint8Array(0)), { cluster: 0n, revision: 0n, term: 0n });
});
