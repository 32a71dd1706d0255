import assert from "node:assert/strict";
import { commonFolder } from "./installation.ts";

Deno.test("commonFolder finds what all paths share", () => {
  assert.equal(commonFolder(["/usr/lib/postgresql/15/bin", "/usr/share/postgresql/15"]), "/usr");
  assert.equal(commonFolder(["/opt/pg/bin", "/opt/pg/lib", "/opt/pg/share"]), "/opt/pg");
  assert.equal(commonFolder(["/a/b", "/c/d"]), "");
});
