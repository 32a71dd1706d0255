// The benchmarks. Each measures the extension and its limit in turn, in one run.

// @ts-types="@types/pg"
import type pg from "pg";
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

/** One key, prepared, p50 of many. */
async function point({ connect, etcd }: Bench): Promise<Figure[]> {
  const client = await connect();
  const key = (i: number) => keyOf(i * 7919 % KEYS);
  const selects: number[] = [];
  const raws: number[] = [];
  const encoder = new TextEncoder();
  for (let i = 0; i < 2000; i++) {
    const query = { name: "point", text: "SELECT value FROM bench WHERE key = $1", values: [key(i)] };
    selects.push(await time(() => client.query(query)));
    const bytes = encoder.encode(key(i));
    const request = Uint8Array.from([0x0a, bytes.length, ...bytes]);
    raws.push(await time(() => etcd.client.callMember(0, "/etcdserverpb.KV/Range", request, 5000)));
  }
  await client.end();
  const value = median(selects.slice(200));
  const limit = median(raws.slice(200));
  return [{
    case: "point",
    what: "SELECT of one key, prepared, p50",
    value,
    unit: "ms",
    limit: { what: "raw unary Range", value: limit },
    ratio: value / limit,
  }];
}

export const CASES: Record<string, (bench: Bench) => Promise<Figure[]>> = { scan, memory, fixed, point };
