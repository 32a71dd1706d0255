// Beside other modules' callbacks, which come after ours when they were loaded before.

import assert from "node:assert/strict";
import { run } from "../../build/run.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("callbacks");

const pgConfig = Deno.env.get("PG_CONFIG") || "pg_config";
const headers = (await run(pgConfig, ["--includedir-server"])).stdout.trim();
const folder = await Deno.makeTempDir();
await Deno.chmod(folder, 0o755);
const source = decodeURIComponent(new URL("../helpers/late_failure.c", import.meta.url).pathname);
await run("gcc", ["-shared", "-fPIC", "-O1", "-isystem", headers, source, "-o", `${folder}/late_failure.so`]);
Deno.test.afterAll(() => Deno.remove(folder, { recursive: true }));

await db.sql(`CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
  CREATE FOREIGN TABLE p (key text, value text) SERVER etcd OPTIONS (prefix '/p/')`);

test("a subtransaction whose end fails elsewhere is rolled back in etcd too", async () => {
  const client = await db.connect();
  try {
    await client.query(`LOAD '${folder}/late_failure.so'`);
    await client.query(`BEGIN; INSERT INTO p VALUES ('/p/kept', '1');
      DO $$ BEGIN
        BEGIN
          INSERT INTO p VALUES ('/p/dropped', '2');
          SET LOCAL late_failure.armed = on;
        EXCEPTION WHEN OTHERS THEN ASSERT SQLERRM = 'late failure';
        END;
      END $$; COMMIT`);
  } finally {
    await client.end();
  }
  assert.deepEqual(await db.sql("SELECT key FROM p"), [{ key: "/p/kept" }]);
});
