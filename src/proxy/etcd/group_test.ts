import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { WatchCreate, WatchReply } from "../../etcd/api.ts";
import { decodeTxnOutcome, encodeTxn } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { Deadline } from "../deadline.ts";
import { Stats } from "../stats.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { relay } from "../testing_members.ts";
import { getPrefix } from "../testing_requests.ts";
import { REAL, settled, VirtualRuntime } from "../testing_runtime.ts";
import { decodeRangeResponse } from "../../etcd/ranges.ts";
import { Cluster, type Terms } from "./cluster.ts";
import { pastEvents } from "../watch/past.ts";
import { Groups } from "./group.ts";

const LIMITS = { maxTxnOps: 128, maxRequestBytes: 1536 * 1024 };

const put = (key: string, mod?: bigint, value = "v") =>
  encodeTxn({
    compare: mod === undefined ? [] : [{ key: encodeUtf8(key), target: "mod", result: "equal", value: mod }],
    success: [{ put: { key: encodeUtf8(key), value: encodeUtf8(value), lease: 0n } }],
    failure: [],
  });

/** Keys k0, k1... in the order in which they stand in a request. */
const keysIn = (payload: Uint8Array) => decodeUtf8(payload).match(/k\d+/g) ?? [];

/** Groups over calls that end when the test says so; etcd's part is played by `answer`. */
function setup() {
  const runtime = new VirtualRuntime();
  const calls: {
    keys: string[];
    terms: Terms;
    resolve: (reply: Uint8Array) => void;
    reject: (error: unknown) => void;
  }[] = [];
  const groups = new Groups(
    runtime,
    (_method, payload, terms) =>
      new Promise((resolve, reject) => calls.push({ keys: keysIn(payload), terms, resolve, reject })),
    false,
  );
  const write = (key: string, ms = 5_000, more: Partial<Terms> = {}) => {
    const terms: Terms = { connect: 1_000, deadline: Deadline.after(runtime, ms), ...more };
    const ended: { reply?: Uint8Array; error?: EtcdFdwError } = {};
    groups.call(Method.TXN, put(key), terms, LIMITS)!.then(
      (reply) => ended.reply = reply,
      (error) => ended.error = error,
    );
    return ended;
  };
  return { runtime, calls, groups, write };
}

const SINGLE = Uint8Array.of(0x10, 1);
/** TxnResponse of so many Txns, each of which has succeeded. */
const together = (count: number) =>
  Uint8Array.from([
    0x0a,
    2,
    0x18,
    9,
    ...Array.from({ length: count }, () => [0x1a, 4, 0x22, 2, 0x10, 1]).flat(),
  ]);

Deno.test("Groups: alone, a write goes out at once; who comes while two are under way leaves with the others", async () => {
  const { calls, write } = setup();
  const ends = ["k1", "k2", "k3", "k4", "k5"].map((key) => write(key));
  assert.deepEqual(calls.map(({ keys }) => keys), [["k1"], ["k2"]]);
  calls[0].resolve(SINGLE);
  await settled();
  assert.deepEqual(calls.slice(2).map(({ keys }) => keys), [["k3", "k4", "k5"]]);
  calls[2].resolve(together(3));
  await settled();
  assert.deepEqual(ends.map(({ reply }) => reply !== undefined), [true, false, true, true, true]);
  assert.ok(ends.slice(2).every(({ reply }) => decodeTxnOutcome(reply!).succeeded));
  assert.equal(decodeTxnOutcome(ends[3].reply!).revision, 9n);
});

Deno.test("Groups: writes that meet leave one after the other, in their order", async () => {
  const { calls, write } = setup();
  for (const key of ["k1", "k2", "k3", "k3", "k4", "k3", "k4"]) write(key);
  calls[0].resolve(SINGLE);
  await settled();
  assert.deepEqual(calls[2].keys, ["k3", "k4"]);
  calls[2].resolve(together(2));
  await settled();
  assert.deepEqual(calls[3].keys, ["k3", "k4"]);
  calls[3].resolve(together(2));
  await settled();
  assert.deepEqual(calls[4].keys, ["k3"]);
});

