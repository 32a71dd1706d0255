// How much a transaction may be: what fits a request is one Txn, what does not is cut by bytes, and a row that fits nowhere is
// the statement's own fault.

import assert from "node:assert/strict";
import { decodeRangeResponse } from "../../etcd/ranges.ts";
import { encodeReadResponses } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { StageFlag, StageKind } from "../../ipc/stage.ts";
import { Deadline } from "../deadline.ts";
import { Cluster } from "../etcd/cluster.ts";
import { REAL } from "../testing_runtime.ts";
import { errorFrom, get, getPrefix, put } from "../testing_requests.ts";
import { deletion, entry, randomOf, STAGING, TestTransaction, withEtcd, write } from "../testing_txn.ts";
import type { Call } from "./driver.ts";

const rowsOf = async (call: Call, prefix: string) =>
  decodeRangeResponse(await call(Method.RANGE, getPrefix(prefix))).rows;

const many = (prefix: string, count: number, bytes = 10, kind: number = StageKind.INSERT) =>
  Array.from(
    { length: count },
    (_, i) => entry(kind, `${prefix}${String(i).padStart(6, "0")}`, "x".repeat(bytes)),
  );

Deno.test("size: what fits a request is one revision, and one guard that fails is the end of it all", async () => {
  await withEtcd(async (call, etcd) => {
    for (const count of [128, 129, 4096, 4097, 15_000]) {
      const transaction = new TestTransaction(call, { requireAtomic: true });
      transaction.stage(write(many(`/${count}/`, count)));
      const { count: txns, revision } = await transaction.commit();
      assert.equal(txns, 1);
      assert.equal(transaction.progress, 0);
      const rows = await rowsOf(call, `/${count}/`);
      assert.equal(rows.length, count);
      assert.ok(rows.every(({ modRevision }) => modRevision === revision));
    }
    const rows = await rowsOf(call, "/4097/");
    const stale = new TestTransaction(call);
    stale.stage(write([
      ...rows.map((row, i) => ({
        ...entry(StageKind.UPDATE, "", "new", row),
        key: row.key,
        kind: i % 2 === 0 ? StageKind.UPDATE : StageKind.DELETE,
      })),
      ...many("/other/", 1000),
    ]));
    await call(Method.PUT, put("/4097/003000", "theirs"));
    const error = await errorFrom(stale.commit());
    assert.equal(error.sqlstate, "40001");
    assert.match(error.detail, /"\/4097\/003000"/);
    assert.equal(
      (await rowsOf(call, "/4097/")).filter(({ modRevision }) => modRevision > rows[0].modRevision).length,
      1,
    );
    assert.equal((await rowsOf(call, "/other/")).length, 0);
    await etcd.ctl("put", "/dup/000700", "theirs");
    const duplicate = new TestTransaction(call);
    duplicate.stage(write(many("/dup/", 5000)));
    const refused = await errorFrom(duplicate.commit());
    assert.equal(refused.sqlstate, "23505");
    assert.match(refused.message, /"\/dup\/000700"/);
    assert.equal((await rowsOf(call, "/dup/")).length, 1);
  });
});

Deno.test("size: what does not fit is cut by bytes, behind a check of all guards", async () => {
  await withEtcd(async (call) => {
    const transaction = new TestTransaction(call);
    transaction.stage(write(many("/l/", 500, 20_000)));
    assert.equal((await transaction.commit()).count, 7);
    assert.equal((await rowsOf(call, "/l/")).length, 500);
    const large = 300_000;
    const mixed = [...many("/m/0", 3000), ...many("/m/1", 20, large), ...many("/m/2", 3000)];
    for (const flags of [0, StageFlag.IMMEDIATE]) {
      // The last key is there: nothing may be written before that is known.
      await call(Method.PUT, put("/m/2002999", "theirs"));
      const conflicting = new TestTransaction(call);
      const staged = conflicting.write(write(mixed, { flags }));
      const error = await errorFrom(flags === 0 ? staged.then(() => conflicting.commit()) : staged);
      assert.equal(error.sqlstate, "23505");
      assert.equal((await rowsOf(call, "/m/")).length, 1);
    }
    await call(Method.DELETE_RANGE, get("/m/2002999"));
    const immediate = new TestTransaction(call);
    await immediate.write(write(mixed, { flags: StageFlag.IMMEDIATE }));
    assert.equal((await rowsOf(call, "/m/")).length, mixed.length);
    const atomic = new TestTransaction(call, { requireAtomic: true });
    atomic.stage(write(many("/a/", 200, 20_000)));
    const error = await errorFrom(atomic.commit());
    assert.equal(error.sqlstate, "54000");
    assert.match(error.hint, /max_request_bytes/);
    assert.equal((await rowsOf(call, "/a/")).length, 0);
  });
});

