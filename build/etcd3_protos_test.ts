import assert from "node:assert/strict";
import { replaceLoadSync } from "./etcd3_protos.ts";
import { StepError } from "./run.ts";

const call = "const p = (0, proto_loader_1.loadSync)(`${__dirname}/../proto/rpc.proto`, { keepCase: true });";

Deno.test("replaceLoadSync puts the descriptor in the call's place", () => {
  assert.equal(
    replaceLoadSync(call, { a: "$&" }),
    'const p = (0, proto_loader_1.fromJSON)({"a":"$&"}, { keepCase: true });',
  );
});

Deno.test("replaceLoadSync fails when etcd3 has changed", () => {
  assert.throws(() => replaceLoadSync("nothing", {}), StepError);
  assert.throws(() => replaceLoadSync(call + call, {}), StepError);
});
