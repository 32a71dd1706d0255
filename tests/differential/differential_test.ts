// The same random queries on foreign tables and on local twins must give the same rows.
//
// ETCD_FDW_QUERIES: how many (2,000). ETCD_FDW_WRITES: statements of the test of writes (1,000). ETCD_FDW_TRANSACTIONS: of the
// test beside another client (500). ETCD_FDW_SEED: where they come from; chance without it, printed either way.
// ETCD_FDW_FIRST: the number of the first one, to repeat a failure at once.

import { suite } from "../helpers/suite.ts";
import { Random } from "./prng.ts";
import { runQueries } from "./run.ts";
import { createOthersTable, runOthers } from "./others.ts";
import { createWorld } from "./world.ts";
import { createWriteTables, runWrites } from "./writes.ts";

const number = (name: string, otherwise: number) => Number(Deno.env.get(name) || otherwise);
const seed = number("ETCD_FDW_SEED", Math.floor(Math.random() * 0x7fffffff));
const queries = number("ETCD_FDW_QUERIES", 2000);
const first = number("ETCD_FDW_FIRST", 0);

const { db, etcd, test } = await suite("differential");
const world = await createWorld(await db.connect(), etcd, new Random(seed));

const writes = number("ETCD_FDW_WRITES", 1000);
const transactions = number("ETCD_FDW_TRANSACTIONS", 500);

/** A session that finds the tables of this schema by their bare names; RESET ALL must not forget which are meant. */
const session = (schema: string) =>
  db.connect("postgres", undefined, [`search_path=${schema},public`, "statement_timeout=60s"]);

test(`${writes} random writes of seed ${seed}`, async () => {
  await createWriteTables(await db.connect());
  const sessions = { foreign: await session("f"), local: await session("l") };
  try {
    await runWrites(sessions, new Random(seed), seed, writes);
  } finally {
    await Promise.all([sessions.foreign.end(), sessions.local.end()]);
  }
});

test(`${transactions} random transactions of seed ${seed} beside another client`, async () => {
  await createOthersTable(await db.connect());
  const client = await session("f");
  try {
    await runOthers(client, etcd.client, new Random(seed), seed, transactions);
  } finally {
    await client.end();
  }
});

test(`${queries} random queries from number ${first} of seed ${seed}`, async () => {
  const sessions = { foreign: await session("f"), local: await session("l") };
  const started = performance.now();
  try {
    await runQueries(sessions, world, seed, first, queries, (done) => {
      const rate = Math.round(done / (performance.now() - started) * 1000);
      if (done % 10_000 === 0) console.log(`${done} queries, ${rate} a second`);
    });
  } finally {
    await Promise.all([sessions.foreign.end(), sessions.local.end()]);
  }
});
