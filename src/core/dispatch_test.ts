import assert from "node:assert/strict";
import { dispatch } from "./dispatch.ts";

const call = (op: string, text: string) => JSON.parse(dispatch(op, text, new Uint8Array(0)).control);

Deno.test("dispatch answers what it is asked", () => {
  assert.deepEqual(call("about", "{}"), { do: "about", protocol: 1 });
});

Deno.test("dispatch returns errors as values", () => {
  assert.equal(call("nonsense", "{}").do, "error");
  assert.equal(call("toString", "{}").do, "error");
  assert.equal(call("plan", "not JSON").sqlstate, "XX000");
  assert.equal(call("plan", "null").do, "error");
});

Deno.test("dispatch hands a frame over as bytes beside the control text", () => {
  const columns = [{ attnum: 1, name: "key", type: "text", used: true }];
  const input = { table: "t", server: {}, options: {}, columns, quals: [] };
  const { plan } = call("plan", JSON.stringify(input));
  const { control, payload } = dispatch(
    "begin",
    JSON.stringify({ plan, params: [], revision: "0" }),
    new Uint8Array(0),
  );
  assert.equal(JSON.parse(control).do, "send");
  assert.ok(payload.length > 16);
});
