import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { encodeRangeRequest, encodeReadTxn, type RangeRequest, SORT_TARGETS } from "../../etcd/messages.ts";
import { decodeRangeResponse, type RangeResponse } from "../../etcd/ranges.ts";
import { decodeTxn, rangesOf } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { StageFlag, StageKind } from "../../ipc/stage.ts";
import { errorFrom, put } from "../testing_requests.ts";
import {
  deletion,
  entry,
  randomOf,
  TestTransaction as Transaction,
  withEtcd,
  write,
} from "../testing_txn.ts";
import type { Call } from "./driver.ts";

const LATER = 1_000_000;

const range = (key: string, end: string | null, more: Partial<RangeRequest> = {}): RangeRequest => ({
  key: encodeUtf8(key),
  rangeEnd: end === null ? null : encodeUtf8(end),
  ...more,
});

/** A row of the store as a statement has seen it; undefined when there is none. */
async function see(call: Call, key: string) {
  return decodeRangeResponse(await call(Method.RANGE, encodeRangeRequest(range(key, null)))).rows[0];
}

async function read(
  transaction: Transaction,
  request: RangeRequest,
  command = LATER,
): Promise<RangeResponse> {
  return decodeRangeResponse(
    await transaction.read(Method.RANGE, encodeRangeRequest(request), command),
  );
}

const values = ({ rows }: RangeResponse) =>
  rows.map(({ key, value }) => `${decodeUtf8(key)}=${decodeUtf8(value)}`);

Deno.test("Transaction: a command sees what commands before it wrote, and etcd nothing until the commit", async () => {
  await withEtcd(async (call) => {
    await call(Method.PUT, put("/a", "1"));
    const transaction = new Transaction(call);
    transaction.stage(write([entry(StageKind.UPDATE, "/a", "2", await see(call, "/a"))], { command: 3 }));
    transaction.stage(write([entry(StageKind.INSERT, "/b", "new")], { command: 4 }));
    const all = range("/", "0");
    assert.deepEqual(values(await read(transaction, all, 3)), ["/a=1"]);
    assert.deepEqual(values(await read(transaction, all, 4)), ["/a=2"]);
    assert.deepEqual(values(await read(transaction, all, 5)), ["/a=2", "/b=new"]);
    assert.equal((await see(call, "/b")) as unknown, undefined);
    await transaction.commit();
    assert.equal(decodeUtf8((await see(call, "/a")).value), "2");
    assert.equal((await see(call, "/a")).modRevision, (await see(call, "/b")).modRevision);
  });
});

Deno.test("Transaction: subtransactions end either way, to any depth", async () => {
  await withEtcd(async (call) => {
    const transaction = new Transaction(call);
    const all = range("/", "0");
    const stage = (key: string, level: number) =>
      transaction.stage(write([entry(StageKind.UPSERT, key, String(level))], { level }));
    stage("/a", 1);
    stage("/a", 2);
    stage("/b", 3);
    transaction.release(3);
    stage("/c", 3);
    transaction.rollback(3);
    assert.deepEqual(values(await read(transaction, all)), ["/a=2", "/b=3"]);
    transaction.rollback(2);
    assert.deepEqual(values(await read(transaction, all)), ["/a=1"]);
    transaction.rollback(1);
    assert.equal((await transaction.commit()).revision, 0n);
  });
});

