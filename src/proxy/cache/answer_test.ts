// The answers of a cache beside etcd's own, for reads of every shape.

import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../../base/bytes.ts";
import { encodeRangeRequest, encodeReadTxn, type RangeRequest, SORT_TARGETS } from "../../etcd/messages.ts";
import { decodePage, decodeRangeResponse, keyOf, type RangeResponse } from "../../etcd/ranges.ts";
import { decodeTxn, rangesOf } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { put } from "../testing_requests.ts";
import { withEtcd } from "../testing_txn.ts";
import { answerRange, answerReads, noRows, type State } from "./answer.ts";

function done<T>(work: Generator<undefined, T, unknown>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

/** Chance that is the same each time. */
function chance(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    return Math.floor(state / 0x100000000 * below);
  };
}

const all = { key: encodeUtf8("/a/"), rangeEnd: encodeUtf8("/a0") };

function requestBy(random: (below: number) => number): RangeRequest {
  const some = () => encodeUtf8(["/a/", "/a/1", "/a/12", "/a/4", "/a/49~", "/a/x", "/a0"][random(7)]);
  const maybe = <T>(value: T) => random(3) === 0 ? value : undefined;
  const bound = () => String(random(140));
  const target = SORT_TARGETS[random(SORT_TARGETS.length)];
  const ends = [null, some(), all.rangeEnd, all.rangeEnd];
  return {
    ...{ key: some(), rangeEnd: ends[random(4)], limit: maybe(random(20)), keysOnly: maybe(true) },
    ...{ countOnly: random(8) === 0, order: maybe({ target, descending: random(2) === 0 }) },
    ...{ minModRevision: maybe(bound()), maxModRevision: random(6) === 0 ? bound() : undefined },
    ...{ minCreateRevision: random(6) === 0 ? bound() : undefined, maxCreateRevision: maybe(bound()) },
  };
}

/** Rows whose place etcd leaves open stand in any order. */
function comparable({ rows, header: _, ...rest }: RangeResponse, { order, limit }: RangeRequest) {
  const texts = rows.map(({ key, value, createRevision, modRevision, version, lease }) =>
    [toHex(key), toHex(value), createRevision, modRevision, version, lease].join(" ")
  );
  const target = order?.target ?? "key";
  if (target === "key") return { ...rest, rows: texts };
  const field = {
    value: "value",
    version: "version",
    create_revision: "createRevision",
    mod_revision: "modRevision",
  }[target]!;
  const sortedBy = rows.map((row) => target === "value" ? toHex(row.value) : row[field as "version"]);
  return { ...rest, sortedBy, rows: limit ? [] : texts.sort() };
}

Deno.test("a cache answers reads of every shape as etcd does", () =>
  withEtcd(async (call) => {
    const random = chance(7);
    for (let i = 0; i < 120; i++) {
      await call(Method.PUT, put(`/a/${random(50)}`, `v${random(9)}`.repeat(random(3))));
    }
    const reply = await call(Method.RANGE, encodeRangeRequest(all));
    const page = done(decodePage(reply, undefined));
    const rows = noRows();
    for (const raw of page.rows) rows.set(keyOf(raw), raw);
    const range = { start: all.key, end: all.rangeEnd };
    const state: State = { rows, range, revision: page.revision, header: page.header };
    const requests = Array.from({ length: 600 }, () => requestBy(random)).filter(({ key, rangeEnd }) =>
      rangeEnd === null || rangeEnd > key
    );
    for (const request of requests) {
      const own = decodeRangeResponse(done(answerRange(request, state)));
      const theirs = decodeRangeResponse(await call(Method.RANGE, encodeRangeRequest(request)));
      assert.deepEqual(comparable(own, request), comparable(theirs, request), JSON.stringify(request));
    }
    const several = requests.slice(0, 60);
    const own = decodeTxn(done(answerReads(several, { ...state, revision: page.revision + 5n })));
    const theirs = rangesOf(decodeTxn(await call(Method.READ_TXN, encodeReadTxn(several))));
    assert.equal(own.revision, page.revision + 5n);
    for (const [i, one] of rangesOf(own).entries()) {
      assert.equal(one.revision, page.revision + 5n, "the revision is the state's, not the header's");
      assert.deepEqual(comparable(one, several[i]).rows, comparable(theirs[i], several[i]).rows);
    }
  }));
