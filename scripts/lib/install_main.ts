// scripts/install: into the PostgreSQL that pg_config names.

import { findPostgres } from "../../build/postgres.ts";
import { line, main } from "../../build/run.ts";
import { install } from "./install.ts";

await main(async () => {
  if (Deno.args.length > 0) {
    console.log(
      "usage: scripts/install\n\nBuilds etcd_fdw and installs it into the PostgreSQL of PG_CONFIG, or of this machine.",
    );
    Deno.exit(Deno.args[0] === "--help" ? 0 : 2);
  }
  const pg = await findPostgres();
  const embedded = await install({ pgConfig: pg.pgConfig });
  console.log(`installed into ${await line(pg.pgConfig, "--pkglibdir")} (PostgreSQL ${pg.major})`);
  if (!embedded) console.log("this build has no embedded engine: CREATE EXTENSION plv8 before etcd_fdw");
  console.log("now, in psql: CREATE EXTENSION etcd_fdw;");
});