Deno.test("Transaction: its reads are those that follow its commit", async () => {
  await withEtcd(async (call) => {
    for (let seed = 1; seed <= 8; seed++) {
      const random = randomOf(seed);
      const key = () => `/${seed}/${String(random.below(40)).padStart(2, "0")}`;
      const [start, end] = [`/${seed}/`, `/${seed}0`];
      for (let i = 0; i < 30; i++) await call(Method.PUT, put(key(), `v${random.below(5)}`));
      const transaction = new Transaction(call);
      for (let command = 1; command <= 25; command++) {
        const name = key();
        const row = (await read(transaction, range(name, null), command)).rows[0];
        const kind = row === undefined
          ? StageKind.INSERT
          : random.chance(0.5)
          ? StageKind.UPDATE
          : StageKind.DELETE;
        transaction.stage(write([entry(kind, name, `s${random.below(5)}`, row)], { command }));
      }
      const requests: RangeRequest[] = [];
      for (let i = 0; i < 40; i++) {
        const [a, b] = random.chance(0.3) ? [start, end] : [key(), key()].sort();
        const target = SORT_TARGETS[random.chance(0.6) ? 0 : random.chance(0.5) ? 1 : 4];
        requests.push(range(a, random.chance(0.2) || a === b ? null : b, {
          limit: random.chance(0.5) ? 1 + random.below(6) : 0,
          keysOnly: random.chance(0.3) && target !== "value",
          countOnly: random.chance(0.15),
          order: random.chance(0.5) ? undefined : { target, descending: random.chance(0.5) },
        }));
      }
      const before = [];
      for (const request of requests) before.push(await read(transaction, request));
      const txn = encodeReadTxn(requests.slice(0, 20));
      const inTxn = rangesOf(decodeTxn(await transaction.read(Method.READ_TXN, txn, LATER)));
      await transaction.commit();
      for (const [i, request] of requests.entries()) {
        const after = decodeRangeResponse(await call(Method.RANGE, encodeRangeRequest(request)));
        // Which of equal values or versions comes first is etcd's business.
        const tied = request.order !== undefined && request.order.target !== "key";
        const shown = ({ rows, count, more }: RangeResponse) => ({
          rows: rows.map(({ key, value, version }) =>
            tied
              ? `${request.order!.target === "value" ? decodeUtf8(value) : version}`
              : `${decodeUtf8(key)} ${toHex(value)} ${version}`
          ),
          ...(request.countOnly ? { count } : { more }),
        });
        const what = `seed ${seed}, request ${i}`;
        // A page may be shorter than its limit while more is said to follow.
        if (request.limit && !tied && before[i].more && before[i].rows.length < request.limit) {
          assert.deepEqual(shown(before[i]).rows, shown(after).rows.slice(0, before[i].rows.length), what);
          assert.ok(before[i].rows.length > 0, what);
        } else assert.deepEqual(shown(before[i]), shown(after), what);
        if (i < 20 && !request.limit) assert.deepEqual(shown(inTxn[i]), shown(after), `${what} in a Txn`);
      }
    }
  });
});

Deno.test("Transaction: a key that exists but is newer than what the transaction reads is a conflict", async () => {
  await withEtcd(async (call) => {
    await call(Method.PUT, put("/a", "1"));
    const revision = (await read(new Transaction(call), range("/", "0"))).revision;
    await call(Method.PUT, put("/b", "1"));
    const insert = (transaction: Transaction, key: string) => {
      const entries = [entry(StageKind.INSERT, key, "x")];
      return transaction.write(write(entries, { flags: StageFlag.CHECK, revision }));
    };
    const transaction = new Transaction(call);
    assert.deepEqual((await insert(transaction, "/a")).refused, [0]);
    assert.deepEqual((await insert(transaction, "/c")).refused, []);
    assert.deepEqual((await insert(transaction, "/c")).refused, [0], "its own");
    const error = await errorFrom(insert(transaction, "/b"));
    assert.equal(error.sqlstate, "40001");
    assert.match(error.detail, /"\/b"/);
  });
});

Deno.test("Transaction: a key that exists is refused when asked for, otherwise at the commit", async () => {
  await withEtcd(async (call) => {
    await call(Method.PUT, put("/a", "1"));
    const transaction = new Transaction(call);
    const entries = ["/a", "/b", "/b", "/c"].map((key) => entry(StageKind.INSERT, key, "x"));
    const { refused } = await transaction.write(write(entries, { flags: StageFlag.CHECK }));
    assert.deepEqual(refused, [0, 2]);
    assert.deepEqual(values(await read(transaction, range("/", "0"))), ["/a=1", "/b=x", "/c=x"]);
    const late = new Transaction(call);
    late.stage(write([entry(StageKind.INSERT, "/a", "x"), entry(StageKind.INSERT, "/z", "x")]));
    const error = await errorFrom(late.commit());
    assert.equal(error.sqlstate, "23505");
    assert.match(error.message, /"\/a"/);
    assert.equal((await see(call, "/z")) as unknown, undefined);
    const twice = new Transaction(call);
    twice.stage(write([entry(StageKind.INSERT, "/n", "x"), entry(StageKind.INSERT, "/n", "y")]));
    assert.equal((await errorFrom(twice.commit())).sqlstate, "23505");
  });
});

