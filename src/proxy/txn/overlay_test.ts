// Reads of several calls while somebody writes between every two of them: whatever revision an answer tells, what it shows
// is the data of that revision with the transaction's own writes laid over.

import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { encodeRangeRequest, encodeReadTxn, type RangeRequest } from "../../etcd/messages.ts";
import { decodeRangeResponse, type RangeResponse } from "../../etcd/ranges.ts";
import { decodeTxn, encodeTxn, rangesOf } from "../../etcd/txn.ts";
import { successor } from "../../etcd/keyrange.ts";
import { Method } from "../../ipc/frame.ts";
import { StageFlag, StageKind } from "../../ipc/stage.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { get, put } from "../testing_requests.ts";
import { deletions, entry, TestTransaction, withEtcd, write } from "../testing_txn.ts";
import type { Call } from "./driver.ts";

const range = (key: string, end: string | null, more: Partial<RangeRequest> = {}): RangeRequest => ({
  key: encodeUtf8(key),
  rangeEnd: end === null ? null : encodeUtf8(end),
  ...more,
});
const name = (i: number) => `/o/${String(i).padStart(5, "0")}`;
const ALL = ["/o/", "/o0"] as const;

/** A client that writes before every read that the transaction makes: the data is another one at each revision. */
class Writer {
  readonly #call: Call;
  readonly #keys: number;
  readonly #first: number;
  #steps = 0;

  /** @param first Where the token's first place is. */
  constructor(call: Call, keys: number, first: number) {
    this.#call = call;
    this.#keys = keys;
    this.#first = first;
  }

