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

Deno.test("breaches lets the proxy meet the world in one place", () => {
  const source = 'import { connect } from "node:net";\nimport { setTimeout } from "node:timers/promises";\n' +
    "const late = Date.now() + performance.now() * Math.random(); setTimeout(f, 1); clearTimeout(t); new Date();";
  assert.equal(breaches("src/proxy/session/x.ts", source).length, 9);
  assert.deepEqual(breaches("src/proxy/runtime.ts", source), []);
  // Types of the proxy's own, and moments that are given, are not the world.
  const pure = "clock.now(); new Date(ms); Date.parse(text); runtime.setTimeout; // Date.now()";
  assert.deepEqual(breaches("src/proxy/session/x.ts", pure), []);
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

Deno.test("breaches lets only the driver of transactions wait", () => {
  const source = "export async function f() { await g(); }";
  assert.equal(breaches("src/proxy/txn/commit.ts", source).length, 2);
  assert.deepEqual(breaches("src/proxy/txn/driver.ts", source), []);
  assert.deepEqual(breaches("src/proxy/session/work.ts", source), []);
});
