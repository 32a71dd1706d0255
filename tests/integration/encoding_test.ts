// Databases in other encodings: etcd holds UTF-8, PostgreSQL shows its own.

import assert from "node:assert/strict";
import type { SqlError } from "../helpers/database.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("encoding");

await etcd.put("/enc/é", "ü");
await etcd.put("/enc/日本", "語");

/** A further database in an encoding, with the extension and a table. */
async function inEncoding(encoding: string) {
  const name = `enc_${encoding.toLowerCase()}`;
  await db.sql(`CREATE DATABASE ${name} ENCODING '${encoding}' LOCALE 'C' TEMPLATE template0`);
  const client = await db.connect("postgres", name);
  await client.query(`CREATE EXTENSION etcd_fdw;
    CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
    CREATE FOREIGN TABLE e (key text, value text) SERVER etcd OPTIONS (prefix '/enc/');
    CREATE FOREIGN TABLE b (key bytea, value bytea) SERVER etcd OPTIONS (prefix '/enc/')`);
  return client;
}

test("LATIN1 shows what it has, finds by it, and says what it lacks", async () => {
  const client = await inEncoding("LATIN1");
  try {
    assert.deepEqual((await client.query("SELECT value FROM e WHERE key = '/enc/é'")).rows, [{ value: "ü" }]);
    assert.deepEqual((await client.query("SELECT value FROM e WHERE key LIKE '/enc/é%'")).rows, [{
      value: "ü",
    }]);
    await assert.rejects(client.query("SELECT * FROM e"), (error: SqlError) => {
      return error.code === "22021" && error.message.includes('"/enc/\\xe6\\x97') &&
        error.hint!.includes("bytea");
    });
    assert.equal((await client.query("SELECT * FROM b")).rows.length, 2);
  } finally {
    await client.end();
  }
});

test("SQL_ASCII passes bytes through", async () => {
  const client = await inEncoding("SQL_ASCII");
  try {
    assert.equal((await client.query("SELECT * FROM b")).rows.length, 2);
    assert.equal((await client.query("SELECT octet_length(value) AS n FROM e ORDER BY 1")).rows[1].n, 3);
  } finally {
    await client.end();
  }
});