Deno.test("Transaction: what another client changed is 40001, and nothing is written", async () => {
  await withEtcd(async (call) => {
    for (const kind of [StageKind.UPDATE, StageKind.DELETE]) {
      await call(Method.PUT, put("/a", "1"));
      const transaction = new Transaction(call);
      transaction.stage(
        write([entry(kind, "/a", "2", await see(call, "/a")), entry(StageKind.UPSERT, "/b", "2")]),
      );
      await call(Method.PUT, put("/a", "theirs"));
      const error = await errorFrom(transaction.commit());
      assert.equal(error.sqlstate, "40001");
      assert.match(error.detail, /"\/a"/);
      assert.equal((await see(call, "/b")) as unknown, undefined);
    }
  });
});

Deno.test("Transaction: more than one Txn takes several, with all guards checked first, or is refused", async () => {
  await withEtcd(async (call) => {
    const many = (from: number, count: number) =>
      Array.from({ length: count }, (_, i) => entry(StageKind.INSERT, `/m/${from + i}`, "x"));
    // A key of another client's between new ones is no conflict.
    await call(Method.PUT, put("/m/500x", "theirs"));
    const flat = { nested: false };
    const transaction = new Transaction(call, flat);
    transaction.stage(write(many(0, 1000)));
    assert.equal((await transaction.commit()).count, 8);
    assert.equal(transaction.progress, 16);
    const conflicting = new Transaction(call, flat);
    conflicting.stage(write(many(999, 1000)));
    assert.equal((await errorFrom(conflicting.commit())).sqlstate, "23505");
    const stored = decodeRangeResponse(
      await call(Method.RANGE, encodeRangeRequest(range("/m/", "/m0", { countOnly: true }))),
    );
    assert.equal(stored.count, 1001n);
    const atomic = new Transaction(call, { requireAtomic: true, nested: false });
    atomic.stage(write(many(5000, 129)));
    const error = await errorFrom(atomic.commit());
    assert.equal(error.sqlstate, "54000");
    assert.match(error.hint, /max_txn_ops/);
  });
});

async function fill(call: Call, prefix: string, keys: number): Promise<void> {
  for (let i = 0; i < keys; i++) await call(Method.PUT, put(`${prefix}${String(i).padStart(4, "0")}`, "x"));
}

const countOf = async (call: Call, key: string, end: string) =>
  Number(decodeRangeResponse(await call(Method.RANGE, encodeRangeRequest(range(key, end)))).count);

Deno.test("Transaction: a range is deleted by one operation, whatever it holds", async () => {
  await withEtcd(async (call) => {
    await fill(call, "/d/", 300);
    const transaction = new Transaction(call, { requireAtomic: true });
    transaction.stage(write([entry(StageKind.UPSERT, "/c", "1"), entry(StageKind.UPSERT, "/e", "1")]));
    assert.equal((await transaction.deleteRange(deletion("/d/", "/d0"))).count, 300);
    assert.equal((await transaction.commit()).count, 1);
    assert.equal(await countOf(call, "/d/", "/d0"), 0);
    assert.equal(await countOf(call, "/c", "/f"), 2);
  });
});

Deno.test("Transaction: a range that has changed meanwhile is deleted key by key, or refused", async () => {
  await withEtcd(async (call, etcd) => {
    for (
      const [size, requireAtomic, change, nested] of [
        [3, true, "new", false],
        [3, true, "changed", true],
        [300, false, "new", false],
        [300, true, "new", true],
        [300, true, "new", false],
        [300, false, "changed", false],
        [300, false, "changed", true],
      ] as const
    ) {
      await etcd.ctl("del", "--prefix", "/d/");
      await fill(call, "/d/", size);
      const transaction = new Transaction(call, { requireAtomic, nested });
      await transaction.deleteRange(deletion("/d/", "/d0"));
      await call(Method.PUT, put(change === "new" ? "/d/9" : "/d/0001", "theirs"));
      const what = `${size} ${requireAtomic} ${change} ${nested}`;
      if (change === "new" && !(size === 300 && requireAtomic && !nested)) {
        await transaction.commit();
        assert.equal(await countOf(call, "/d/", "/d0"), 1, what);
      } else {
        const error = await errorFrom(transaction.commit());
        assert.equal(error.sqlstate, "40001", what);
        assert.match(error.detail, change === "new" ? /"\/d\/9"/ : /"\/d\/0001"/);
        assert.equal(await countOf(call, "/d/", "/d0"), change === "new" ? size + 1 : size, what);
      }
    }
  });
});

