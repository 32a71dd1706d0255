// Transactions at an etcd that answers as it is told: what is lost, late, cut off or refused.

import assert from "node:assert/strict";
import { EtcdFdwError } from "../../base/errors.ts";
import { encodeLease } from "../../etcd/lease.ts";
import { FUTURE_REVISION } from "../../etcd/nested.ts";
import { encodeRangeResponse, headerRevision, makeKeyRow } from "../../etcd/ranges.ts";
import { encodeRangeRequest, type RangeRequest } from "../../etcd/messages.ts";
import { encodeReadResponses } from "../../etcd/txn.ts";
import { compareBytes, encodeUtf8 } from "../../base/bytes.ts";
import { Method } from "../../ipc/frame.ts";
import { StageFlag, StageKind } from "../../ipc/stage.ts";
import { Budget } from "../memory.ts";
import { errorFrom, get } from "../testing_requests.ts";
import { deletion, entry, TestTransaction, write } from "../testing_txn.ts";
import { type Call, type Pace, run } from "./driver.ts";
import type { Work } from "./work.ts";

/** A ResponseHeader of this revision. */
const header = (revision: number) => Uint8Array.of(3 << 3, revision);
const DONE = encodeReadResponses(header(7), []);
const NOTHING = encodeRangeResponse({ header: header(7), revision: 7n, rows: [], more: false, count: 0n });
const LOST = new EtcdFdwError("08007", "lost");
const REFUSED = new EtcdFdwError("42501", "no");

/** Calls that wait for their answers, and leases that are granted at once, numbered. */
class FakeEtcd {
  pending: { method: number; resolve: (reply: Uint8Array) => void; reject: (error: Error) => void }[] = [];
  granted = 0;
  sent: number[] = [];

  call: Call = (method) => {
    this.sent.push(method);
    if (method === Method.LEASE_GRANT) return Promise.resolve(Uint8Array.of(2 << 3, ++this.granted));
    if (method === Method.LEASE_REVOKE) return Promise.resolve(new Uint8Array(0));
    return new Promise((resolve, reject) => this.pending.push({ method, resolve, reject }));
  };

