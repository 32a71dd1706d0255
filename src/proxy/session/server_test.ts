import assert from "node:assert/strict";
import { listen } from "./server.ts";
import { Budget } from "../memory.ts";
import { NO_INFO, TestClient } from "../testing_client.ts";
import { REAL } from "../testing_runtime.ts";

const OPTIONS = {
  open: () => {
    throw new Error("unexpected");
  },
  runtime: REAL,
  log: () => {},
  info: NO_INFO(),
  budget: new Budget(1_000_000),
};

async function inDirectory(test: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir();
  try {
    await test(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("listen: only this user may connect, and a socket left behind is replaced", async () => {
  await inDirectory(async (directory) => {
    const path = `${directory}/s`;
    const old = await listen(path, OPTIONS);
    const server = await listen(path, OPTIONS);
    old.close();
    assert.equal((await Deno.stat(path)).mode! & 0o777, 0o600);
    assert.deepEqual([...Deno.readDirSync(directory)].map((entry) => entry.name), ["s"]);
    const client = await TestClient.connect(path);
    await client.close();
    server.close();
  });
});

Deno.test("listen: what the system refuses is told", async () => {
  await inDirectory(async (directory) => {
    await assert.rejects(listen(`${directory}/none/s`, OPTIONS), /ENOENT|EACCES/);
  });
});