  /** A token goes from one key to another, a key comes, a value changes. */
  async write(): Promise<void> {
    const step = ++this.#steps;
    const places = [`${name(this.#first)}t`, `${name(this.#keys - 2)}t`];
    const putOf = (key: string, value: string) => ({
      put: { key: encodeUtf8(key), value: encodeUtf8(value), lease: 0n },
    });
    await this.#call(
      Method.TXN,
      encodeTxn({
        compare: [],
        success: [
          { delete: { key: encodeUtf8(places[step % 2]) } },
          putOf(places[1 - step % 2], `token ${step}`),
          putOf(`${name(this.#keys + 1)}-${String(step).padStart(5, "0")}`, "new"),
          putOf(name(Math.floor(this.#keys / 2)), `w${step}`),
        ],
        failure: [],
      }),
    );
  }

  call: Call = async (method, payload) => {
    if (method === Method.RANGE || method === Method.READ_TXN) await this.write();
    return await this.#call(method, payload);
  };
}

async function fill(call: Call, keys: number): Promise<void> {
  const transaction = new TestTransaction(call);
  const rows = Array.from({ length: keys }, (_, i) => entry(StageKind.UPSERT, name(i), `v${i % 7}`));
  transaction.stage(write(rows));
  await transaction.commit();
}

/** What a transaction has written, key by key: null is deleted. */
type Own = Map<string, string | null>;

/** As a command behind all of them. */
const LATER = 1_000_000;

class World {
  readonly #call: Call;
  readonly writer: Writer;
  readonly transaction: TestTransaction;
  readonly own: Own = new Map();

  constructor(call: Call, keys: number, first = keys - 7) {
    this.#call = call;
    this.writer = new Writer(call, keys, first);
    this.transaction = new TestTransaction(this.writer.call, { maxRequestBytes: 8 * 1024 * 1024 });
  }

  write(key: string, value: string | null): void {
    this.own.set(key, value);
    const kind = value === null ? StageKind.DELETE : StageKind.UPSERT;
    // Its guards are another test's matter: what it deletes it has written before.
    if (value === null) this.transaction.stage(write([entry(StageKind.UPSERT, key, "x")], { command: 1 }));
    this.transaction.stage(write([entry(kind, key, value ?? "")], { command: 2 }));
  }

  /** What a read at this revision must show, without a limit. */
  async model(request: RangeRequest, revision: bigint): Promise<string[]> {
    const asked = { ...request, limit: 0, order: undefined, countOnly: false, revision: String(revision) };
    const { rows } = decodeRangeResponse(await this.#call(Method.RANGE, encodeRangeRequest(asked)));
    const shown = new Map<string, string>(rows.map(({ key, value }) => [decodeUtf8(key), decodeUtf8(value)]));
    const inside = (key: string) =>
      request.rangeEnd === null
        ? key === decodeUtf8(request.key)
        : key >= decodeUtf8(request.key) && key < decodeUtf8(request.rangeEnd);
    for (const [key, value] of this.own) {
      if (!inside(key)) continue;
      if (value === null) shown.delete(key);
      else shown.set(key, request.keysOnly ? "" : value);
    }
    const all = [...shown].sort(([a], [b]) => a < b ? -1 : 1).map(([key, value]) => `${key}=${value}`);
    return request.order?.descending ? all.reverse() : all;
  }

  async check(request: RangeRequest, answer: RangeResponse, what: string): Promise<void> {
    const expected = await this.model(request, answer.revision);
    if (request.countOnly) return assert.equal(Number(answer.count), expected.length, what);
    const rows = answer.rows.map(({ key, value }) => `${decodeUtf8(key)}=${decodeUtf8(value)}`);
    if (request.order !== undefined && request.order.target !== "key") {
      const values = (all: string[]) => all.map((one) => one.slice(one.indexOf("="))).sort();
      return assert.deepEqual(values(rows), values(expected), what);
    }
    assert.deepEqual(rows, expected.slice(0, rows.length), what);
    assert.ok(rows.length > 0 || expected.length === 0, what);
    if (!answer.more) assert.equal(rows.length, expected.length, what);
  }

  async read(request: RangeRequest, record = false): Promise<RangeResponse> {
    const reply = await this.transaction.read(Method.RANGE, encodeRangeRequest(request), LATER, record);
    return decodeRangeResponse(reply);
  }

  /** All pages, as a scan reads them: the first one's revision is the scan's. */
  async scan(request: RangeRequest): Promise<RangeResponse> {
    let answer = await this.read(request);
    const { revision } = answer;
    const rows = [...answer.rows];
    while (answer.more) {
      const last = rows[rows.length - 1].key;
      const left = request.order?.descending ? { rangeEnd: last } : { key: successor(last) };
      answer = await this.read({ ...request, ...left, revision: String(revision) });
      rows.push(...answer.rows);
    }
    return { ...answer, revision, rows, more: false };
  }
}

const DESCENDING = { target: "key", descending: true } as const;
const BY_VALUE = { target: "value", descending: false } as const;

const SHAPES: [string, RangeRequest][] = [
  ["everything", range(...ALL)],
  ["a page", range(...ALL, { limit: 7 })],
  ["a page from its end", range(...ALL, { limit: 7, order: DESCENDING })],
  ["keys alone", range(...ALL, { limit: 7, keysOnly: true })],
  ["by another field", range(...ALL, { order: BY_VALUE })],
  ["the count", range(...ALL, { countOnly: true })],
  ["the count of what is not written to", range(name(30), "/o0", { countOnly: true })],
  ["what is not written to", range(name(30), "/o0", { limit: 3 })],
  ["a key", range(name(20), null)],
];

/** A transaction that hides what stands in front, and more than a page of it. */
async function hiding(call: Call, keys: number, hidden: number): Promise<World> {
  await fill(call, keys);
  const world = new World(call, keys);
  await world.writer.write();
  for (let i = 0; i < hidden; i++) world.write(name(i), null);
  world.write(name(hidden), "own");
  world.write(`${name(hidden)}-new`, "own");
  return world;
}

Deno.test("overlay: an answer shows the data of the revision that it tells, whoever writes between two calls", async () => {
  await withEtcd(async (call) => {
    const world = await hiding(call, 40, 29);
    for (const [what, request] of SHAPES) {
      await world.check(request, await world.read(request), what);
      if (!request.countOnly && request.order !== BY_VALUE) {
        await world.check(request, await world.scan(request), `${what}, page by page`);
      }
      const before = await world.read(range(name(35), null));
      await world.writer.write();
      const at = { ...request, revision: String(before.revision) };
      const answer = await world.read(at);
      await world.check(at, { ...answer, revision: before.revision }, `${what}, at a revision`);
    }
    const txn = encodeReadTxn(SHAPES.map(([, request]) => request));
    for (const record of [false, true]) {
      const reply = decodeTxn(await world.transaction.read(Method.READ_TXN, txn, LATER, record));
      for (const [i, answer] of rangesOf(reply).entries()) {
        const [what, request] = SHAPES[i];
        assert.equal(answer.revision, reply.revision, `${what}, in a Txn`);
        await world.check(request, answer, `${what}, in a Txn`);
      }
    }
  });
});

Deno.test("overlay: a count beside many own rows is one of a single revision", async () => {
  await withEtcd(async (call) => {
    const world = await hiding(call, 2000, 1500);
    const request = range(...ALL, { countOnly: true });
    await world.check(request, await world.read(request), "listed");
    const reply = decodeTxn(await world.transaction.read(Method.READ_TXN, encodeReadTxn([request]), LATER));
    await world.check(request, rangesOf(reply)[0], "listed in a Txn");
  });
});

Deno.test("overlay: what was read is guarded from the revision that it was read at", async () => {
  await withEtcd(async (call) => {
    for (const [what, request] of SHAPES) {
      for (const inTxn of [false, true]) {
        const world = await hiding(call, 40, 29);
        // Nothing of the own writes has a guard, so that what was read is what decides.
        let told: bigint;
        if (inTxn) {
          const txn = encodeReadTxn([request]);
          told = decodeTxn(await world.transaction.read(Method.READ_TXN, txn, LATER, true)).revision;
        } else told = (await world.read(request, true)).revision;
        const now = decodeRangeResponse(await call(Method.RANGE, encodeRangeRequest(range("/none", null))));
        const outcome = await world.transaction.commit().then(() => "COMMITTED", EtcdFdwError.from);
        const whole = [range(...ALL), range(name(30), "/o0")].some(({ key }) =>
          decodeUtf8(key) === decodeUtf8(request.key)
        );
        if (now.revision === told) assert.equal(outcome, "COMMITTED", `${what} ${inTxn}`);
        else if (whole && !request.limit) {
          assert.equal(outcome instanceof EtcdFdwError && outcome.sqlstate, "40001", `${what} ${inTxn}`);
        }
      }
    }
  });
});

/** Deletes what is in the ranges, and checks that it was what one revision has there. */
async function checkDeletion(
  world: World,
  ranges: RangeRequest[],
  flags: number,
  what: string,
): Promise<void> {
  const payload = deletions(ranges, { flags, command: 3 });
  const { revision, count } = await world.transaction.deleteRange(payload);
  const found = [];
  for (const one of ranges) found.push(...await world.model(one, revision));
  assert.equal(count, found.length, what);
  for (const row of found) world.own.set(row.slice(0, row.indexOf("=")), null);
  // Under REPEATABLE READ the statements that follow read this revision.
  for (const one of ranges) {
    const left = await world.read({ ...one, revision: String(revision), keysOnly: true });
    assert.deepEqual(left.rows.map(({ key }) => decodeUtf8(key)), [], what);
  }
}

Deno.test("overlay: a DELETE of several ranges, or of several pages, finds the keys of one revision", async () => {
  await withEtcd(async (call) => {
    const keys = 20_200;
    await fill(call, keys);
    const ends = [range(name(0), name(3)), range(name(keys - 3), "/o0")];
    for (const flags of [0, StageFlag.RECORDED]) {
      for (const ranges of [ends, [range(...ALL)]]) {
        for (const hidden of ranges.length > 1 ? [0] : [0, 20_100]) {
          const world = new World(call, keys, hidden === 0 ? 2 : keys - 7);
          await world.writer.write();
          for (let i = 0; i < hidden; i++) world.write(name(i), null);
          await checkDeletion(
            world,
            ranges,
            flags,
            `${hidden} hidden, flags ${flags}, ${ranges.length} ranges`,
          );
        }
      }
    }
  });
});

Deno.test("overlay: what comes behind a DELETE's first page, be it hidden, stays", async () => {
  await withEtcd(async (call) => {
    await fill(call, 20_200);
    for (const hidden of [0, 20_100]) {
      let reads = 0;
      const transaction = new TestTransaction(async (method, payload) => {
        const reply = await call(method, payload);
        if (method === Method.RANGE && ++reads === 1) await call(Method.PUT, put("/o/new", "theirs"));
        return reply;
      });
      const before = decodeRangeResponse(await call(Method.RANGE, encodeRangeRequest(range(...ALL)))).rows;
      const own = before.slice(0, hidden).map((row) => entry(StageKind.DELETE, decodeUtf8(row.key), "", row));
      transaction.stage(write(own));
      const { count } = await transaction.deleteRange(deletions([range(...ALL)], { command: 3 }));
      assert.equal(count, 20_200 - hidden);
      await transaction.commit();
      const { rows } = decodeRangeResponse(await call(Method.RANGE, encodeRangeRequest(range(...ALL))));
      assert.deepEqual(rows.map(({ key }) => decodeUtf8(key)), ["/o/new"], `${hidden} hidden`);
      await fill(call, 20_200);
      await call(Method.DELETE_RANGE, get("/o/new"));
    }
  });
});
