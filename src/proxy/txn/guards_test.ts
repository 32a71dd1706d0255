// What must hold of keys that a transaction has seen, against a real etcd and other clients.

import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { encodeLease } from "../../etcd/lease.ts";
import { encodeRangeRequest, encodeReadTxn } from "../../etcd/messages.ts";
import { decodeRangeResponse } from "../../etcd/ranges.ts";
import { Method } from "../../ipc/frame.ts";
import { StageFlag, StageKind } from "../../ipc/stage.ts";
import { errorFrom, get, getPrefix, put } from "../testing_requests.ts";
import { deletion, entry, TestTransaction, withEtcd, write } from "../testing_txn.ts";
import type { Call } from "./driver.ts";

async function rowOf(call: Call, key: string) {
  return decodeRangeResponse(await call(Method.RANGE, get(key))).rows[0];
}

/** What etcd holds. */
async function stored(call: Call): Promise<Record<string, string>> {
  const { rows } = decodeRangeResponse(await call(Method.RANGE, getPrefix("/")));
  return Object.fromEntries(rows.map(({ key, value }) => [decodeUtf8(key), decodeUtf8(value)]));
}

async function reset(call: Call, rows: Record<string, string>): Promise<void> {
  const all = getPrefix("/");
  await call(Method.DELETE_RANGE, all);
  for (const [key, value] of Object.entries(rows)) await call(Method.PUT, put(key, value));
}

Deno.test("guards: a deleted range does not take what others made of the transaction's own rows", async () => {
  await withEtcd(async (call) => {
    // What the transaction did to /d/2, what another client does then.
    for (const [own, theirs] of [["update", "change"], ["insert", "make"], ["delete", "remake"]]) {
      const there: Record<string, string> = own === "insert" ? {} : { "/d/2": "old" };
      await reset(call, { "/d/1": "old", "/d/3": "old", ...there });
      const transaction = new TestTransaction(call);
      const kind = { update: StageKind.UPDATE, insert: StageKind.INSERT, delete: StageKind.DELETE }[own]!;
      // Checked, as within a transaction block: so it is known that the key was not there.
      const row = await rowOf(call, "/d/2");
      await transaction.write(write([entry(kind, "/d/2", "own", row)], { flags: StageFlag.CHECK }));
      if (theirs === "remake") await call(Method.DELETE_RANGE, get("/d/2"));
      await call(Method.PUT, put("/d/2", "theirs"));
      await transaction.deleteRange(deletion("/d/", "/d0"));
      if (own === "insert") {
        // Made and deleted again: it was never there, and what is there now is another's.
        await transaction.commit();
        assert.deepEqual(await stored(call), { "/d/2": "theirs" }, own);
      } else {
        assert.equal((await errorFrom(transaction.commit())).sqlstate, "40001", own);
        assert.deepEqual(await stored(call), { "/d/1": "old", "/d/2": "theirs", "/d/3": "old" }, own);
      }
    }
  });
});

const reading = (key: string, revision?: bigint) =>
  encodeRangeRequest({
    key: encodeUtf8(key),
    rangeEnd: null,
    revision: revision === undefined ? undefined : String(revision),
  });

Deno.test("guards: what was read must hold even if the key is made and deleted again", async () => {
  await withEtcd(async (call) => {
    await reset(call, {});
    // Both read both keys as absent, and each makes one: at most one may commit.
    const [one, two] = [new TestTransaction(call), new TestTransaction(call)];
    for (const [transaction, mine, other] of [[one, "/x", "/y"], [two, "/y", "/x"]] as const) {
      await transaction.read(Method.RANGE, reading(mine), 1, true);
      await transaction.read(Method.RANGE, reading(other), 1, true);
      transaction.stage(write([entry(StageKind.INSERT, other, "made")], { command: 2 }));
      transaction.stage(write([entry(StageKind.DELETE, other)], { command: 3 }));
      transaction.stage(write([entry(StageKind.INSERT, mine, "mine")], { command: 4 }));
    }
    await one.commit();
    const error = await errorFrom(two.commit());
    assert.equal(error.sqlstate, "40001");
    assert.match(error.detail, /"\/x"/);
    assert.deepEqual(await stored(call), { "/x": "mine" });
  });
});

