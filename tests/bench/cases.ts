// The benchmarks. Each measures the extension and its limit in turn, in one run.

// @ts-types="@types/pg"
import type pg from "pg";
import { findPostgres } from "../../build/postgres.ts";
import { run } from "../../build/run.ts";
import type { Sandbox } from "../../scripts/lib/sandbox.ts";
import type { EtcdCluster } from "../helpers/etcd.ts";
import { type Figure, inTurn, median, time } from "./measure.ts";

export interface Bench {
  sandbox: Sandbox;
  etcd: EtcdCluster;
  connect: () => Promise<pg.Client>;
}

const KEYS = 200_000;
const VALUE = "v".repeat(100);
const PREFIX = "/bench/";
const keyOf = (i: number) => PREFIX + String(i).padStart(8, "0");

/** Loads the keys once and makes the tables. */
export async function prepare({ etcd, connect }: Bench): Promise<void> {
  await etcd.putMany(Array.from({ length: KEYS }, (_, i): [string, string] => [keyOf(i), VALUE]));
  const client = await connect();
  await client.query(`CREATE EXTENSION IF NOT EXISTS etcd_fdw;
    DROP SERVER IF EXISTS bench CASCADE;
    CREATE SERVER bench FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.connstr}');
    CREATE FOREIGN TABLE bench (key text, value text) SERVER bench OPTIONS (prefix '${PREFIX}');
    CREATE FOREIGN TABLE sorted (key text COLLATE "C", value text) SERVER bench OPTIONS (prefix '${PREFIX}');
    CREATE FOREIGN TABLE written (key text, value text) SERVER bench OPTIONS (prefix '/written/');
    CREATE FOREIGN TABLE immediate (key text, value text) SERVER bench OPTIONS (prefix '/written/', write_mode 'immediate');
    CREATE FOREIGN TABLE cached (key text, value text) SERVER bench OPTIONS (prefix '${PREFIX}', cache 'true');
    CREATE FOREIGN TABLE stale (key text, value text) SERVER bench
      OPTIONS (prefix '${PREFIX}', cache 'true', consistency 's');
    CREATE FOREIGN TABLE nothing (key text, value text) SERVER bench OPTIONS (prefix '/nothing/')`);
  await client.end();
}

/** All keys to the client, beside etcdctl: two programs that print 200,000 keys and values to nowhere. */
async function scan({ sandbox, etcd }: Bench): Promise<Figure[]> {
  const psql = () =>
    run("sh", [
      "-c",
      '"$0" -X -q -c "COPY (SELECT key, value FROM bench) TO STDOUT" >/dev/null',
      sandbox.psqlPath,
    ], { env: sandbox.env() });
  const etcdctl = () =>
    run("sh", ["-c", `etcdctl --endpoints=${etcd.connstr} get --prefix ${PREFIX} >/dev/null`], {
      env: { ETCDCTL_API: "3" },
    });
  const whole = await inTurn(5, psql, etcdctl);
  return [{
    case: "scan",
    what: `psql, COPY of ${KEYS} keys x ${VALUE.length} B`,
    value: whole.a,
    unit: "ms",
    limit: { what: "etcdctl get --prefix", value: whole.b },
    ratio: whole.ratio,
  }];
}

/** A backend's own memory, in MB: resident pages that are not shared. */
async function residentMb(pid: number): Promise<number> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  return Number(/RssAnon:\s+(\d+) kB/.exec(status)![1]) / 1024;
}

