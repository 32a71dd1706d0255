import assert from "node:assert/strict";
import { Method } from "../../ipc/frame.ts";
import { methodInfo } from "./methods.ts";

Deno.test("methodInfo: every method of the protocol has a path, and no read writes", () => {
  const infos = Object.values(Method).map((code) => methodInfo(code)!);
  // A Txn of reads alone is the one call that a path serves besides its own.
  assert.equal(new Set(infos.map((info) => info.path)).size, infos.length - 1);
  assert.equal(methodInfo(Method.READ_TXN)!.path, methodInfo(Method.TXN)!.path);
  assert.ok(infos.every((info) => !(info.readonly && info.writes)));
  assert.equal(methodInfo(0), undefined);
});