Deno.test("size: of several Txns none has so many rows that etcd takes long, and few are on their way", async () => {
  for (const kind of [StageKind.INSERT, StageKind.UPSERT]) {
    let underWay = 0;
    let most = 0;
    const transaction = new TestTransaction(async () => {
      most = Math.max(most, ++underWay);
      await new Promise((resolve) => setTimeout(resolve, 30));
      underWay--;
      return encodeReadResponses(Uint8Array.of(3 << 3, 7), []);
    });
    const rows = 100_000;
    transaction.stage(write(many("/t/", rows, 1, kind)));
    const { count } = await transaction.commit();
    assert.equal(count, Math.ceil(rows / 8192));
    assert.ok(most <= 2, `${most} on their way`);
  }
});

Deno.test("size: a row that no request can hold is an error that names it, and only that", async () => {
  await withEtcd(async (call) => {
    const limit = 1536 * 1024;
    const transaction = new TestTransaction(call);
    // The largest that fits is taken by etcd too.
    const fits = "x".repeat(limit - 1024 - 40);
    transaction.stage(write([entry(StageKind.INSERT, "/r/1", fits)]));
    transaction.stage(write([entry(StageKind.INSERT, "/r/2", "x".repeat(limit - 1000))], { level: 2 }));
    const error = await errorFrom(transaction.read(Method.RANGE, get("/r/1"), 9));
    assert.equal(error.sqlstate, "54000");
    assert.match(error.message, /"\/r\/2"/);
    assert.match(error.hint, /max_request_bytes/);
    transaction.rollback(2);
    await transaction.commit();
    assert.equal((await rowsOf(call, "/r/")).length, 1);
    const small = new TestTransaction(call, { maxRequestBytes: 50_000 });
    small.stage(write(many("/s/", 100, 5000)));
    assert.equal((await small.commit()).count, 12);
  });
});

Deno.test("size: without nesting, only what one flat Txn holds is one", async () => {
  await withEtcd(async (call) => {
    const sent: number[] = [];
    const counted: Call = (method, payload) => {
      sent.push(method);
      return call(method, payload);
    };
    const transaction = new TestTransaction(counted, { nested: false });
    transaction.stage(write(many("/f/", 129)));
    assert.equal((await transaction.commit()).count, 2);
    assert.deepEqual(sent, [Method.READ_TXN, Method.READ_TXN, Method.TXN, Method.TXN]);
    sent.length = 0;
    const single = new TestTransaction(counted);
    single.stage(write(many("/g/", 1)));
    await single.commit();
    assert.deepEqual(sent, [Method.TXN], "a row by itself is one call");
  });
});

