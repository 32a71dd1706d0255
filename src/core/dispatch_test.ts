import assert from "node:assert/strict";
import { dispatch } from "./dispatch.ts";
import { beginInput, KEY_VALUE } from "./testing_input.ts";

const call = (op: string, text: string) => JSON.parse(dispatch(op, text, new Uint8Array(0)).control);

Deno.test("dispatch answers what it is asked", () => {
  assert.deepEqual(call("about", "{}"), { do: "about", protocol: 2 });
});

Deno.test("dispatch returns errors as values", () => {
  assert.equal(call("nonsense", "{}").do, "error");
  assert.equal(call("toString", "{}").do, "error");
  assert.equal(call("plan", "not JSON").sqlstate, "XX000");
  assert.equal(call("plan", "null").do, "error");
});

Deno.test("dispatch hands a frame over as bytes beside the control text", () => {
  const { plan } = call(
    "plan",
    JSON.stringify({ table: "t", server: {}, options: {}, columns: KEY_VALUE, quals: [] }),
  );
  const input = JSON.stringify(beginInput(plan));
  const { control, payload } = dispatch("begin", input, new Uint8Array(0));
  assert.equal(JSON.parse(control).do, "send");
  assert.ok(payload.length > 16);
});