/** How a backend grows while it scans; the engine is started before, so that the scan alone is measured. */
async function memory({ connect }: Bench): Promise<Figure[]> {
  const client = await connect();
  const [{ pid }] = (await client.query("SELECT pg_backend_pid() AS pid")).rows;
  await client.query("SELECT count(*) FROM nothing");
  const before = await residentMb(pid);
  let highest = before;
  let running = true;
  const watch = (async () => {
    while (running) {
      highest = Math.max(highest, await residentMb(pid));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  })();
  await client.query("SELECT sum(length(value)) FROM bench");
  running = false;
  await watch;
  await client.end();
  return [{
    case: "memory",
    what: `growth of the backend while it scans ${KEYS} keys`,
    value: highest - before,
    unit: "MB",
  }];
}

/** What a query costs before the first row: 50 SELECTs of an empty table in one session. */
async function fixed({ connect, etcd }: Bench): Promise<Figure[]> {
  const client = await connect();
  const request = Uint8Array.from([
    0x0a,
    9,
    ...new TextEncoder().encode("/nothing/"),
    0x12,
    9,
    ...new TextEncoder().encode("/nothing0"),
  ]);
  const select = async () => {
    for (let i = 0; i < 50; i++) await client.query("SELECT * FROM nothing");
  };
  const raw = async () => {
    for (let i = 0; i < 50; i++) await etcd.client.callMember(0, "/etcdserverpb.KV/Range", request, 5000);
  };
  const first = await connect();
  const cold = await time(() => first.query("SELECT * FROM nothing"));
  await first.end();
  const result = await inTurn(9, select, raw);
  await client.end();
  return [
    { case: "fixed", what: "first SELECT of a session, engine start included", value: cold, unit: "ms" },
    {
      case: "fixed",
      what: "SELECT of an empty table, each of 50",
      value: result.a / 50,
      unit: "ms",
      limit: { what: "raw unary Range", value: result.b / 50 },
      ratio: result.ratio,
    },
  ];
}

/** Microseconds of each of pgbench's transactions: a client in C, whose own time hardly counts. */
async function pgbench(
  sandbox: Sandbox,
  script: string,
  transactions: number,
  clients = 1,
): Promise<number[]> {
  const directory = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${directory}/script.sql`, script);
    const program = `${(await findPostgres()).bindir}/pgbench`;
    const log = ["--log", `--log-prefix=${directory}/log`];
    await run(program, [
      "-n",
      "-M",
      "prepared",
      "-c",
      String(clients),
      "-t",
      String(transactions),
      "-f",
      `${directory}/script.sql`,
      ...log,
    ], {
      env: sandbox.env(),
    });
    for await (const { name } of Deno.readDir(directory)) {
      if (!name.startsWith("log")) continue;
      const lines = (await Deno.readTextFile(`${directory}/${name}`)).trim().split("\n");
      return lines.map((line) => Number(line.split(" ")[2]));
    }
    return [];
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

const rangeOf = (key: string, end?: string, more: number[] = []) => {
  const bytes = (
    field: number,
    text: string,
  ) => [field << 3 | 2, text.length, ...new TextEncoder().encode(text)];
  return Uint8Array.from([...bytes(1, key), ...(end === undefined ? [] : bytes(2, end)), ...more]);
};

/** One key, prepared: p50 of many, in turn with unary calls. */
const point = (bench: Bench) =>
  oneKey(
    bench,
    "point",
    "SELECT of one key",
    `SELECT value FROM bench WHERE key = '${PREFIX}' || lpad((:i)::text, 8, '0');`,
  );

/** The same by a function. */
const get = (bench: Bench) =>
  oneKey(bench, "get", "etcd_get()", `SELECT etcd_get('bench', '${PREFIX}' || lpad((:i)::text, 8, '0'));`);

async function oneKey(
  { sandbox, etcd }: Bench,
  name: string,
  what: string,
  query: string,
): Promise<Figure[]> {
  const script = `\\set i random(0, ${KEYS - 1})
    ${query}`;
  const rounds: { select: number; raw: number }[] = [];
  for (let round = 0; round < 6; round++) {
    const select = median(await pgbench(sandbox, script, 1500)) / 1000;
    const raws: number[] = [];
    for (let i = 0; i < 1500; i++) {
      const request = rangeOf(keyOf((i * 7919 + round) % KEYS));
      raws.push(await time(() => etcd.client.callMember(0, "/etcdserverpb.KV/Range", request, 5000)));
    }
    if (round > 0) rounds.push({ select, raw: median(raws) });
  }
  return [{
    case: name,
    what: `${what}, prepared (pgbench), p50`,
    value: median(rounds.map(({ select }) => select)),
    unit: "ms",
    limit: { what: "raw unary Range, p50", value: median(rounds.map(({ raw }) => raw)) },
    ratio: median(rounds.map(({ select, raw }) => select / raw)),
  }];
}

/** LIMIT 5 and count(*) over all keys, beside the Range that asks for the same. */
async function upper({ connect, etcd }: Bench): Promise<Figure[]> {
  const client = await connect();
  const limit = rangeOf(PREFIX, "/bench0", [3 << 3, 5]);
  const count = rangeOf(PREFIX, "/bench0", [9 << 3, 1]);
  const figures: Figure[] = [];
  for (
    const [what, query, request] of [
      ["SELECT ... ORDER BY key LIMIT 5", "SELECT key, value FROM sorted ORDER BY key LIMIT 5", limit],
      ["SELECT count(*)", "SELECT count(*) FROM sorted", count],
    ] as const
  ) {
    const raw = () => etcd.client.callMember(0, "/etcdserverpb.KV/Range", request, 5000);
    const result = await inTurn(41, () => client.query(query), raw);
    figures.push({
      case: "upper",
      what: `${what} over ${KEYS} keys`,
      value: result.a,
      unit: "ms",
      limit: { what: "the same Range", value: result.b },
      ratio: result.ratio,
    });
  }
  await client.end();
  return figures;
}

const OUTER = 10_000;

/** A join that finds 10,000 keys: as the planner likes it, and by lookups alone. */
async function lookup({ connect, etcd }: Bench): Promise<Figure[]> {
  const client = await connect();
  await client.query(
    `CREATE TABLE IF NOT EXISTS wanted AS SELECT '${PREFIX}' || lpad((i * ${KEYS / OUTER})::text, 8, '0') AS k
    FROM generate_series(0, ${OUTER - 1}) i; ANALYZE wanted, sorted`,
  );
  const raw = async () => {
    for (let i = 0; i < OUTER; i++) {
      const request = rangeOf(keyOf(i * KEYS / OUTER));
      await etcd.client.callMember(0, "/etcdserverpb.KV/Range", request, 5000);
    }
  };
  const query = "SELECT count(value) FROM wanted JOIN sorted ON key = k";
  const figures: Figure[] = [];
  for (const [what, off] of [["planned freely", ""], ["by lookups", "hashjoin mergejoin"]]) {
    for (const name of off.split(" ").filter(Boolean)) await client.query(`SET enable_${name} = off`);
    const result = await inTurn(3, () => client.query(query), raw);
    figures.push({
      case: "lookup",
      what: `join of ${OUTER} rows with ${KEYS} keys, ${what}`,
      value: result.a,
      unit: "ms",
      limit: { what: `${OUTER} raw unary Ranges`, value: result.b },
      ratio: result.ratio,
    });
  }
  await client.end();
  return figures;
}

/** One key of a table that the proxy caches, beside one that it does not: p50, in turn, with one client and with 16. */
async function cached({ sandbox, connect }: Bench): Promise<Figure[]> {
  const client = await connect();
  // Until all keys are held, etcd answers.
  for (let hits = 0; hits === 0;) {
    for (const table of ["cached", "stale"]) await client.query(`SELECT count(*) FROM ${table}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const [row] = (await client.query("SELECT sum(cache_hits) AS hits FROM etcd_fdw_stat")).rows;
    hits = Number(row.hits);
  }
  await client.end();
  const script = (table: string) =>
    `\\set i random(0, ${KEYS - 1})
    SELECT value FROM ${table} WHERE key = '${PREFIX}' || lpad((:i)::text, 8, '0');`;
  const figures: Figure[] = [];
  for (const clients of [1, 16]) {
    const run = async (table: string) =>
      median(await pgbench(sandbox, script(table), clients === 1 ? 1500 : 400, clients)) / 1000;
    const rounds: Record<string, number>[] = [];
    for (let round = 0; round < 6; round++) {
      const times = { bench: await run("bench"), cached: await run("cached"), stale: await run("stale") };
      if (round > 0) rounds.push(times);
    }
    for (const [table, what] of [["cached", "linearizable"], ["stale", "serializable"]]) {
      figures.push({
        case: "cached",
        what: `SELECT of one cached key, ${what}, ${clients} client${clients > 1 ? "s" : ""} (pgbench), p50`,
        value: median(rounds.map((one) => one[table])),
        unit: "ms",
        limit: { what: "not cached", value: median(rounds.map(({ bench }) => bench)) },
        ratio: median(rounds.map((one) => one[table] / one.bench)),
      });
    }
  }
  return figures;
}

