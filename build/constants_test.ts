import assert from "node:assert/strict";
import { FrameType } from "../src/ipc/frame.ts";
import { constantsHeader } from "./constants.ts";
import { VERSION } from "./paths.ts";

Deno.test("constantsHeader defines each name once", () => {
  const names = [...constantsHeader().matchAll(/^#define (\w+)\t/gm)].map(([, name]) => name);
  assert.equal(new Set(names).size, names.length);
  assert.ok(names.length > 60);
});

Deno.test("constantsHeader has TypeScript's values", () => {
  const header = constantsHeader();
  assert.ok(header.includes(`#define FRAME_STAGE\t${FrameType.STAGE}\n`));
  assert.ok(header.includes(`#define ETCD_FDW_VERSION\t"${VERSION}"\n`));
});
