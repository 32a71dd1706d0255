// docs/cookbook.md: what psql prints for each block is what stands below it. ETCD_FDW_COOKBOOK=write puts it there.

import assert from "node:assert/strict";
import { ROOT } from "../../build/paths.ts";
import { run } from "../../build/run.ts";
import { suite } from "../helpers/suite.ts";

const { db, etcd, test } = await suite("cookbook");

const PAGE = `${ROOT}/docs/cookbook.md`;
/** A block of SQL and, behind it, the block of what it prints. */
const BLOCK = /^```sql\n([^]*?)^```\n(?:\n```text\n([^]*?)^```\n)?/gm;
const END = "end of the block";

test("the cookbook's blocks print what it says", async () => {
  const page = await Deno.readTextFile(PAGE);
  const blocks = [...page.matchAll(BLOCK)];
  assert.ok((page.match(/^### \d+\. /gm) ?? []).length >= 30);
  await db.sql("DROP EXTENSION etcd_fdw CASCADE");
  const backup = await Deno.makeTempFile({ suffix: ".db" });
  await Deno.remove(backup);
  // One session for all of it: settings and variables go from one block to the next.
  const script = blocks.map(([, sql]) => `${sql}\\echo ${END}\n`).join("")
    .replace("127.0.0.1:2379", etcd.endpoints[0]).replace("/tmp/etcd-backup.db", backup);
  const arguments_ = ["-X", "-q", "-P", "pager=off", "-v", "VERBOSITY=terse"];
  const { stdout } = await run("sh", ["-c", 'exec "$0" "$@" 2>&1', db.sandbox.psqlPath, ...arguments_], {
    ...{
      env: { ...db.sandbox.env(), PGOPTIONS: "-c client_min_messages=notice" },
      stdin: script,
      timeoutMs: 120_000,
    },
  });
  await Deno.remove(backup).catch(() => {});
  // What differs from run to run, in notifications.
  const same = (text: string) =>
    text.replace(/process with PID \d+/g, "process with PID 4711").replace(
      /"mod_revision":\d+/g,
      '"mod_revision":58',
    );
  const printed = same(stdout).split(`${END}\n`).map((text) =>
    // The first line of a table begins with a blank that belongs to it.
    text.replace(/^psql:<stdin>:\d+: /gm, "").replace(/[ \t]+$/gm, "").replace(/^\n+/, "").trimEnd()
  );
  if (Deno.env.get("ETCD_FDW_COOKBOOK") === "write") {
    let i = 0;
    const written = page.replace(BLOCK, (_, sql) => {
      const output = printed[i++];
      return `\`\`\`sql\n${sql}\`\`\`\n` + (output === "" ? "" : `\n\`\`\`text\n${output}\n\`\`\`\n`);
    });
    return await Deno.writeTextFile(PAGE, written);
  }
  blocks.forEach(([, sql, expected = ""], i) => assert.equal(printed[i], same(expected.trimEnd()), sql));
});
