import assert from "node:assert/strict";
import { breaches, codeOnly, importsOf, includeBreaches } from "./check_imports.ts";

Deno.test("importsOf finds every form of import", () => {
  const source =
    `import a from "a";\nimport {\n  b,\n} from './b.ts';\nimport "c";\nexport { d } from "d";\nawait import("e");
// import f from "f";\n/* import g from "g"; */`;
  assert.deepEqual(importsOf(source), ["a", "./b.ts", "c", "d", "e"]);
});

Deno.test("codeOnly drops comments and strings", () => {
  assert.equal(codeOnly("a // console\nb /* Deno */ c").replaceAll(/\s+/g, " "), "a b c");
  assert.ok(!codeOnly("x = 'console'; y = \"Deno\"; z = `fetch`").match(/console|Deno|fetch/));
});

Deno.test("breaches keeps core and ipc to themselves", () => {
  assert.deepEqual(breaches("src/core/x.ts", 'import { y } from "../ipc/y.ts";'), []);
  assert.equal(breaches("src/core/x.ts", 'import { y } from "../proxy/y.ts";').length, 1);
  assert.equal(breaches("src/ipc/x.ts", 'import { y } from "../core/y.ts";').length, 1);
  assert.equal(breaches("src/proxy/x.ts", 'import { y } from "../core/y.ts";').length, 1);
  assert.equal(breaches("src/core/x.ts", 'import { y } from "../../build/y.ts";').length, 1);
});

Deno.test("breaches lets only proxy/etcd know gRPC", () => {
  const source = 'import { Client } from "@grpc/grpc-js";';
  assert.deepEqual(breaches("src/proxy/etcd/x.ts", source), []);
  assert.equal(breaches("src/proxy/x.ts", source).length, 1);
  assert.equal(breaches("src/core/x.ts", source).length, 1);
});

Deno.test("includeBreaches knows which folder of the backend lies below which", () => {
  const source = '#include "postgres.h"\n#include "utils/rel.h"\n#include "plan/plan.h"\n';
  assert.deepEqual(includeBreaches("src/backend/plan/upper.c", source), []);
  assert.deepEqual(includeBreaches("src/backend/modify/modify.c", source), []);
  assert.deepEqual(includeBreaches("src/backend/etcd_fdw.c", source), []);
  assert.equal(includeBreaches("src/backend/scan/scan.h", source).length, 1);
  assert.equal(includeBreaches("src/backend/other/x.c", source).length, 1);
});

Deno.test("breaches finds what the engines do not have", () => {
  assert.deepEqual(breaches("src/core/x.ts", "const a = { console: 1 }; a.fetch; // Promise"), []);
  assert.equal(breaches("src/core/x.ts", "new TextEncoder()").length, 1);
  assert.equal(breaches("src/ipc/x.ts", "async function f() { await g(); }").length, 2);
});
