// scripts/bench: the figures, each beside its limit in the same run. JSON lines, then a table.

// @ts-types="@types/pg"
import pg from "pg";
import { main } from "../../build/run.ts";
import { type Bench, CASES, prepare } from "../../tests/bench/cases.ts";
import { type Figure, jsonLine, table } from "../../tests/bench/measure.ts";
import { startEtcd } from "../../tests/helpers/etcd.ts";
import { type Engine, Sandbox } from "./sandbox.ts";

await main(async () => {
  const args = [...Deno.args];
  const at = args.indexOf("--engine");
  const engine = (at >= 0 ? args.splice(at, 2)[1] : "embedded") as Engine;
  if (args.some((arg) => !(arg in CASES)) || (engine !== "embedded" && engine !== "plv8")) {
    console.log(
      `usage: scripts/bench [CASE...] [--engine embedded|plv8]\n\nCases: ${Object.keys(CASES).join(", ")}`,
    );
    Deno.exit(args.includes("--help") ? 0 : 2);
  }
  const sandbox = await Sandbox.up({ name: `bench-${engine}`, engine, etcd: false });
  const etcd = await startEtcd();
  const connect = async () => {
    const { PGHOST, PGPORT, PGDATABASE, PGUSER } = sandbox.env();
    const client = new pg.Client({ host: PGHOST, port: Number(PGPORT), database: PGDATABASE, user: PGUSER });
    await client.connect();
    return client;
  };
  try {
    const bench: Bench = { sandbox, etcd, connect };
    await prepare(bench);
    const figures: Figure[] = [];
    for (const [name, run] of Object.entries(CASES)) {
      if (args.length > 0 && !args.includes(name)) continue;
      for (const figure of await run(bench)) {
        figures.push(figure);
        console.log(jsonLine(figure));
      }
    }
    console.log(`\nengine: ${engine}\n${table(figures)}`);
  } finally {
    await sandbox.down();
    await etcd.stop();
  }
  Deno.exit(0);
});
