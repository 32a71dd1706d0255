// Replies that no real etcd sends: each is a clean error, and the backend lives.

import assert from "node:assert/strict";
import type { Row, SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";
import { rangeResponse, startFakeEtcd } from "../helpers/fake_etcd.ts";

const { db, test } = await suite("replies", { etcd: false });

const good = rangeResponse([{ key: "/k/a", value: "1" }, { key: "/k/b", value: "2" }], { revision: 5 });
// A reply must not be able to hold the backend for ever.
await db.sql("SET statement_timeout = '5s'");
let reply: Uint8Array = good;
const fake = await startFakeEtcd(() => reply);
Deno.test.afterAll(() => fake.stop());
await db.sql(`CREATE SERVER fake FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${fake.endpoint}');
  CREATE FOREIGN TABLE k (key text, value text) SERVER fake OPTIONS (prefix '/k/')`);

/** The rows of the reply, or the error. */
async function read(bytes: Uint8Array): Promise<Row[] | SqlError> {
  reply = bytes;
  return await db.sql("SELECT * FROM k").catch((error: SqlError) => error);
}

async function failure(bytes: Uint8Array): Promise<SqlError> {
  const result = await read(bytes);
  assert.ok(!Array.isArray(result), "rows instead of an error");
  return result;
}

test("the intact reply is rows", async () => {
  assert.deepEqual(await read(good), [{ key: "/k/a", value: "1" }, { key: "/k/b", value: "2" }]);
});

test("a reply that is cut off anywhere is an error or the rows before the cut, never a crash", async () => {
  for (let length = 0; length < good.length; length++) {
    const result = await read(good.slice(0, length));
    if (Array.isArray(result)) assert.ok(result.length <= 2);
    else assert.equal(result.code, "08P01", `cut at ${length}: ${result.message}`);
  }
  assert.equal((await read(good) as Row[]).length, 2);
});

test("a reply with any byte changed never harms the backend", async () => {
  const [{ pid }] = await db.sql("SELECT pg_backend_pid() AS pid");
  for (let at = 0; at < good.length; at++) {
    for (const flip of [0x01, 0x80, 0xff]) {
      const damaged = good.slice();
      damaged[at] ^= flip;
      const result = await read(damaged);
      if (!Array.isArray(result)) {
        assert.match(String(result.code), /^(08P01|22021|XX000)$/, `byte ${at}: ${result.message}`);
      }
    }
  }
  assert.equal((await db.sql("SELECT pg_backend_pid() AS pid"))[0].pid, pid);
});

test("impossible numbers and lengths are named", async () => {
  const cases: [number[], RegExp][] = [
    [[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f], /longer than what is left/],
    [[0x20, ...Array(10).fill(0xff), 0x01], /longer than 64 bits/],
    [[0x20, 0x80], /cut off/],
    [[0x00], /impossible number/],
    [[0x0f], /unknown wire type/],
    [[0x10, 0x01], /another wire type/],
    [[0x12, 0x00], /key is empty/],
  ];
  for (const [bytes, detail] of cases) {
    const error = await failure(Uint8Array.from(bytes));
    assert.equal(error.code, "08P01", String(bytes));
    assert.match(error.detail!, detail);
  }
});

test("fields that are not known are skipped", async () => {
  const more = Uint8Array.from([
    ...good,
    0xfa,
    0x01,
    0x02,
    0x61,
    0x62,
    0xf8,
    0x01,
    0x05,
    0xf1,
    0x01,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
  ]);
  assert.equal((await read(more) as Row[]).length, 2);
});

test("more without a key is an error, not an endless loop", async () => {
  const error = await failure(rangeResponse([], { revision: 5, more: true }));
  assert.equal(error.code, "08P01");
  assert.match(error.message, /more keys but sent none/);
});