Deno.test("Groups: a stalled call holds nobody up for long, and what is many leaves in parts", async () => {
  const { runtime, calls, write } = setup();
  for (let i = 0; i < 102; i++) write(`k${i}`);
  assert.equal(calls.length, 2);
  await runtime.pass(20);
  assert.equal(calls[2].keys.length, 48);
  await runtime.pass(20);
  assert.deepEqual(calls.slice(3).map(({ keys }) => keys.length), [48]);
  await runtime.pass(20);
  assert.deepEqual(calls.slice(4).map(({ keys }) => keys.length), [4]);
});

Deno.test("Groups: who is late or cancelled ends by himself, and is told whether his write was sent", async () => {
  const { runtime, calls, write } = setup();
  const patient = ["k1", "k2", "k3"].map((key) => write(key));
  const late = write("k4", 10);
  await runtime.pass(15);
  assert.equal(late.error?.sqlstate, "08006");
  const hasty = write("k5", 100);
  const controller = new AbortController();
  const cancelled = write("k6", 5_000, { signal: controller.signal });
  calls[0].resolve(SINGLE);
  await settled();
  assert.deepEqual(calls[2].keys, ["k3", "k5", "k6"]);
  assert.ok(calls[2].terms.deadline.left() > 4_000);
  controller.abort();
  await runtime.pass(200);
  assert.equal(cancelled.error?.sqlstate, "57014");
  assert.equal(hasty.error?.sqlstate, "08007");
  assert.equal(patient[2].error, undefined);
  calls[2].resolve(together(3));
  await settled();
  assert.ok(patient[2].reply);
  assert.equal(runtime.timers, 0);
});

Deno.test("Groups: cancelled while waiting, a write is never sent", async () => {
  const { runtime, calls, write } = setup();
  ["k1", "k2"].map((key) => write(key));
  const controller = new AbortController();
  const cancelled = write("k3", 5_000, { signal: controller.signal });
  controller.abort();
  await settled();
  assert.equal(cancelled.error?.sqlstate, "57014");
  await runtime.pass(100);
  assert.equal(calls.length, 2);
});

Deno.test("Groups: what etcd refuses as a whole is sent one by one; what is lost is not", async () => {
  const { calls, write } = setup();
  const ends = ["k1", "k2", "k3", "k4"].map((key) => write(key));
  calls[0].resolve(SINGLE);
  await settled();
  calls[2].reject(new EtcdFdwError("42501", "no"));
  await settled();
  assert.deepEqual(calls.slice(3).map(({ keys }) => keys), [["k3"], ["k4"]]);
  calls[3].resolve(SINGLE);
  calls[4].reject(new EtcdFdwError("42501", "no"));
  await settled();
  assert.deepEqual(ends[2].reply, SINGLE);
  assert.equal(ends[3].error?.sqlstate, "42501");
  for (const sqlstate of ["08007", "08006", "08001"]) {
    const { calls, write } = setup();
    const ends = ["k1", "k2", "k3", "k4"].map((key) => write(key));
    calls[0].resolve(SINGLE);
    await settled();
    calls[2].reject(new EtcdFdwError(sqlstate, "lost"));
    await settled();
    assert.equal(calls.length, 3);
    assert.deepEqual(ends.slice(2).map(({ error }) => error?.sqlstate), [sqlstate, sqlstate]);
  }
});

Deno.test("Groups: an answer that cannot be read leaves open what became of the writes", async () => {
  const { calls, write } = setup();
  const ends = ["k1", "k2", "k3", "k4"].map((key) => write(key));
  calls[0].resolve(SINGLE);
  await settled();
  calls[2].resolve(together(1));
  await settled();
  assert.equal(calls.length, 3);
  assert.deepEqual(ends.slice(2).map(({ error }) => error?.sqlstate), ["08007", "08007"]);
});

Deno.test("Groups: reads, large writes, and servers that take few operations are not for them", () => {
  const { groups, runtime } = setup();
  const terms = { connect: 1_000, deadline: Deadline.after(runtime, 5_000) };
  assert.equal(groups.call(Method.RANGE, put("k1"), terms, LIMITS), null);
  assert.equal(groups.call(Method.TXN, put("k1", 0n, "x".repeat(20_000)), terms, LIMITS), null);
  assert.equal(groups.call(Method.TXN, put("k1"), terms, { ...LIMITS, maxTxnOps: 16 }), null);
});

