// The helper's interface, the same tests on every provider that can run here.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { removeOrphans, whyNoDocker } from "./docker.ts";
import { type EtcdCluster, type EtcdProvider, startEtcd } from "./etcd.ts";
import { prefixEnd } from "./etcd_client.ts";
import { freePorts } from "./etcd_members.ts";
import { waitFor } from "./wait.ts";

const text = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes);

async function checkKeys(etcd: EtcdCluster) {
  const revision = await etcd.put("/a", "1");
  equal(await etcd.revision(), revision);
  const kv = await etcd.get("/a");
  deepEqual([text(kv?.key), text(kv?.value), kv?.version], ["/a", "1", 1n]);
  equal(kv?.modRevision, revision);
  equal(await etcd.get("/none"), null);

  const binary = Uint8Array.of(0, 0xff, 0xfe, 0x80, 10);
  await etcd.put(binary, binary);
  deepEqual([...(await etcd.get(binary))!.value], [...binary]);
  equal(await etcd.delete(binary), 1);
  equal(await etcd.delete(binary), 0);

  match(await etcd.ctl("get", "/a", "--print-value-only"), /^1\n$/);
  await rejects(etcd.ctl("no-such-command"), /etcdctl .*no-such-command/);
}

async function checkBulk(etcd: EtcdCluster, count: number) {
  const entry = (i: number) => [`/bulk/${String(i).padStart(8, "0")}`, "v".repeat(100)] as const;
  await etcd.putMany(Array.from({ length: count }, (_, i) => entry(i)));
  equal(await etcd.client.count("/bulk/"), count);
  await rejects(etcd.putMany([["/x", "1"], ["/x", "2"]]), /comes twice/);
  await etcd.putMany([["/big/1", "v".repeat(900_000)], ["/big/2", "v".repeat(900_000)]]);
  equal((await etcd.client.list("/big/")).length, 2);
}

async function checkCompaction(etcd: EtcdCluster) {
  const old = await etcd.put("/c", "1");
  const now = await etcd.put("/c", "2");
  await etcd.compact(now);
  await rejects(etcd.ctl("get", "/c", `--rev=${old}`), /compacted/);
}

async function checkPause(etcd: EtcdCluster) {
  await etcd.pause();
  const probe = etcd.client.callMember(0, "/etcdserverpb.KV/Range", Uint8Array.of(0x0a, 1, 0), 300);
  await rejects(probe, /DEADLINE_EXCEEDED/);
  await etcd.resume();
  await etcd.put("/after", "pause");
}

async function checkOneMember(provider: EtcdProvider) {
  await using etcd = await startEtcd({ provider, quotaBytes: 1 << 30 });
  equal(etcd.endpoints.length, 1);
  equal(
    etcd.createServerSql("it's", { request_timeout: "1's" }),
    `CREATE SERVER "it's" FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}', ` +
      "request_timeout '1''s')",
  );
  await checkKeys(etcd);
  await checkBulk(etcd, 5_000);
  await checkCompaction(etcd);
  await checkPause(etcd);
  await etcd.kill(0);
  await etcd.restart(0);
  equal(text((await etcd.get("/after"))?.value), "pause");
  ok(await etcd.clear() > 5_000);
  match(await etcd.log(0), /listen/);
  await etcd.stop();
  await etcd.stop();
}

async function checkThreeMembers(provider: EtcdProvider) {
  await using etcd = await startEtcd({ provider, members: 3 });
  await etcd.put("/a", "1");
  const first = await etcd.leader();
  await etcd.kill(first);
  await etcd.put("/a", "2");
  const second = await etcd.leader();
  ok(second !== first);
  equal(text((await etcd.get("/a"))?.value), "2");

  await etcd.restart(first);
  await etcd.pause(second);
  const revision = await etcd.put("/a", "3");
  await etcd.resume(second);
  await waitFor("the member that slept to catch up", async () => {
    const { revision: its } = await etcd.client.status(second);
    return its >= revision;
  });
  // Not its revision: a put during an election may be repeated, and both may count.
  equal(text((await etcd.get("/a"))?.value), "3");
}

/** Kills a process that has started etcd and paused it, and waits for etcd's port to be closed. */
async function checkNothingOutlives(provider: EtcdProvider) {
  const script = `
    import { startEtcd } from ${JSON.stringify(import.meta.resolve("./etcd.ts"))};
    const etcd = await startEtcd({ provider: "${provider}" });
    await etcd.pause();
    console.log(etcd.endpoints[0]);
    await new Promise((resolve) => setTimeout(resolve, 60_000));`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", script],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const reader = child.stdout.getReader();
  const port = Number(text((await reader.read()).value).trim().split(":")[1]);
  child.kill("SIGKILL");
  await child.status;
  await reader.cancel();
  ok(port > 0);
  // A container without a docker program to remove it goes when the next test process starts one.
  if (provider === "testcontainers") await removeOrphans();
  await waitFor("the end of etcd", async () => {
    try {
      (await Deno.connect({ port })).close();
      return false;
    } catch {
      return true;
    }
  });
}

const noDocker = await whyNoDocker();
if (noDocker !== null) console.log(`etcd in containers is not tested: ${noDocker}`);

for (const provider of ["process", "testcontainers"] as const) {
  const options = { ignore: provider === "testcontainers" && noDocker !== null };
  Deno.test(`etcd, ${provider}: one member`, options, () => checkOneMember(provider));
  Deno.test(`etcd, ${provider}: three members lose a leader`, options, () => checkThreeMembers(provider));
  Deno.test(`etcd, ${provider}: what cannot start is an error with its log`, options, async () => {
    const start = startEtcd({ provider, extraArgs: ["--no-such-flag"] });
    await rejects(start, /did not start.*ended at once[^]*no-such-flag/);
  });
  Deno.test(`etcd, ${provider}: it does not outlive a test process that is killed`, options, async () => {
    await checkNothingOutlives(provider);
  });
}

Deno.test("etcd, process: 200,000 keys load in seconds", async () => {
  await using etcd = await startEtcd();
  const start = performance.now();
  await etcd.putMany(function* () {
    for (let i = 0; i < 200_000; i++) yield [`/load/${String(i).padStart(9, "0")}`, "v".repeat(100)] as const;
  }());
  const seconds = (performance.now() - start) / 1000;
  equal(await etcd.client.count("/load/"), 200_000);
  console.log(`loaded in ${seconds.toFixed(1)} s`);
});

Deno.test("free ports are different and the end of a prefix is right", async () => {
  equal(new Set(await freePorts(20)).size, 20);
  deepEqual([...prefixEnd(Uint8Array.of(1, 0xff))], [2]);
  deepEqual([...prefixEnd(Uint8Array.of(0xff))], [0]);
  deepEqual([...prefixEnd(new Uint8Array())], [0]);
});
