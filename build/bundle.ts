// The two bundles: core for the engines, the proxy for Deno.

import * as esbuild from "esbuild";
import { etcd3Protos } from "./etcd3_protos.ts";
import { OUT, ROOT } from "./paths.ts";

/** plv8 prints whole source lines in CONTEXT. */
const LINE_LIMIT = 120;

/** CommonJS in an ES module for Deno: what the bundled packages expect to find. None of them reads a file at run time. */
const PROXY_BANNER = `import { createRequire as __createRequire } from "node:module";
const require = __createRequire(import.meta.url);
const __dirname = "/nonexistent", __filename = "/nonexistent/proxy.js";`;

/** esbuild's IIFE for a global name, as an expression. */
export function asExpression(bundle: string, name: string): string {
  const start = `var ${name}=`;
  const text = bundle.trim();
  if (!text.startsWith(start)) throw new Error(`unexpected start of a bundle: ${text.slice(0, 40)}`);
  return text.slice(start.length).replace(/;$/, "");
}

/** Core as one JavaScript expression whose value has the property `dispatch`. */
async function bundleCore(): Promise<void> {
  const name = "__core";
  const result = await esbuild.build({
    absWorkingDir: ROOT,
    entryPoints: ["src/core/main.ts"],
    bundle: true,
    format: "iife",
    globalName: name,
    platform: "neutral",
    target: "es2022",
    charset: "ascii",
    legalComments: "none",
    minify: true,
    lineLimit: LINE_LIMIT,
    write: false,
  });
  await Deno.writeTextFile(`${OUT}/core.js`, asExpression(result.outputFiles[0].text, name) + "\n");
}

async function bundleProxy(): Promise<void> {
  await esbuild.build({
    absWorkingDir: ROOT,
    entryPoints: ["src/proxy/main.ts"],
    outfile: `${OUT}/proxy.js`,
    bundle: true,
    format: "esm",
    platform: "node",
    target: "esnext",
    charset: "utf8",
    legalComments: "eof",
    banner: { js: PROXY_BANNER },
    plugins: [etcd3Protos()],
    logLevel: "warning",
  });
}

export async function bundle(): Promise<void> {
  try {
    await Promise.all([bundleCore(), bundleProxy()]);
  } finally {
    await esbuild.stop();
  }
}