Deno.test("Transaction: a range that is not deleted whole in the end is not deleted as a range", async () => {
  await withEtcd(async (call, etcd) => {
    await fill(call, "/d/", 5);
    const transaction = new Transaction(call);
    await transaction.deleteRange(deletion("/d/", "/d/0002"));
    await transaction.deleteRange(deletion("/d/0003", "/d0", 2));
    transaction.rollback(2);
    await transaction.deleteRange(deletion("/d/0002", "/d/0004", 3));
    transaction.release(3);
    transaction.stage(write([entry(StageKind.INSERT, "/d/0001", "again")], { command: 4 }));
    await transaction.commit();
    const left = decodeRangeResponse(await call(Method.RANGE, encodeRangeRequest(range("/d/", "/d0"))));
    assert.deepEqual(values(left), ["/d/0001=again", "/d/0004=x"]);

    // A key that is gone is seen as long as its guard fits into the Txn.
    const other = new Transaction(call);
    await other.deleteRange(deletion("/d/", "/d0"));
    await etcd.ctl("del", "/d/0004");
    assert.equal((await errorFrom(other.commit())).sqlstate, "40001");
  });
});

Deno.test("Transaction: a deleted range holds what its command saw, and is guarded", async () => {
  await withEtcd(async (call) => {
    for (const key of ["/d/1", "/d/2", "/d/3", "/e"]) await call(Method.PUT, put(key, "x"));
    const transaction = new Transaction(call);
    transaction.stage(write([entry(StageKind.INSERT, "/d/4", "own")]));
    assert.equal((await transaction.deleteRange(deletion("/d/", "/d0"))).count, 4);
    assert.deepEqual(values(await read(transaction, range("/", "0"))), ["/e=x"]);
    await transaction.commit();
    assert.equal((await see(call, "/d/1")) as unknown, undefined);
    assert.equal((await see(call, "/d/4")) as unknown, undefined);
    assert.ok(await see(call, "/e"));
  });
});

Deno.test("Transaction: what was read must hold under SERIALIZABLE: changed, new and deleted keys are seen", async () => {
  await withEtcd(async (call, etcd) => {
    const changes: [string, () => Promise<unknown>][] = [
      ["changed", () => call(Method.PUT, put("/s/1", "2"))],
      ["new", () => call(Method.PUT, put("/s/5", "2"))],
      ["deleted", () => etcd.ctl("del", "/s/2")],
      ["elsewhere", () => call(Method.PUT, put("/t", "2"))],
    ];
    for (const [what, change] of changes) {
      for (const key of ["/s/1", "/s/2"]) await call(Method.PUT, put(key, "1"));
      await etcd.ctl("del", "/s/5");
      const transaction = new Transaction(call);
      const request = encodeRangeRequest(range("/s/", "/s0"));
      await transaction.read(Method.RANGE, request, 1, true);
      const single = encodeRangeRequest(range("/none", null));
      await transaction.read(Method.RANGE, single, 1, true);
      transaction.stage(write([entry(StageKind.UPSERT, "/w", what)]));
      await change();
      if (what === "elsewhere") await transaction.commit();
      else assert.equal((await errorFrom(transaction.commit())).sqlstate, "40001", what);
    }
  });
});

Deno.test("Transaction: what it may hold is bounded, and a failure unseen is told by what follows", async () => {
  await withEtcd(async (call) => {
    const transaction = new Transaction(call, { maxStagedBytes: 10_000 });
    transaction.stage(write([entry(StageKind.UPSERT, "/a", "x".repeat(20_000))]));
    const error = await errorFrom(transaction.commit());
    assert.ok(error instanceof EtcdFdwError);
    assert.equal(error.sqlstate, "53200");
    assert.match(error.hint, /max_staged_mb/);
  });
});