Deno.test("size: a user with rights on one prefix commits what any other may", async () => {
  await withEtcd(async (admin, etcd) => {
    await admin(Method.PUT, put("/theirs/1", "x"));
    for (
      const command of [
        ["user", "add", "root:root"],
        ["user", "grant-role", "root", "root"],
        ["user", "add", "app:secret"],
        ["role", "add", "app"],
        ["role", "grant-permission", "--prefix=true", "app", "readwrite", "/app/"],
        ["user", "grant-role", "app", "app"],
        ["auth", "enable"],
      ]
    ) await etcd.ctl(...command);
    const cluster = new Cluster({
      ...{ runtime: REAL, endpoints: [etcd.endpoint], log: () => {} },
      ...{ username: "app", password: "secret" },
    });
    const call: Call = (method, payload) =>
      cluster.call(method, payload, { connect: 3000, retries: 1, deadline: Deadline.after(REAL, 20_000) });
    try {
      const insert = new TestTransaction(call);
      insert.stage(write(many("/app/", 5000)));
      assert.equal((await insert.commit()).count, 1);
      const again = new TestTransaction(call);
      again.stage(write([...many("/app/", 1), ...many("/app/new/", 1000)]));
      assert.equal((await errorFrom(again.commit())).sqlstate, "23505");
      const deletes = new TestTransaction(call);
      const rows = await rowsOf(call, "/app/");
      deletes.stage(write(rows.map((row) => ({ ...entry(StageKind.DELETE, "", "", row), key: row.key }))));
      assert.equal((await deletes.commit()).count, 1);
      assert.equal((await rowsOf(call, "/app/")).length, 0);
      // What lies beyond is refused, and takes all with it.
      const beyond = new TestTransaction(call);
      beyond.stage(write([...many("/app/", 3), ...many("/theirs/", 2)]));
      assert.equal((await errorFrom(beyond.commit())).sqlstate, "42501");
      assert.equal((await rowsOf(call, "/app/")).length, 0);
      // etcd itself looks at rights on a Txn's first level only.
      const far = new TestTransaction(call);
      far.stage(write([...many("/app/", 300), ...many("/theirs/", 1)]));
      assert.equal((await errorFrom(far.commit())).sqlstate, "42501");
      assert.equal((await rowsOf(call, "/app/")).length, 0);
    } finally {
      cluster.close();
    }
  });
});

Deno.test("size: a range that SERIALIZABLE must hold key by key is what is too large, and is said to be", async () => {
  await withEtcd(async (call) => {
    for (let i = 0; i < 40; i++) await call(Method.PUT, put(`/g/${i}`, "x"));
    const transaction = new TestTransaction(call, { maxTxnOps: 16, nested: false });
    await transaction.deleteRange(deletion("/g/", "/g0", 1, { flags: StageFlag.RECORDED }));
    const error = await errorFrom(transaction.commit());
    assert.equal(error.sqlstate, "54000");
    // The range that was read, the 40 keys, and the DELETE of the range.
    assert.match(
      error.detail,
      /^Its 42 writes and comparisons take 3 Txns; .*under SERIALIZABLE, all of them/,
    );
    assert.equal((await rowsOf(call, "/g/")).length, 40);
  });
});

Deno.test("size: no request is larger than etcd takes, whatever the keys' lengths, and few are much smaller", async () => {
  const limit = STAGING.maxRequestBytes;
  const random = randomOf(1);
  const lengths: Record<string, (i: number) => number> = {
    // The first key of each group is long.
    periodic: (i) => i % 64 === 0 ? 1000 : 0,
    "one in four": (i) => i % 4 === 0 ? 1000 : 0,
    random: () => random.below(500),
    rare: () => random.chance(0.01) ? random.below(20_000) : 0,
    long: () => 1000,
  };
  for (const [what, lengthOf] of Object.entries(lengths)) {
    for (const kind of [StageKind.INSERT, StageKind.UPSERT]) {
      const sizes: number[] = [];
      const call: Call = (_, payload) => {
        sizes.push(payload.length);
        return Promise.resolve(encodeReadResponses(Uint8Array.of(3 << 3, 7), []));
      };
      const transaction = new TestTransaction(call);
      transaction.stage(write(Array.from({ length: 9001 }, (_, i) => {
        const key = `/t/P/${String(i).padStart(6, "0")}${"x".repeat(lengthOf(i))}`;
        // What is not guarded lies between what is.
        return entry(i % 50 === 0 ? StageKind.INSERT : kind, key, "v".repeat(300));
      })));
      await transaction.commit();
      assert.ok(sizes.every((size) => size <= limit - 1024), `${what}: ${sizes}`);
      const writing = sizes.slice(sizes.length / 2);
      assert.ok(sizes.length > 2 && Math.max(...writing) > 0.97 * limit, `${what}: ${sizes}`);
    }
  }
});
