import assert from "node:assert/strict";
import { majorVersion } from "./postgres.ts";

Deno.test("majorVersion reads releases and betas", () => {
  assert.equal(majorVersion("PostgreSQL 15.18 (Debian 15.18-0+deb12u1)"), 15);
  assert.equal(majorVersion("PostgreSQL 18beta1"), 18);
  assert.throws(() => majorVersion("MySQL"));
});
