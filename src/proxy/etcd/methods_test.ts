import assert from "node:assert/strict";
import { Method } from "../../ipc/frame.ts";
import { methodInfo } from "./methods.ts";

Deno.test("methodInfo: every method of the protocol has a path of its own, and no read writes", () => {
  const infos = Object.values(Method).map((code) => methodInfo(code)!);
  assert.equal(new Set(infos.map((info) => info.path)).size, infos.length);
  assert.ok(infos.every((info) => !(info.readonly && info.writes)));
  assert.equal(methodInfo(0), undefined);
});