const putOf = (key: string, value: string) => {
  const encoder = new TextEncoder();
  return Uint8Array.from([
    0x0a,
    key.length,
    ...encoder.encode(key),
    0x12,
    value.length,
    ...encoder.encode(value),
  ]);
};

/** One row in a transaction of its own: p50 of many, in turn with unary Puts. */
async function insert({ sandbox, etcd }: Bench): Promise<Figure[]> {
  const rounds: { insert: number; raw: number }[] = [];
  for (let round = 0; round < 6; round++) {
    const script =
      `INSERT INTO written VALUES ('/written/' || ${round} || '/' || clock_timestamp(), '${VALUE}');`;
    const inserts = median(await pgbench(sandbox, script, 1000)) / 1000;
    const raws: number[] = [];
    for (let i = 0; i < 1000; i++) {
      const request = putOf(`/raw/${round}/${i}`, VALUE);
      raws.push(await time(() => etcd.client.callMember(0, "/etcdserverpb.KV/Put", request, 5000)));
    }
    if (round > 0) rounds.push({ insert: inserts, raw: median(raws) });
  }
  return [{
    case: "insert",
    what: "INSERT of one row, autocommit (pgbench), p50",
    value: median(rounds.map(({ insert }) => insert)),
    unit: "ms",
    limit: { what: "raw unary Put, p50", value: median(rounds.map(({ raw }) => raw)) },
    ratio: median(rounds.map(({ insert, raw }) => insert / raw)),
  }];
}

