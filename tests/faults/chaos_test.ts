// Everything that follows etcd, while everything around it is killed, stopped, compacted and led anew, as a seed decides: at
// the end mirrors are what etcd is, notifications are complete and in order, and no read of a cached table was wrong.
//
// ETCD_FDW_CHAOS_SECONDS: how long (20). ETCD_FDW_CHAOS_SEED: of the schedule.

import assert from "node:assert/strict";
// @ts-types="@types/pg"
import type pg from "pg";
import { Random } from "../differential/prng.ts";
import { Listener } from "../helpers/listener.ts";
import { proxyPids } from "../helpers/proxy.ts";
import { suite } from "../helpers/suite.ts";
import { delay, waitFor } from "../helpers/wait.ts";

const number = (name: string, otherwise: number) => Number(Deno.env.get(name) || otherwise);
const seconds = number("ETCD_FDW_CHAOS_SECONDS", 20);
const seed = number("ETCD_FDW_CHAOS_SEED", Date.now() % 1_000_000);
const random = new Random(seed);

const { db, etcd, test } = await suite("chaos", { members: 3 });
const KEYS = 40;
const STALENESS_MS = 3_000;
const ROUND_S = 120;
/** A member that answers for itself may be behind, and so may this process. */
const SLACK_MS = 2_000;

/** A write, in times of this process. */
interface Write {
  key: string;
  /** Null: a deletion. */
  value: string | null;
  begun: number;
  /** 0: not known. */
  revision: number;
  /** Infinity: not known to have ended. */
  ended: number;
}

/** What a cached table has shown. */
interface Read {
  table: "linearizable" | "stale";
  begun: number;
  ended: number;
  key: string;
  value: string | null;
  revision: number;
  /** What the session had written to this key itself. */
  own: number;
}

const writes: Write[] = [];
const reads: Read[] = [];
const now = () => performance.now();
const anyKey = () => `/chaos/${random.below(KEYS)}`;
let going = true;

/** Writes as any client of etcd does; values are this writer's own. */
async function write(name: string): Promise<void> {
  for (let i = 0; going; i++) {
    const value = random.chance(0.15) ? null : `${name} ${i}`;
    const one: Write = { key: anyKey(), value, begun: now(), revision: 0, ended: Infinity };
    writes.push(one);
    try {
      if (value === null) await etcd.delete(one.key);
      else one.revision = Number(await etcd.put(one.key, value));
      one.ended = now();
    } catch {
      await delay(30);
    }
    await delay(random.below(12));
  }
}

async function connected(): Promise<pg.Client> {
  const session = await db.connect();
  session.on("error", () => {});
  return session;
}

/** A session that reads both tables, and writes now and then; it begins again when it has ended. */
async function read(name: string): Promise<void> {
  let session: pg.Client | null = null;
  let own = new Map<string, number>();
  for (let i = 0; going; i++) {
    try {
      session ??= await connected();
      const key = anyKey();
      if (random.chance(0.2)) {
        const one: Write = { key, value: `${name} ${i}`, begun: now(), revision: 0, ended: Infinity };
        writes.push(one);
        const { rows } = await session.query("SELECT etcd_put('etcd', $1, $2) AS revision", [key, one.value]);
        one.revision = Number(rows[0].revision);
        one.ended = now();
        own.set(key, one.revision);
      }
      for (const table of ["linearizable", "stale"] as const) {
        const begun = now();
        const { rows: [row] } = await session.query(
          `SELECT value, mod_revision FROM ${table} WHERE key = $1`,
          [key],
        );
        const shown = { value: row?.value ?? null, revision: Number(row?.mod_revision ?? 0) };
        reads.push({ table, begun, ended: now(), key, ...shown, own: own.get(key) ?? 0 });
      }
    } catch {
      await session?.end().catch(() => {});
      session = null;
      own = new Map();
      await delay(100);
    }
    await delay(random.below(10));
  }
  await session?.end().catch(() => {});
}