Deno.test("guards: a key that was read and that another deleted cannot be inserted", async () => {
  await withEtcd(async (call) => {
    await reset(call, { "/x": "1" });
    const transaction = new TestTransaction(call);
    await transaction.read(Method.RANGE, reading("/x"), 1, true);
    await call(Method.DELETE_RANGE, get("/x"));
    const insert = write([entry(StageKind.INSERT, "/x", "2")], { command: 2, flags: 1 });
    assert.equal((await errorFrom(transaction.write(insert))).sqlstate, "40001");
    // The reverse: what was read as absent, and was made by another, is a conflict and no duplicate.
    const other = new TestTransaction(call);
    await other.read(Method.RANGE, reading("/x"), 1, true);
    other.stage(write([entry(StageKind.INSERT, "/x", "2")], { command: 2 }));
    await call(Method.PUT, put("/x", "theirs"));
    assert.equal((await errorFrom(other.commit())).sqlstate, "40001");
  });
});

Deno.test("guards: every recorded read must hold, whatever revision it names, and an unrecorded one need not", async () => {
  await withEtcd(async (call) => {
    for (const first of ["past", "latest"]) {
      await reset(call, { "/old": "1", "/new": "1" });
      const past = (await rowOf(call, "/old")).modRevision;
      await call(Method.PUT, put("/old", "2"));
      const transaction = new TestTransaction(call);
      const history = () => transaction.read(Method.RANGE, reading("/old", past), 1);
      if (first === "past") await history();
      await transaction.read(Method.RANGE, reading("/new"), 1, true);
      if (first === "latest") await history();
      transaction.stage(write([entry(StageKind.UPSERT, "/w", first)], { command: 3 }));
      await transaction.commit();
    }
    // A snapshot may be older than the channel's first recorded read, and names its revision.
    const scan = (revision: bigint) => ({
      ...{ key: encodeUtf8("/s/"), rangeEnd: encodeUtf8("/s0"), revision: String(revision) },
    });
    const shapes: Record<string, (transaction: TestTransaction, revision: bigint) => Promise<unknown>> = {
      key: (transaction, revision) => transaction.read(Method.RANGE, reading("/s/a", revision), 1, true),
      absent: (transaction, revision) => transaction.read(Method.RANGE, reading("/s/z", revision), 1, true),
      range: (transaction, revision) =>
        transaction.read(Method.RANGE, encodeRangeRequest(scan(revision)), 1, true),
      txn: (transaction, revision) =>
        transaction.read(Method.READ_TXN, encodeReadTxn([scan(revision)]), 1, true),
      "behind a later one": async (transaction, revision) => {
        await transaction.read(Method.RANGE, getPrefix("/other/"), 1, true);
        await transaction.read(Method.RANGE, encodeRangeRequest(scan(revision)), 1, true);
      },
    };
    for (const [shape, read] of Object.entries(shapes)) {
      for (const when of ["before", "behind", "never"]) {
        await reset(call, { "/s/a": "1" });
        const { revision } = decodeRangeResponse(await call(Method.RANGE, get("/s/a")));
        const change = () => call(Method.PUT, put(shape === "absent" ? "/s/z" : "/s/a", "theirs"));
        const transaction = new TestTransaction(call);
        if (when === "before") await change();
        await read(transaction, revision);
        if (when === "behind") await change();
        transaction.stage(write([entry(StageKind.UPSERT, "/w", shape)], { command: 3 }));
        if (when === "never") await transaction.commit();
        else assert.equal((await errorFrom(transaction.commit())).sqlstate, "40001", `${shape} ${when}`);
      }
    }
  });
});

Deno.test("guards: a transaction that has only read is validated by its commit, and writes nothing", async () => {
  await withEtcd(async (call) => {
    await reset(call, { "/a": "1", "/b": "1" });
    const shapes = {
      key: reading("/a"),
      range: getPrefix("/"),
      count: encodeRangeRequest({ key: encodeUtf8("/"), rangeEnd: encodeUtf8("0"), countOnly: true }),
      first: encodeRangeRequest({ key: encodeUtf8("/"), rangeEnd: encodeUtf8("0"), limit: 1 }),
    };
    const changes: Record<string, () => Promise<unknown>> = {
      none: () => Promise.resolve(),
      change: () => call(Method.PUT, put("/a", "2")),
      removal: () => call(Method.DELETE_RANGE, get("/a")),
      elsewhere: () => call(Method.PUT, put("/b", "2")),
    };
    for (const [shape, message] of Object.entries(shapes)) {
      for (const [what, change] of Object.entries(changes)) {
        await call(Method.PUT, put("/a", "1"));
        const transaction = new TestTransaction(call);
        await transaction.read(Method.RANGE, message, 1, true);
        await change();
        const before = (await rowOf(call, "/b")).modRevision;
        const conflicts = what === "change" || what === "removal" ||
          what === "elsewhere" && (shape === "range" || shape === "count");
        if (conflicts) {
          assert.equal((await errorFrom(transaction.commit())).sqlstate, "40001", `${shape} ${what}`);
        } else await transaction.commit();
        const { revision, rows } = decodeRangeResponse(await call(Method.RANGE, get("/b")));
        assert.equal(rows[0].modRevision, before);
        assert.ok(what !== "none" || revision >= before);
      }
    }
  });
});

