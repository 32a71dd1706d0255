// The whole proxy as the server starts it: the bundle, with the narrow permissions, in a data directory.

import assert from "node:assert/strict";
import * as esbuild from "esbuild";
import { FrameType, Method } from "../ipc/frame.ts";
import { denoFlags } from "./flags.ts";
import { TestClient } from "./testing_client.ts";
import { freePort, TestEtcd } from "./testing_etcd.ts";
import { get, put, readRange } from "./testing_requests.ts";

const SOCKET = "pg_stat_tmp/etcd_fdw/proxy.sock";
const READY_MS = 10_000;

/** A bundle that is good for all but users with passwords: etcd3 is left out. */
async function bundle(directory: string): Promise<string> {
  const outfile = `${directory}/proxy.js`;
  await esbuild.build({
    entryPoints: [new URL("./main.ts", import.meta.url).pathname],
    bundle: true,
    format: "esm",
    platform: "node",
    external: ["etcd3"],
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
    },
    outfile,
  });
  await esbuild.stop();
  return outfile;
}

interface Proxy {
  process: Deno.ChildProcess;
  directory: string;
  /** stderr, when the process has ended. */
  log: Promise<string>;
}

async function startProxy(directory: string, script: string, ...more: string[]): Promise<Proxy> {
  const process = new Deno.Command(Deno.execPath(), {
    args: [...denoFlags(SOCKET), script, SOCKET, ...more],
    cwd: directory,
    env: { DENO_DIR: "pg_stat_tmp/etcd_fdw/deno", DENO_NO_UPDATE_CHECK: "1" },
    stdin: "piped",
    stderr: "piped",
  }).spawn();
  const log = new Response(process.stderr).text();
  const end = Date.now() + READY_MS;
  while (Date.now() < end) {
    try {
      await (await TestClient.connect(`${directory}/${SOCKET}`)).close();
      return { process, directory, log };
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  process.kill("SIGKILL");
  throw new Error(`the proxy did not start: ${await log}`);
}

/** Waits for the exit, and kills what does not exit within two seconds. */
async function exitCode({ process }: Proxy): Promise<number> {
  const timer = setTimeout(() => process.kill("SIGKILL"), 2_000);
  try {
    return (await process.status).code;
  } finally {
    clearTimeout(timer);
  }
}

Deno.test("proxy", async (t) => {
  const directory = await Deno.makeTempDir();
  const etcd = await TestEtcd.start();
  try {
    const script = await bundle(directory);
    await Deno.mkdir(`${directory}/pg_stat_tmp/etcd_fdw`, { mode: 0o700, recursive: true });

    await t.step("serves sessions with the narrow permissions, and ends with its stdin", async () => {
      const proxy = await startProxy(directory, script);
      const client = await TestClient.connect(`${directory}/${SOCKET}`);
      const options = {
        connectTimeout: 2_000,
        requestTimeout: 2_000,
        maxRetries: 0,
        retryBackoff: 0,
        maxTxnOps: 128,
        requireAtomic: false,
        maxStagedBytes: 1024 * 1024,
        database: "d",
        server: "s",
        role: "r",
      };
      client.open({ ...options, endpoints: [etcd.endpoint.replace("127.0.0.1", "localhost")] });
      client.open({ ...options, endpoints: [`127.0.0.1:${freePort()}`] }, 2);
      client.send({ type: FrameType.UNARY, code: Method.PUT, id: 1, payload: put("/a", "1") });
      assert.equal((await client.answer(1)).type, FrameType.REPLY);
      client.send({ type: FrameType.UNARY, code: Method.RANGE, id: 2, payload: get("/a") });
      assert.deepEqual(readRange((await client.answer(2)).payload).values, ["1"]);
      client.send({ type: FrameType.UNARY, code: Method.RANGE, id: 3, channel: 2, payload: get("/a") });
      assert.equal((await client.error(3)).sqlstate, "08001");
      await proxy.process.stdin.close();
      assert.equal(await exitCode(proxy), 0);
      assert.equal(await proxy.log, "");
      await client.close();
    });

    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      await t.step(`ends with ${signal}, and leaves a socket that the next one replaces`, async () => {
        const proxy = await startProxy(directory, script);
        proxy.process.kill(signal);
        assert.equal(await exitCode(proxy), 0);
        await proxy.process.stdin.close().catch(() => {});
        assert.equal(await proxy.log, "");
        assert.ok((await Deno.lstat(`${directory}/${SOCKET}`)).isSocket);
      });
    }

    await t.step("takes a bound for its memory, which must be one", async () => {
      for (const wrong of ["0", "-1", "1.5", "x", ""]) {
        const { code } = await new Deno.Command(Deno.execPath(), {
          args: [...denoFlags(SOCKET), script, SOCKET, wrong],
          cwd: directory,
          stdin: "null",
          stderr: "null",
        }).output();
        assert.equal(code, 2, wrong);
      }
      const proxy = await startProxy(directory, script, "1");
      const client = await TestClient.connect(`${directory}/${SOCKET}`);
      client.send({ type: FrameType.UNARY, code: Method.PUT, id: 1, payload: new Uint8Array(2_000_000) });
      assert.equal((await client.error(1)).sqlstate, "53200");
      await client.close();
      await proxy.process.stdin.close();
      assert.equal(await exitCode(proxy), 0);
      await proxy.log;
    });

    await t.step("says why it cannot listen", async () => {
      const { code, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [...denoFlags("none/proxy.sock"), script, "none/proxy.sock"],
        cwd: directory,
        stdin: "null",
      }).output();
      const text = new TextDecoder().decode(stderr);
      // Without a stdin it may end before it has tried.
      assert.ok(
        code === 0 || /^etcd_fdw proxy: could not listen on socket "none\/proxy.sock": /.test(text),
        text,
      );
    });
  } finally {
    await etcd.stop();
    await Deno.remove(directory, { recursive: true });
  }
});