/** What is wrong with a read, by what is known of the writes; null for nothing. */
function wrong(read: Read, ofKey: Write[]): string | null {
  const { value, revision, begun, ended, own } = read;
  const deletions = ofKey.filter((one) => one.value === null && one.begun < ended);
  if (value !== null && !ofKey.some((one) => one.value === value && one.begun < ended)) {
    return "shows what nobody had written";
  }
  const asOf = read.table === "stale" ? begun - STALENESS_MS - SLACK_MS : begun;
  const latest = ofKey.reduce((max, one) => one.ended < asOf ? Math.max(max, one.revision) : max, own);
  if (latest <= revision) return null;
  const by = ofKey.find((one) => one.revision === latest);
  // Of deletions no revision is known: one that may have been later explains that there is no row.
  if (value === null && deletions.some((one) => one.ended > (by?.begun ?? 0))) return null;
  return `shows revision ${revision} where ${latest} had been ${latest === own ? "written here" : "told"}`;
}

const psql = (text: string) => db.sql(text).catch(() => []);
const pids = async () => await proxyPids(dataDirectory);
const inTouch = () =>
  waitFor("the server", () => psql("SELECT 1 AS one").then((rows) => rows.length), { timeoutMs: 60_000 });
const signal = (pid: number, name: Deno.Signal) => {
  try {
    Deno.kill(pid, name);
  } catch {
    // It has ended.
  }
};
const endProcesses = (type: string) =>
  psql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = '${type}'`);
const restart = async (mode: "fast" | "immediate") => {
  await db.stopServer(mode);
  await delay(random.below(500));
  await db.startServer();
  await inTouch();
  await psql("SELECT etcd_follow()");
};

const FAULTS: (readonly [number, string, () => Promise<unknown>])[] = [
  [3, "worker ends", () => endProcesses("etcd_fdw follower")],
  [3, "mirror ends", () => endProcesses("etcd_fdw mirror")],
  [3, "proxy killed", async () => (await pids()).forEach((pid) => signal(pid, "SIGKILL"))],
  [2, "proxy stopped for a while", async () => {
    const all = await pids();
    for (const pid of all) signal(pid, "SIGSTOP");
    await delay(200 + random.below(4_000));
    for (const pid of all) signal(pid, "SIGCONT");
  }],
  [2, "member killed", async () => {
    const member = random.below(3);
    await etcd.kill(member);
    await delay(random.below(3_000));
    await etcd.restart(member);
  }],
  [2, "leader killed", async () => {
    const member = await etcd.leader();
    await etcd.kill(member);
    await delay(1_000 + random.below(3_000));
    await etcd.restart(member);
  }],
  [2, "member paused", async () => {
    const member = random.below(3);
    await etcd.pause(member);
    await delay(500 + random.below(5_000));
    await etcd.resume(member);
  }],
  [1, "server stopped fast", () => restart("fast")],
  [1, "server stopped at once", () => restart("immediate")],
  [
    2,
    "compaction",
    async () => await etcd.compact(Number(await etcd.revision()) - random.below(300)).catch(() => {}),
  ],
  [2, "paused and resumed", async () => {
    await psql("SELECT etcd_pause('chaos'), etcd_pause('copy')");
    await delay(random.below(1_500));
    await waitFor(
      "resuming",
      () => psql("SELECT etcd_resume('chaos'), etcd_resume('copy')").then((rows) => rows.length),
      {
        timeoutMs: 60_000,
      },
    );
  }],
];

const dataDirectory = (await db.sql("SHOW data_directory"))[0].data_directory as string;
const differing = async (one: string, other: string) =>
  Number(
    (await db.sql(
      `SELECT count(*) AS n FROM ((${one} EXCEPT ALL ${other}) UNION ALL (${other} EXCEPT ALL ${one})) d`,
    ))[0].n,
  );
const same = (one: string, other: string) =>
  waitFor(one, async () => await differing(one, other) === 0, { timeoutMs: 90_000, intervalMs: 200 });
const EVEN = "SELECT id, value FROM numbered WHERE id % 2 = 0 AND value LIKE 'a%'";

/** Writers, readers and faults for so long; what has happened. */
async function chaos(ms: number): Promise<string[]> {
  going = true;
  const done = Promise.all([write("a 1"), write("b 2"), write("a 3"), read("a 4"), read("b 5")]);
  const happened: string[] = [];
  for (const end = now() + ms; now() < end;) {
    await delay(200 + random.below(2_000));
    const fault = random.weighted(FAULTS.map((fault) => [fault[0], fault] as const));
    happened.push(fault[1]);
    await fault[2]();
  }
  await delay(1_000);
  going = false;
  await done;
  await inTouch();
  await psql("SELECT etcd_follow()");
  return happened;
}

/** All that was acknowledged was told, once and in order, but for what nobody heard and what lies before a resync. */
async function checkNotifications(heard: Listener): Promise<string> {
  const byValue = new Map(writes.map((one) => [one.value, one]));
  const last = Math.max(...writes.map(({ revision }) => revision));
  await waitFor("the last to be told", () => heard.last >= last, { timeoutMs: 60_000 });
  const told = new Set<string>();
  const gaps = [...heard.gaps];
  let [before, resyncs] = [0, 0];
  for (const { kind, key, value, mod_revision } of heard.told) {
    assert.ok(mod_revision >= before, `${mod_revision} was told behind ${before}`);
    if (kind === "resync") {
      gaps.push({ from: before, to: mod_revision });
      resyncs++;
    } else {
      const id = `${mod_revision} ${key}`;
      assert.ok(!told.has(id), `${id} was told twice`);
      told.add(id);
      if (kind === "put") assert.equal(byValue.get(value!)?.key, key, `${id} was told, but did not happen`);
    }
    before = mod_revision;
  }
  const acknowledged = writes.filter(({ revision, value }) => revision !== 0 && value !== null);
  const missing = acknowledged.filter(({ key, revision }) => !told.has(`${revision} ${key}`));
  for (const { key, revision } of missing) {
    assert.ok(
      gaps.some(({ from, to }) => revision > from && revision <= to),
      `${revision} ${key} was not told`,
    );
  }
  assert.ok(told.size > acknowledged.length / 4, "little was told");
  return `${acknowledged.length} puts acknowledged, ${told.size} events told, ${missing.length} unheard, ${resyncs} resyncs`;
}

function checkReads(): void {
  const ofKey = Map.groupBy(writes, ({ key }) => key);
  const errors = reads.flatMap((read) => {
    const reason = wrong(read, ofKey.get(read.key) ?? []);
    return reason === null ? [] : [`${reason}: ${JSON.stringify(read)}`];
  });
  assert.deepEqual(errors.slice(0, 5), []);
}

test(`seed ${seed}, for ${seconds} s`, async () => {
  const options = `prefix '/chaos/', cache 'true', cache_verify '3'`;
  await db.sql(`${etcd.createServerSql("etcd")};
    ALTER DATABASE etcd_fdw SET etcd_fdw.default_server = 'etcd'; SET etcd_fdw.default_server = 'etcd';
    CREATE FOREIGN TABLE plain (key text COLLATE "C", value text, mod_revision bigint) SERVER etcd OPTIONS (prefix '/chaos/');
    CREATE FOREIGN TABLE linearizable (key text COLLATE "C", value text, mod_revision bigint) SERVER etcd OPTIONS (${options});
    CREATE FOREIGN TABLE stale (key text COLLATE "C", value text, mod_revision bigint) SERVER etcd
      OPTIONS (${options}, consistency 's', max_staleness '${STALENESS_MS}');
    CREATE FOREIGN TABLE numbered (id int, value text) SERVER etcd OPTIONS (key_pattern '/chaos/{id}');
    CREATE TABLE copy (key text COLLATE "C" PRIMARY KEY, value text, mod_revision bigint);
    CREATE TABLE part (id int PRIMARY KEY, value text);
    SELECT etcd_mirror('copy', 'copy', 'plain', verify => '5 s'),
      etcd_mirror('part', 'part', 'numbered', filter => 'id % 2 = 0 AND value LIKE ''a%''')`);
  // What one round has shown is checked before the next: an hour of it would be much.
  for (let left = seconds; left > 0; left -= ROUND_S) {
    writes.length = reads.length = 0;
    const heard = await Listener.on(db, "chaos");
    await db.sql("SELECT etcd_subscribe('chaos', '/chaos/', 'chaos')");
    const happened = await chaos(Math.min(left, ROUND_S) * 1_000);
    await same("TABLE copy", "TABLE plain");
    await same("TABLE part", EVEN);
    await same("TABLE linearizable", "TABLE plain");
    const repaired = await db.sql("SELECT name, repaired FROM etcd_fdw_mirrors WHERE repaired > 0");
    assert.deepEqual(repaired, [], "events were enough");
    const told = await checkNotifications(heard);
    checkReads();
    console.log(`${reads.length} reads, ${told}; ${happened.join(", ")}`);
    await heard.end();
    await db.sql("SELECT etcd_unsubscribe('chaos')");
    await etcd.clear();
    // Until what may be stale is not as stale as this.
    if (left > ROUND_S) await delay(STALENESS_MS + SLACK_MS);
  }
});