const PUTS = 10_000;

/** Puts one after the other, from a loop in PL/pgSQL. */
async function puts({ etcd, connect }: Bench): Promise<Figure[]> {
  const client = await connect();
  const loop = () =>
    client.query(`DO $$ BEGIN
      FOR i IN 1..${PUTS} LOOP PERFORM etcd_put('bench', '/written/' || i, '${VALUE}'); END LOOP; END $$`);
  const raw = async () => {
    for (let i = 0; i < PUTS; i++) {
      await etcd.client.callMember(0, "/etcdserverpb.KV/Put", putOf(`/raw/${i}`, VALUE), 5000);
    }
  };
  const result = await inTurn(3, loop, raw);
  await client.end();
  return [{
    case: "puts",
    what: `${PUTS} etcd_put() in a loop of PL/pgSQL`,
    value: result.a,
    unit: "ms",
    limit: { what: `${PUTS} raw unary Puts`, value: result.b },
    ratio: result.ratio,
  }];
}

/** 200,000 rows from a query: one big transaction, and written at once; beside Txns of 128 puts, 16 on their way. */
async function bulk({ etcd, connect }: Bench): Promise<Figure[]> {
  const client = await connect();
  client.on("notice", () => {});
  const figures: Figure[] = [];
  const clear = async () => {
    for (const prefix of ["/written/", "/raw/"]) await etcd.client.deletePrefix(prefix);
  };
  const raw = () =>
    etcd.putMany(
      Array.from({ length: KEYS }, (_, i): [string, string] => [`/raw/${String(i).padStart(8, "0")}`, VALUE]),
    );
  for (const [what, table] of [["one transaction", "written"], ["write_mode immediate", "immediate"]]) {
    const runs: { rows: number; raw: number }[] = [];
    for (let round = 0; round < 4; round++) {
      await clear();
      const rows = await time(() =>
        client.query(`INSERT INTO ${table} SELECT '/written/' || lpad(i::text, 8, '0'), '${VALUE}'
          FROM generate_series(1, ${KEYS}) i`)
      );
      const limit = await time(raw);
      if (round > 0) runs.push({ rows, raw: limit });
    }
    figures.push({
      case: "bulk",
      what: `INSERT of ${KEYS} rows, ${what}`,
      value: median(runs.map(({ rows }) => rows)),
      unit: "ms",
      limit: { what: "raw Txns of 128, 16 in flight", value: median(runs.map(({ raw }) => raw)) },
      ratio: median(runs.map(({ rows, raw }) => rows / raw)),
    });
  }
  await clear();
  await client.end();
  return figures;
}

const NOTIFIED = 1_000;
const MANY = 20_000;

