import assert from "node:assert/strict";
import { VERSION as IN_SOURCE } from "../src/base/version.ts";
import { controlFile, extensionScript, withIncludes } from "./extension.ts";
import { VERSION } from "./paths.ts";

Deno.test("the version is the same everywhere", () => {
  assert.equal(IN_SOURCE, VERSION);
});

Deno.test("withIncludes puts files in their places", () => {
  assert.equal(withIncludes("a\n-- include x.sql\nb\n", (name) => `<${name}>\n`), "a\n<x.sql>\nb\n");
});

Deno.test("controlFile names the version", () => {
  assert.match(controlFile("1.2.3"), /^default_version = '1\.2\.3'$/m);
});

Deno.test("extensionScript guards itself and keeps the order", () => {
  const script = extensionScript(["SELECT 1;", "SELECT 2;"]);
  assert.ok(script.indexOf("\\quit") < script.indexOf("SELECT 1"));
  assert.ok(script.indexOf("SELECT 1") < script.indexOf("SELECT 2"));
});
