import assert from "node:assert/strict";
import { controlFile, extensionScript } from "./extension.ts";

Deno.test("controlFile names the version", () => {
  assert.match(controlFile("1.2.3"), /^default_version = '1\.2\.3'$/m);
});

Deno.test("extensionScript guards itself and keeps the order", () => {
  const script = extensionScript(["SELECT 1;", "SELECT 2;"]);
  assert.ok(script.indexOf("\\quit") < script.indexOf("SELECT 1"));
  assert.ok(script.indexOf("SELECT 1") < script.indexOf("SELECT 2"));
});