Deno.test("Groups: with a real etcd, each write succeeds or fails by itself, and no guard is passed over", async () => {
  const etcd = await TestEtcd.start();
  const cluster = new Cluster({ runtime: REAL, endpoints: [etcd.endpoint], log: () => {} });
  const groups = new Groups(REAL, (...call) => cluster.call(...call), false);
  const stats = new Stats(() => 0);
  const counters = stats.of({ database: "d", server: "s", role: "r" });
  const terms = (): Terms => ({ connect: 5_000, deadline: Deadline.after(REAL, 20_000), counters });
  try {
    const call = (payload: Uint8Array) =>
      groups.call(Method.TXN, payload, terms(), LIMITS)!.then(decodeTxnOutcome);
    // Counters that are read, and written if nobody else has: what is acknowledged must be their sum.
    const KEYS = 12;
    const added = new Array(KEYS).fill(0);
    const refused = { count: 0 };
    const known = Array.from({ length: KEYS }, () => ({ mod: 0n, value: 0 }));
    const worker = async (seed: number) => {
      for (let i = 0; i < 60; i++) {
        const at = (seed * 7 + i * 5) % KEYS;
        const { mod, value } = known[at];
        const { succeeded, revision } = await call(put(`/n/${at}`, mod, String(value + 1)));
        if (!succeeded) {
          refused.count++;
          continue;
        }
        added[at]++;
        known[at] = { mod: revision, value: value + 1 };
      }
    };
    await Promise.all(Array.from({ length: 24 }, (_, seed) => worker(seed)));
    const reply = await cluster.call(Method.RANGE, getPrefix("/n/"), terms());
    const sums = new Array(KEYS).fill(0);
    for (const { key, value } of decodeRangeResponse(reply).rows) {
      sums[Number(decodeUtf8(key).slice(3))] = Number(decodeUtf8(value));
    }
    assert.deepEqual(sums, added);
    assert.ok(refused.count > 50, String(refused.count));
    assert.ok(counters.grouped > 200, String(counters.grouped));
  } finally {
    cluster.close();
    await etcd.stop();
  }
});

/** Every value that a key below /l/ ever had, as often as it was written. */
async function valuesEver(endpoint: string): Promise<Map<string, number>> {
  const channel = REAL.etcd.dial(endpoint);
  const range = { key: encodeUtf8("/l/"), range_end: encodeUtf8("/l0"), start_revision: "1" };
  const options = { login: { token: null }, deadline: Deadline.after(REAL, 20_000) };
  const { reply, failure } = await pastEvents(REAL, channel, WatchCreate.encode(range), options);
  channel.close();
  assert.equal(failure, undefined);
  const values = new Map<string, number>();
  for (const { kv } of WatchReply.decode(reply!).events) {
    const value = decodeUtf8(kv!.value);
    values.set(value, (values.get(value) ?? 0) + 1);
  }
  return values;
}