Deno.test("guards: what was read in a subtransaction that is rolled back was read all the same", async () => {
  await withEtcd(async (call) => {
    await reset(call, { "/a": "1" });
    const transaction = new TestTransaction(call);
    await transaction.read(Method.RANGE, reading("/a"), 1, true);
    transaction.stage(write([entry(StageKind.UPDATE, "/a", "2", await rowOf(call, "/a"))], { level: 2 }));
    transaction.rollback(2);
    transaction.stage(write([entry(StageKind.UPSERT, "/w", "x")], { command: 3 }));
    await call(Method.PUT, put("/a", "theirs"));
    assert.equal((await errorFrom(transaction.commit())).sqlstate, "40001");
  });
});

Deno.test("guards: what an INSERT has found to exist, or not, is read where that is recorded", async () => {
  await withEtcd(async (call) => {
    const insert = (key: string, level: number, flags: number) =>
      write([entry(StageKind.INSERT, key, "own")], { level, flags: StageFlag.CHECK | flags });
    for (const flags of [StageFlag.RECORDED, 0]) {
      // What is there, at which level it is found, what another client does then, and what the commit says.
      for (
        const [there, level, change, code] of [
          [true, 1, "removal", "40001"],
          [true, 1, "change", "40001"],
          [true, 2, "removal", "40001"],
          [true, 1, "none", ""],
          [false, 1, "change", "23505"],
          [false, 1, "none", ""],
          [false, 2, "change", "40001"],
          [false, 2, "none", ""],
        ] as const
      ) {
        await reset(call, there ? { "/i": "1" } : {});
        const transaction = new TestTransaction(call);
        const { refused } = await transaction.write(insert("/i", level, flags));
        assert.deepEqual(refused, there ? [0] : []);
        if (level === 2) transaction.rollback(2);
        if (change === "removal") await call(Method.DELETE_RANGE, get("/i"));
        else if (change === "change") await call(Method.PUT, put("/i", "theirs"));
        transaction.stage(write([entry(StageKind.UPSERT, "/w", "x")], { command: 3 }));
        const outcome = await transaction.commit().then(() => "", ({ sqlstate }) => sqlstate);
        const what = `${flags} ${there} ${level} ${change}`;
        assert.equal(outcome, flags === 0 && (there || level === 2) ? "" : code, what);
      }
    }
    // Written at once: what is there from then on is the transaction's own.
    await reset(call, {});
    const transaction = new TestTransaction(call);
    await transaction.write(insert("/i", 2, StageFlag.RECORDED | StageFlag.IMMEDIATE));
    transaction.stage(write([entry(StageKind.UPSERT, "/w", "x")], { command: 3 }));
    await transaction.commit();
  });
});

Deno.test("leases: rows whose commit was not answered keep theirs, and a savepoint's go with it", async () => {
  await withEtcd(async (call) => {
    await reset(call, {});
    // etcd has applied the Txn, and its answer does not come through.
    const losing: Call = async (method, payload) => {
      const reply = await call(method, payload);
      if (method === Method.TXN) throw new EtcdFdwError("08007", "lost");
      return reply;
    };
    const transaction = new TestTransaction(losing);
    const lease = await transaction.grant(600);
    transaction.stage(write([entry(StageKind.INSERT, "/l", "kept", undefined, lease)]));
    const inner = await transaction.grant(700, 2);
    transaction.stage(write([entry(StageKind.INSERT, "/m", "dropped", undefined, inner)], { level: 2 }));
    transaction.rollback(2);
    assert.equal((await errorFrom(transaction.commit())).sqlstate, "08007");
    transaction.end();
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.deepEqual(await stored(call), { "/l": "kept" });
    assert.deepEqual(transaction.revoked, [encodeLease(inner)]);
  });
});
