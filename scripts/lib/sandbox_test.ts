import assert from "node:assert/strict";
import { sandboxFolder } from "./sandbox.ts";

Deno.test("sandboxFolder is the same for one checkout and name, and short", () => {
  const folder = sandboxFolder("/home/someone/with/a/rather/long/path/etcd_fdw", "default", "/tmp", 1000);
  assert.equal(
    folder,
    sandboxFolder("/home/someone/with/a/rather/long/path/etcd_fdw", "default", "/tmp", 1000),
  );
  assert.notEqual(folder, sandboxFolder("/home/other", "default", "/tmp", 1000));
  assert.ok(folder.length < 60, folder);
  assert.ok(sandboxFolder("/x", "default", "/a/long/base".repeat(9), 1000).startsWith("/tmp/etcd_fdw-1000/"));
});