Deno.test("Groups: over cut connections, what is told of each write is true, and none takes place twice", async () => {
  const etcd = await TestEtcd.start();
  const links = new Set<{ close(): void }>();
  const between = relay(Number(etcd.endpoint.split(":")[1]), 0, (link) => {
    links.add(link);
    return () => true;
  });
  const cluster = new Cluster({ runtime: REAL, endpoints: [`127.0.0.1:${between.port}`], log: () => {} });
  const groups = new Groups(REAL, (...call) => cluster.call(...call), false);
  const direct = new Cluster({ runtime: REAL, endpoints: [etcd.endpoint], log: () => {} });
  const terms = (): Terms => ({ connect: 5_000, retries: 2, deadline: Deadline.after(REAL, 10_000) });
  let going = true;
  const cutting = (async () => {
    while (going) {
      await new Promise((resolve) => setTimeout(resolve, 5 + Math.random() * 40));
      for (const link of links) link.close();
      links.clear();
    }
  })();
  try {
    const KEYS = 8;
    const outcomes: { key: number; value: string; outcome: "told" | "refused" | "unknown" }[] = [];
    const worker = async (name: number) => {
      for (let i = 0; i < 60; i++) {
        const key = (name + i) % KEYS;
        const value = `${name}-${i}`;
        // Half of them add to what is there by a guard on it, half write whatever there is.
        const mod = i % 2 === 0 ? undefined : await modOf(key);
        const call = groups.call(Method.TXN, put(`/l/${key}`, mod, value), terms(), LIMITS)!;
        const outcome = await call.then(
          (reply) => decodeTxnOutcome(reply).succeeded ? "told" as const : "refused" as const,
          ({ sqlstate }: EtcdFdwError) => sqlstate === "08007" ? "unknown" as const : "refused" as const,
        );
        outcomes.push({ key, value, outcome });
      }
    };
    const modOf = async (key: number) => {
      const reply = await direct.call(Method.RANGE, getPrefix(`/l/${key}`), terms());
      return decodeRangeResponse(reply).rows[0]?.modRevision ?? 0n;
    };
    await Promise.all(Array.from({ length: 16 }, (_, name) => worker(name)));
    going = false;
    await cutting;
    const written = await valuesEver(etcd.endpoint);
    for (const { value, outcome } of outcomes) {
      const times = written.get(value) ?? 0;
      if (outcome === "told") assert.equal(times, 1, value);
      else if (outcome === "refused") assert.equal(times, 0, value);
      else assert.ok(times <= 1, value);
    }
    const count = (wanted: string) => outcomes.filter(({ outcome }) => outcome === wanted).length;
    assert.ok(count("unknown") > 5 && count("told") > 200, `${count("unknown")} ${count("told")}`);
  } finally {
    going = false;
    cluster.close();
    direct.close();
    between.stop();
    await etcd.stop();
  }
});

Deno.test("Groups: a user's rights hold in the Txns of a group, and take nothing from the others", async () => {
  const etcd = await TestEtcd.start();
  const commands = [
    "user add root:r",
    "role add root",
    "user grant-role root root",
    "user add u:u",
    "role add u",
  ];
  const more = ["role grant-permission u readwrite /u/ --prefix=true", "user grant-role u u", "auth enable"];
  for (const command of [...commands, ...more]) await etcd.ctl(...command.split(" "));
  const endpoints = [etcd.endpoint];
  const cluster = new Cluster({ runtime: REAL, endpoints, log: () => {}, username: "u", password: "u" });
  const groups = new Groups(REAL, (...call) => cluster.call(...call), true);
  const terms = (): Terms => ({ connect: 5_000, deadline: Deadline.after(REAL, 10_000) });
  try {
    const guarded = (key: string, compared: string) =>
      encodeTxn({
        compare: [{ key: encodeUtf8(compared), target: "mod", result: "equal", value: 0n }],
        success: [{ put: { key: encodeUtf8(key), value: encodeUtf8("v"), lease: 0n } }],
        failure: [],
      });
    for (let round = 0; round < 4; round++) {
      const ours = Array.from({ length: 9 }, (_, i) => guarded(`/u/${round}/${i}`, `/u/${round}/${i}`));
      const theirs = [guarded("/theirs/1", "/theirs/1"), guarded("/u/x", "/theirs/2")];
      const writes = [...ours.slice(0, 5), theirs[0], ...ours.slice(5), theirs[1]];
      const outcomes = await Promise.all(
        writes.map((payload) =>
          groups.call(Method.TXN, payload, terms(), LIMITS)!.then(
            (reply) => decodeTxnOutcome(reply).succeeded ? "written" : "refused",
            ({ sqlstate }: EtcdFdwError) => sqlstate,
          )
        ),
      );
      assert.deepEqual([outcomes[5], outcomes[10]], ["42501", "42501"]);
      assert.ok([0, 1, 2, 3, 4, 6, 7, 8, 9].every((i) => outcomes[i] === "written"), outcomes.join());
    }
  } finally {
    cluster.close();
    await etcd.stop();
  }
});
