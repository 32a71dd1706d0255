import assert from "node:assert/strict";
import { asExpression } from "./bundle.ts";

Deno.test("asExpression leaves what stands right of the assignment", () => {
  assert.equal(asExpression("var x=(()=>{return {}})();\n", "x"), "(()=>{return {}})()");
  assert.throws(() => asExpression('"use strict";var x=1', "x"));
});
