// scripts/quickstart: from a bare checkout to SELECT over a live etcd.

import { main, run } from "../../build/run.ts";
import { Sandbox } from "./sandbox.ts";

const SAMPLE: [string, string][] = [
  ["/app/config/db/host", "db.example.com"],
  ["/app/config/db/port", "5432"],
  ["/app/config/cache/ttl", "300"],
  ["/app/config/feature/dark_mode", "on"],
  ["/app/config/feature/new_search", "off"],
  ["/services/api/10.0.0.11:8080", '{"weight": 10, "zone": "a"}'],
  ["/services/api/10.0.0.12:8080", '{"weight": 5, "zone": "b"}'],
  ["/services/web/10.0.0.21:80", '{"weight": 1, "zone": "a"}'],
];

const TABLE = `
SET client_min_messages = warning;
DROP FOREIGN TABLE IF EXISTS config, services;
CREATE FOREIGN TABLE config (key text, value text, version bigint, mod_revision bigint)
  SERVER etcd OPTIONS (prefix '/app/config/', strip_prefix 'true');
CREATE FOREIGN TABLE services (key text, value text, lease bigint)
  SERVER etcd OPTIONS (prefix '/services/', strip_prefix 'true');`;

const QUERY = "SELECT key, value, version FROM config WHERE key LIKE 'db/%' ORDER BY key";

await main(async () => {
  const shell = !Deno.args.includes("--no-shell") && Deno.stdin.isTerminal();
  if (Deno.args.some((argument) => argument !== "--no-shell")) {
    console.log(
      "usage: scripts/quickstart [--no-shell]\n\nA throwaway PostgreSQL and etcd, sample keys, and a psql prompt over them.",
    );
    Deno.exit(Deno.args.includes("--help") ? 0 : 2);
  }
  console.log("1/4  starting a sandbox: PostgreSQL, etcd, and a build of etcd_fdw");
  const sandbox = await Sandbox.up();
  console.log(`2/4  putting ${SAMPLE.length} sample keys into etcd at ${sandbox.endpoint}`);
  for (const [key, value] of SAMPLE) {
    await run("etcdctl", [`--endpoints=${sandbox.endpoint}`, "put", key, value], {
      env: { ETCDCTL_API: "3" },
    });
  }
  console.log("3/4  CREATE EXTENSION etcd_fdw, a server, and two foreign tables");
  await sandbox.createServer();
  await sandbox.sql(TABLE);
  console.log("4/4  the first query");
  await sandbox.psql(["-X", "-q", "-e", "-c", QUERY]);
  if (shell) {
    console.log("Your turn: \\det+ lists the foreign tables, \\q leaves.");
    await sandbox.psql(["-X"]);
  }
  console.log("scripts/sandbox psql comes back here; scripts/sandbox down stops and removes it all.");
});