  /** Waits until so many calls are under way. */
  async until(count: number): Promise<void> {
    for (let i = 0; this.pending.length < count; i++) {
      if (i > 1000) throw new Error(`${this.pending.length} calls are under way, not ${count}`);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
}

const leases = (...ids: number[]) => ids.map((id) => encodeLease(BigInt(id)));
const rows = (count: number, bytes: number, kind: number = StageKind.UPSERT) =>
  Array.from({ length: count }, (_, i) => entry(kind, `/${i}`, "x".repeat(bytes)));

Deno.test("leases: those of a subtransaction go with it, and those that a row at once has stay", async () => {
  const etcd = new FakeEtcd();
  const transaction = new TestTransaction(etcd.call);
  const [outer, inner, released] = [
    await transaction.grant(60, 1),
    await transaction.grant(90, 2),
    await transaction.grant(95, 3),
  ];
  transaction.release(3);
  assert.deepEqual([outer, inner, released], [1n, 2n, 3n]);
  transaction.rollback(2);
  assert.deepEqual(transaction.revoked, leases(2, 3));
  const used = await transaction.grant(30, 2);
  const written = transaction.write(write([entry(StageKind.UPSERT, "/i", "x", undefined, used)], {
    level: 2,
    flags: StageFlag.IMMEDIATE,
  }));
  await etcd.until(1);
  etcd.pending[0].resolve(DONE);
  await written;
  transaction.rollback(2);
  assert.deepEqual(transaction.revoked, leases(2, 3));
  transaction.end();
  assert.deepEqual(transaction.revoked, leases(2, 3, 1));
});

Deno.test("leases: one that no row has taken ends with the commit", async () => {
  const etcd = new FakeEtcd();
  const transaction = new TestTransaction(etcd.call);
  const staged = await transaction.grant(60);
  await transaction.grant(70);
  transaction.stage(write([entry(StageKind.UPSERT, "/i", "x", undefined, staged)]));
  const committed = transaction.commit();
  await etcd.until(1);
  etcd.pending[0].resolve(DONE);
  await committed;
  assert.deepEqual(transaction.revoked, leases(2));
});

Deno.test("leases: one for each ttl, while it is as good as new and no row at once has it", async () => {
  const etcd = new FakeEtcd();
  let now = 0;
  const pace: Pace = { now: () => now, turn: () => Promise.resolve() };
  const transaction = new TestTransaction(etcd.call, {}, { pace });
  const ttls = [];
  for (let i = 0; i < 10; i++) ttls.push(await transaction.grant(i % 2 === 0 ? 60 : 90));
  assert.equal(etcd.granted, 2);
  assert.equal(new Set(ttls).size, 2);
  assert.equal(await transaction.grant(60, 2), 1n);
  const inner = await transaction.grant(70, 2);
  transaction.rollback(2);
  assert.notEqual(await transaction.grant(70, 1), inner);
  now = 900;
  assert.equal(await transaction.grant(60), 1n);
  const short = await transaction.grant(3);
  now = 1_100;
  assert.equal(await transaction.grant(3), short);
  now = 1_300;
  assert.notEqual(await transaction.grant(3), short, "a second is much of three");
  assert.equal(await transaction.grant(60), 7n, "a row that is written now lives as long as it says");
  const written = transaction.write(
    write([entry(StageKind.UPSERT, "/i", "x", undefined, 7n)], { flags: StageFlag.IMMEDIATE }),
  );
  await etcd.until(1);
  etcd.pending[0].resolve(DONE);
  await written;
  assert.equal(await transaction.grant(60), 8n);
  transaction.end();
  assert.deepEqual(transaction.revoked, leases(3, 1, 2, 4, 5, 6, 8), "each of them with the transaction");
});

Deno.test("leases: a transaction that may have committed keeps them, however that came", async () => {
  const ways: Record<
    string,
    { act: (etcd: FakeEtcd, transaction: TestTransaction) => void; revoked: boolean }
  > = {
    answered: { act: ({ pending }) => pending[0].resolve(DONE), revoked: false },
    lost: { act: ({ pending }) => pending[0].reject(LOST), revoked: false },
    cancelled: { act: (_, transaction) => transaction.controller.abort(), revoked: false },
    ended: { act: (_, transaction) => transaction.end(), revoked: false },
    broken: { act: ({ pending }) => pending[0].reject(new Error("bug")), revoked: false },
    unreadable: { act: ({ pending }) => pending[0].resolve(Uint8Array.of(0x0a, 9)), revoked: false },
    refused: { act: ({ pending }) => pending[0].reject(REFUSED), revoked: true },
  };
  for (const [way, { act, revoked }] of Object.entries(ways)) {
    const etcd = new FakeEtcd();
    const transaction = new TestTransaction(etcd.call);
    const lease = await transaction.grant(60);
    transaction.stage(write([entry(StageKind.UPSERT, "/k", "x", undefined, lease)]));
    const commit = transaction.commit();
    await etcd.until(1);
    act(etcd, transaction);
    const code = await commit.then(() => "", (error: EtcdFdwError) => error.sqlstate);
    assert.equal(
      code,
      way === "answered" ? "" : way === "refused" ? "42501" : way === "broken" ? "XX000" : "08007",
      way,
    );
    transaction.end();
    assert.deepEqual(transaction.revoked, revoked ? leases(1) : [], way);
  }
});

Deno.test("driver: of several Txns, a loss is not hidden behind a refusal, whichever comes first", async () => {
  for (const order of [[0, 1], [1, 0]]) {
    const etcd = new FakeEtcd();
    const transaction = new TestTransaction(etcd.call);
    transaction.stage(write(rows(200, 20_000)));
    const commit = transaction.commit();
    await etcd.until(3);
    for (const i of order) {
      etcd.pending[i].reject(i === 0 ? new EtcdFdwError("22023", FUTURE_REVISION) : LOST);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    etcd.pending[2].resolve(DONE);
    const error = await errorFrom(commit);
    assert.equal(error.sqlstate, "08007");
    assert.match(error.detail, /1 of 3/);
  }
});

Deno.test("driver: each answered Txn of several is progress", async () => {
  const etcd = new FakeEtcd();
  const transaction = new TestTransaction(etcd.call);
  transaction.stage(write(rows(500, 20_000, StageKind.INSERT)));
  const commit = transaction.commit();
  for (let answered = 0; answered < 8; answered++) {
    await etcd.until(answered + 1);
    etcd.pending[answered].resolve(DONE);
    await new Promise((resolve) => setTimeout(resolve, 0));
    assert.equal(transaction.progress, answered + 1);
  }
  assert.equal((await commit).count, 7);
  assert.deepEqual(etcd.sent, [Method.READ_TXN, ...Array(7).fill(Method.TXN)]);
});

Deno.test("driver: behind a cancel nothing is written, even if a Txn is just being made", async () => {
  const etcd = new FakeEtcd();
  let turns = 0;
  // Each look at the clock is a slice later.
  let now = 0;
  const transaction: TestTransaction = new TestTransaction(etcd.call, {}, {
    pace: {
      now: () => now += 10,
      turn: () => {
        if (++turns === cancelAt) transaction.controller.abort();
        return Promise.resolve();
      },
    },
  });
  let cancelAt = Infinity;
  const stage = () => transaction.stage(write(rows(3000, 10)));
  stage();
  const commit = transaction.commit();
  await etcd.until(1);
  etcd.pending[0].resolve(DONE);
  await commit;
  assert.ok(turns > 20, `${turns} turns`);
  const whole = turns;
  for (cancelAt = 1; cancelAt <= whole; cancelAt += 7) {
    [turns, etcd.sent] = [0, []];
    transaction.controller = new AbortController();
    stage();
    const error = await errorFrom(transaction.commit());
    assert.equal(error.sqlstate, "57014", `cancelled at turn ${cancelAt}`);
    assert.deepEqual(etcd.sent, [], `cancelled at turn ${cancelAt}`);
    transaction.end();
  }
});

Deno.test("driver: what waited while its subtransaction was rolled back adds nothing to what is left", async () => {
  const etcd = new FakeEtcd();
  const transaction = new TestTransaction(etcd.call);
  const written = errorFrom(
    transaction.write(write([entry(StageKind.INSERT, "/late", "x")], { level: 2, flags: StageFlag.CHECK })),
  );
  await etcd.until(1);
  transaction.rollback(2);
  etcd.pending[0].resolve(encodeReadResponses(header(7), [NOTHING]));
  assert.equal((await written).sqlstate, "57014");
  const deleted = errorFrom(transaction.deleteRange(deletion("/", "0", 2)));
  await etcd.until(2);
  transaction.rollback(2);
  const row = makeKeyRow({
    ...{ key: encodeUtf8("/k"), value: new Uint8Array(0), lease: 0n },
    ...{ createRevision: 5n, modRevision: 5n, version: 1n },
  });
  etcd.pending[1].resolve(
    encodeRangeResponse({ header: header(7), revision: 7n, rows: [row], more: false, count: 1n }),
  );
  assert.equal((await deleted).sqlstate, "57014");
  assert.equal((await transaction.commit()).count, 0);
  assert.equal(headerRevision(header(7)), 7n);
});

Deno.test("driver: long work gives others their turn, and stops when nobody waits for it", async () => {
  let now = 0;
  let turns = 0;
  const pace: Pace = { now: () => now++, turn: () => Promise.resolve(void turns++) };
  function* work(): Work<string> {
    for (let i = 0; i < 100; i++) yield;
    return "done";
  }
  const none: Call = () => Promise.reject(new Error("no call"));
  assert.equal(await run(work(), none, pace, new AbortController().signal), "done");
  assert.ok(turns >= 15 && turns <= 25, `${turns} turns`);
  const controller = new AbortController();
  controller.abort();
  assert.equal((await errorFrom(run(work(), none, pace, controller.signal))).sqlstate, "57014");
});

Deno.test("memory: sessions within their limits stay within the proxy's, and only who asks for more is refused", async () => {
  const etcd = new FakeEtcd();
  const proxy = new Budget(20 * 1024 * 1024);
  const sessions = Array.from({ length: 5 }, () => {
    const budget = new Budget(8 * 1024 * 1024, proxy, "a session");
    return {
      budget,
      transaction: new TestTransaction(etcd.call, { maxStagedBytes: 8 * 1024 * 1024 }, { budget }),
    };
  });
  const outcomes = [];
  for (const { transaction } of sessions) {
    transaction.stage(write(rows(30_000, 100)));
    const read = transaction.read(Method.RANGE, get("/x"), 0).then(() => "read", (error) => error.sqlstate);
    await new Promise((resolve) => setTimeout(resolve, 5));
    etcd.pending.splice(0).forEach(({ resolve }) => resolve(NOTHING));
    outcomes.push(await read);
  }
  assert.deepEqual(outcomes.slice(0, 2), ["read", "read"]);
  assert.ok(outcomes.includes("53200"), outcomes.join());
  for (const { transaction } of sessions) transaction.end();
  assert.equal(proxy.used, 0);
  for (const { budget } of sessions) assert.equal(budget.used, 0);
});

Deno.test("slices: whatever goes over many own rows lets others in every few hundred of them", async () => {
  const count = 20_000;
  const call: Call = (method) =>
    Promise.resolve(
      method === Method.RANGE
        ? NOTHING
        : method === Method.TXN
        ? DONE
        : encodeReadResponses(header(7), [NOTHING]),
    );
  let pauses = 0;
  const pace: Pace = { now: () => (pauses++, 0), turn: () => Promise.resolve() };
  const transaction = new TestTransaction(call, {}, { pace });
  const rows = Array.from({ length: count }, (_, i) => entry(StageKind.UPSERT, `/${i}`, "value"));
  transaction.stage(write(rows));
  const range = { key: encodeUtf8("/"), rangeEnd: encodeUtf8("0") };
  const reads: [string, RangeRequest][] = [
    ["all", range],
    ["backwards", { ...range, order: { target: "key", descending: true } }],
    ["count", { ...range, countOnly: true }],
    ["by value", { ...range, order: { target: "value", descending: true } }],
  ];
  const pausesOf = async (work: () => Promise<unknown>) => {
    pauses = 0;
    await work();
    return pauses;
  };
  for (const [what, request] of reads) {
    const seen = await pausesOf(() => transaction.read(Method.RANGE, encodeRangeRequest(request), 9));
    assert.ok(seen >= Math.floor(count / 256), `${what}: ${seen} pauses`);
  }
  // Taking them in, listing them, planning and writing.
  assert.ok(await pausesOf(() => transaction.write(write(rows, { command: 10 }))) >= Math.floor(count / 256));
  assert.ok(
    await pausesOf(() => transaction.deleteRange(deletion("/", "0", 1, { command: 11 }))) >=
      2 * Math.floor(count / 256),
  );
  assert.ok(await pausesOf(() => transaction.commit()) >= 2 * Math.floor(count / 256));
});

Deno.test("slices: a rollback of many rows is in effect at once, and whatever waits next does its work in slices", async () => {
  const count = 20_000;
  const call: Call = (method) => Promise.resolve(method === Method.RANGE ? NOTHING : DONE);
  const waits: Record<string, (transaction: TestTransaction) => Promise<unknown>> = {
    read: (transaction) => transaction.read(Method.RANGE, get("/1"), 9),
    write: (transaction) => transaction.write(write([entry(StageKind.UPSERT, "/w", "x")], { command: 2 })),
    deleteRange: (transaction) => transaction.deleteRange(deletion("/", "0")),
    commit: (transaction) => transaction.commit(),
  };
  for (const [what, wait] of Object.entries(waits)) {
    let pauses = 0;
    const pace: Pace = { now: () => (pauses++, 0), turn: () => Promise.resolve() };
    const transaction = new TestTransaction(call, {}, { pace });
    transaction.stage(write([entry(StageKind.UPSERT, "/1", "before")]));
    transaction.stage(write(rows(count, 10), { level: 2, command: 2 }));
    transaction.rollback(2);
    pauses = 0;
    await wait(transaction);
    // A few thousand are taken out by the rollback itself.
    assert.ok(pauses >= Math.floor((count - 5000) / 256), `${what}: ${pauses} pauses`);
    if (what === "commit") continue;
    const { count: txns } = await transaction.commit();
    assert.equal(txns, 1);
  }
});

Deno.test("slices: what a refused commit suspects is looked through in slices", async () => {
  const pauses = { count: 0, behindRefusal: 0 };
  const call: Call = (method) => {
    if (method === Method.READ_TXN) {
      pauses.behindRefusal = pauses.count;
      return Promise.reject(REFUSED);
    }
    pauses.count = 0;
    return Promise.reject(new EtcdFdwError("22023", FUTURE_REVISION));
  };
  const pace: Pace = { now: () => (pauses.count++, 0), turn: () => Promise.resolve() };
  const transaction = new TestTransaction(call, {}, { pace });
  transaction.stage(write(rows(20_000, 10, StageKind.INSERT)));
  assert.equal((await errorFrom(transaction.commit())).sqlstate, "42501");
  assert.ok(pauses.behindRefusal >= Math.floor(20_000 / 256), `${pauses.behindRefusal} pauses`);
});

Deno.test("driver: a range of any number of keys is one operation, and a key may have any length", async () => {
  const rows = Array.from({ length: 150_000 }, (_, i) =>
    makeKeyRow({
      ...{ key: encodeUtf8(`/${i}`), value: new Uint8Array(0), lease: 0n },
      ...{ createRevision: 5n, modRevision: 5n, version: 1n },
    })).sort((a, b) => compareBytes(a.key, b.key));
  const listing = encodeRangeResponse({
    header: header(7),
    revision: 7n,
    rows,
    more: false,
    count: 150_000n,
  });
  const requests: Uint8Array[] = [];
  const call: Call = (method, payload) => {
    if (method === Method.TXN) requests.push(payload);
    return Promise.resolve(
      method === Method.RANGE
        ? listing
        : method === Method.TXN
        ? DONE
        : encodeReadResponses(header(7), [NOTHING]),
    );
  };
  const transaction = new TestTransaction(call);
  assert.equal((await transaction.deleteRange(deletion("/", "0"))).count, 150_000);
  assert.equal((await transaction.commit()).count, 1);
  assert.ok(requests.length === 1 && requests[0].length < 100);
  const long = new TestTransaction(call);
  const insert = write([entry(StageKind.INSERT, "k".repeat(500_000), "x")], { flags: StageFlag.CHECK });
  assert.deepEqual((await long.write(insert)).refused, []);
});
