import assert from "node:assert/strict";
import { ROOT } from "../../build/paths.ts";
import { exists } from "../../build/run.ts";
import { ownerOf, ownName, Sandbox, sandboxFolder } from "./sandbox.ts";

Deno.test("sandboxFolder is the same for one checkout and name, and short", () => {
  const folder = sandboxFolder("/home/someone/with/a/rather/long/path/etcd_fdw", "default", "/tmp", 1000);
  assert.equal(
    folder,
    sandboxFolder("/home/someone/with/a/rather/long/path/etcd_fdw", "default", "/tmp", 1000),
  );
  assert.notEqual(folder, sandboxFolder("/home/other", "default", "/tmp", 1000));
  assert.ok(folder.length < 60, folder);
  assert.ok(sandboxFolder("/x", "default", "/a/long/base".repeat(9), 1000).startsWith("/tmp/etcd_fdw-1000/"));
  for (let length = 1; length < 107; length++) {
    const [short, long] = ["a", "a".repeat(40)].map((name) =>
      sandboxFolder("/x", name, "/" + "b".repeat(length), 0)
    );
    assert.equal(long, short + "a".repeat(39), "all stand side by side");
    assert.ok(`${long}/.s.PGSQL.65535`.length <= 107, long);
  }
});

Deno.test("removeAbandoned takes down what processes have left behind, and nothing else", async () => {
  const base = await Deno.makeTempDir({ dir: "/tmp" });
  const before = Deno.env.get("TMPDIR");
  Deno.env.set("TMPDIR", base);
  const alive = new Deno.Command("sleep", { args: ["60"] }).spawn();
  const ended = new Deno.Command("true").spawn();
  await ended.status;
  const make = async (name: string, root = ROOT) => {
    const folder = sandboxFolder(root, name, base, Deno.uid() ?? 0);
    await Deno.mkdir(folder, { recursive: true });
    const description = { postgres: { data: `${folder}/data` }, etcd: null };
    await Deno.writeTextFile(`${folder}/sandbox.json`, JSON.stringify(description));
    return folder;
  };
  try {
    const kept = [
      await make(ownName("write-plv8", alive.pid)),
      await make(ownName("write-plv8", Deno.pid)),
      await make("default"),
      await make("test-it"),
      await make(ownName("write-plv8", ended.pid), "/another/checkout"),
    ];
    const left = [
      await make(ownName("write-plv8", ended.pid)),
      await make(ownName("scan-embedded", ended.pid)),
    ];
    // It ended before it was done with making one.
    await Deno.remove(`${left[1]}/sandbox.json`);
    await Promise.all([Sandbox.removeAbandoned(), Sandbox.removeAbandoned()]);
    assert.deepEqual(await Promise.all(kept.map(exists)), kept.map(() => true));
    assert.deepEqual(await Promise.all(left.map(exists)), [false, false]);
  } finally {
    if (before === undefined) Deno.env.delete("TMPDIR");
    else Deno.env.set("TMPDIR", before);
    alive.kill("SIGKILL");
    await alive.status;
    await Deno.remove(base, { recursive: true });
  }
});

Deno.test("ownerOf tells the process from the name", () => {
  assert.equal(ownerOf(ownName("transactions-embedded", 4_194_304)), 4_194_304);
  assert.deepEqual(
    ["default", "t-regress-plv8", "test-1", "mytest1-x", "p8"].map(ownerOf),
    Array(5).fill(null),
  );
});