/** From a put at etcd to its NOTIFY, beside the same put's way to a watch at etcd. */
async function notify({ etcd, connect }: Bench): Promise<Figure[]> {
  const client = await connect();
  const waiting = { notify: () => {}, watch: () => {} };
  client.on("notification", () => waiting.notify());
  await client.query("LISTEN bench; SELECT etcd_subscribe('bench', '/notify/', 'bench', server => 'bench')");
  const created = new Promise<void>((resolve) => waiting.watch = resolve);
  const end = etcd.client.watch(0, "/notify/", "/notify0", () => waiting.watch());
  await created;
  const notifies: number[] = [];
  const watches: number[] = [];
  for (let i = 0; i < NOTIFIED + 100; i++) {
    const started = performance.now();
    const arrival = (name: keyof typeof waiting) =>
      new Promise<number>((resolve) => waiting[name] = () => resolve(performance.now() - started));
    const both = Promise.all([arrival("notify"), arrival("watch")]);
    await etcd.client.callMember(0, "/etcdserverpb.KV/Put", putOf("/notify/key", VALUE), 5000);
    const [notified, watched] = await both;
    if (i < 100) continue;
    notifies.push(notified);
    watches.push(watched);
  }
  end();
  let told = 0;
  waiting.notify = () => told++;
  const puts = (prefix: string) =>
    etcd.putMany(Array.from({ length: MANY }, (_, i): [string, string] => [`${prefix}${i}`, VALUE]));
  const all = await inTurn(5, async () => {
    told = 0;
    await puts("/notify/");
    while (told < MANY) await new Promise((resolve) => setTimeout(resolve, 2));
  }, () => puts("/written/"));
  await etcd.client.deletePrefix("/written/");
  await client.query("SELECT etcd_unsubscribe('bench')");
  await client.end();
  const at = (values: number[], part: number) =>
    values.toSorted((a, b) => a - b)[Math.floor(values.length * part)];
  const times: Figure[] = ([["p50", 0.5], ["p99", 0.99]] as const).map(([name, part]) => ({
    case: "notify",
    what: `etcd's put to NOTIFY received, ${name} of ${NOTIFIED}`,
    value: at(notifies, part),
    unit: "ms",
    limit: { what: `to a watch at etcd, ${name}`, value: at(watches, part) },
    ratio: at(notifies, part) / at(watches, part),
  }));
  return [...times, {
    case: "notify",
    what: `${MANY} puts, until all are told`,
    value: all.a,
    unit: "ms",
    limit: { what: "the puts alone", value: all.b },
    ratio: all.ratio,
  }];
}

/** A mirror's snapshot beside the same copy by hand, and how it keeps up with many writes. */
async function mirror({ etcd, connect }: Bench): Promise<Figure[]> {
  const client = await connect();
  await client.query("DROP TABLE IF EXISTS copy; CREATE TABLE copy (key text PRIMARY KEY, value text)");
  const follow = (source: string) =>
    client.query(`TRUNCATE copy; SELECT etcd_mirror('bench', 'copy', '${source}')`);
  const until = async (query: string) => {
    while (!(await client.query(`SELECT (${query}) AS done`)).rows[0].done) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  const snapshot = async () => {
    await follow("bench");
    await until("SELECT revision > 0 FROM etcd_fdw_follower WHERE name = 'bench'");
    await client.query("SELECT etcd_unmirror('bench')");
  };
  const byHand = () => client.query("TRUNCATE copy; INSERT INTO copy SELECT key, value FROM bench");
  const whole = await inTurn(3, snapshot, byHand);
  await follow("written");
  await until("SELECT revision > 0 FROM etcd_fdw_follower WHERE name = 'bench'");
  const puts = (round: string) =>
    etcd.putMany(
      Array.from({ length: MANY }, (_, i): [string, string] => [`/written/${i}`, `${round}${VALUE}`]),
    );
  let round = 0;
  const followed = async () => {
    await puts(String(++round));
    await until(`SELECT count(*) = ${MANY} FROM copy WHERE value = '${round}${VALUE}'`);
  };
  const events = await inTurn(5, followed, () => puts("x"));
  await client.query("SELECT etcd_unmirror('bench')");
  await etcd.client.deletePrefix("/written/");
  await client.end();
  return [{
    case: "mirror",
    what: `snapshot of ${KEYS} keys`,
    value: whole.a,
    unit: "ms",
    limit: { what: "INSERT ... SELECT by hand", value: whole.b },
    ratio: whole.ratio,
  }, {
    case: "mirror",
    what: `${MANY} puts, until the table shows them`,
    value: events.a,
    unit: "ms",
    limit: { what: "the puts alone", value: events.b },
    ratio: events.ratio,
  }];
}

export const CASES: Record<string, (bench: Bench) => Promise<Figure[]>> = {
  ...{ scan, memory, fixed, point, get, cached, upper, lookup, insert, puts, bulk, notify, mirror },
};
