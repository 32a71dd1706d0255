import assert from "node:assert/strict";
import { encodeUtf8 } from "../../base/bytes.ts";
import { WatchCreate } from "../../etcd/api.ts";
import { encodeReadTxn } from "../../etcd/messages.ts";
import { Method } from "../../ipc/frame.ts";
import { freePort, silentServer, TestEtcd } from "../testing_etcd.ts";
import { compact, errorFrom, get, getPrefix, put, readRange } from "../testing_requests.ts";
import { REAL, VirtualRuntime } from "../testing_runtime.ts";
import { Deadline } from "../deadline.ts";
import { Cluster, type ClusterOptions, type Terms } from "./cluster.ts";
import { pastEvents } from "../watch/past.ts";
import { type Channel, type Failure, type Outcome, State } from "./transport.ts";

const terms = (request: number, more: Partial<Terms> = {}): Terms => ({
  ...{ connect: 3_000, retries: 1, deadline: Deadline.after(REAL, request) },
  ...more,
});
const quiet = () => {};

/** Runs the test with a cluster of etcds that know nothing of each other, and frees all whatever happens. */
async function withEtcds(
  count: number,
  test: (cluster: Cluster, etcds: TestEtcd[]) => Promise<void>,
): Promise<void> {
  const etcds = await Promise.all(Array.from({ length: count }, () => TestEtcd.start()));
  const cluster = new Cluster({ runtime: REAL, endpoints: etcds.map((etcd) => etcd.endpoint), log: quiet });
  try {
    await test(cluster, etcds);
  } finally {
    cluster.close();
    await Promise.all(etcds.map((etcd) => etcd.stop()));
  }
}

const FAILURES = {
  late: { code: 4, text: "Deadline exceeded" },
  cancelled: { code: 1, text: "Cancelled on client" },
  lost: { code: 14, text: "read ECONNRESET" },
  leaderless: { code: 14, text: "etcdserver: no leader" },
  elected: { code: 14, text: "etcdserver: leader changed" },
  learner: { code: 14, text: "etcdserver: rpc not supported for learner" },
};

/** A cluster in virtual time whose calls take so many milliseconds, null for ever; and what is told of it. */
function simulated(
  timeOf: (path: string, endpoint: string) => number | null,
  refuses = () => false,
  more: Partial<ClusterOptions> = {},
  refusal: (endpoint: string, path: string) => Failure | null = () => null,
) {
  const lines: string[] = [];
  const dialled: { break(): void }[] = [];
  const asked: string[] = [];
  const runtime = new VirtualRuntime({
    dial(endpoint) {
      const watchers: (() => void)[] = [];
      const underWay = new Set<() => void>();
      dialled.push({
        break() {
          for (const end of [...watchers, ...underWay]) end();
        },
      });
      return {
        endpoint,
        connect: () => refuses() ? State.TRANSIENT_FAILURE : State.READY,
        connectError: () => Promise.resolve("refused"),
        onChange: (from, changed) => from === State.READY && watchers.push(() => changed(State.IDLE)),
        call: (path, payload, { deadline, signal }) =>
          new Promise<Outcome>((resolve) => {
            asked.push(path);
            const failure = refusal(endpoint, path);
            if (failure !== null) return resolve({ failure });
            const end = (outcome: Outcome) => {
              underWay.delete(lost);
              resolve(outcome);
            };
            const lost = () => end({ failure: FAILURES.lost });
            underWay.add(lost);
            signal?.addEventListener("abort", () => end({ failure: FAILURES.cancelled }));
            runtime.after(timeOf(path, endpoint) ?? Infinity, () => end({ reply: payload }));
            runtime.after(deadline.left(), () => end({ failure: FAILURES.late }));
          }),
        login() {
          const failure = refusal(endpoint, "login");
          return Promise.resolve(failure === null ? { reply: "token" } : { failure });
        },
        close: () => {},
      } as Partial<Channel> as Channel;
    },
  });
  const cluster = new Cluster({ runtime, endpoints: ["h:1"], log: (line) => lines.push(line), ...more });
  const ask = (method: number, ms: number, more: Partial<Terms> = {}) =>
    cluster.call(method, put("/a", "1"), {
      ...{ connect: 1_000, deadline: Deadline.after(runtime, ms), retries: 0 },
      ...more,
    });
  /** Waits for other clients. */
  const wait = (ms: number, more: Partial<Terms> = {}) =>
    cluster.stream((channel, options) => channel.call("/x/Wait", put("/a", "1"), options), {
      ...{ connect: 1_000, deadline: Deadline.after(runtime, ms), retries: 0, waits: true },
      ...more,
    });
  return { runtime, lines, dialled, asked, ask, wait };
}

/** How it has ended, once it has. */
function watched(promise: Promise<unknown>): { end: string | null } {
  const seen = { end: null as string | null };
  promise.then(() => seen.end = "done", (error) => seen.end = error.sqlstate);
  return seen;
}

Deno.test("Cluster: a timeout that was too short speaks against nobody, a fair one does", async () => {
  let slow: number | null = 40;
  const { runtime, lines, dialled, ask, wait } = simulated((path) => path.endsWith("/Wait") ? 60_000 : slow);
  const lock = watched(wait(600_000));
  const first = watched(ask(Method.PUT, 5_000));
  await runtime.pass(100);
  assert.equal(first.end, "done");
  for (let i = 0; i < 20; i++) {
    const hasty = watched(ask(Method.RANGE, 1));
    await runtime.pass(10);
    assert.equal(hasty.end, "08006");
  }
  assert.deepEqual([dialled.length, lines, lock.end], [1, [], null]);
  slow = null;
  // Twenty times what calls take.
  void watched(ask(Method.RANGE, 700));
  await runtime.pass(750);
  assert.deepEqual(lines, []);
  void watched(ask(Method.RANGE, 900));
  await runtime.pass(950);
  assert.deepEqual(lines, ['leaving etcd at "h:1": it does not answer']);
});

Deno.test("Cluster: who waits for other clients does so past any number of lost connections", async () => {
  let down = false;
  let lockTakes: number | null = null;
  const { runtime, dialled, asked, wait } = simulated(
    (path) => path.endsWith("/Wait") ? lockTakes : 5,
    () => down,
  );
  const lock = watched(wait(Infinity, { retries: 1, backoff: 10 }));
  await runtime.pass(50);
  for (let i = 0; i < 10; i++) {
    dialled.at(-1)!.break();
    down = true;
    await runtime.pass(20_000);
    down = false;
    await runtime.pass(5_000);
    assert.equal(lock.end, null, `loss ${i}`);
    assert.equal(asked.filter((path) => path.endsWith("/Wait")).length, i + 2);
  }
  // No faster than once in three seconds while nobody answers.
  assert.ok(dialled.length < 150, `${dialled.length} connections`);
  lockTakes = 10;
  dialled.at(-1)!.break();
  await runtime.pass(5_000);
  assert.equal(lock.end, "done");
});

Deno.test("Cluster: a wait ends with its deadline, and one that has not begun with its retries", async () => {
  let down = true;
  const { runtime, dialled, wait } = simulated(() => null, () => down);
  const early = watched(wait(600_000));
  await runtime.pass(1_100);
  assert.equal(early.end, "08001");
  down = false;
  const lock = watched(wait(30_000));
  await runtime.pass(1_000);
  down = true;
  dialled.at(-1)!.break();
  await runtime.pass(28_000);
  assert.equal(lock.end, null);
  await runtime.pass(1_100);
  assert.equal(lock.end, "08001");
});

Deno.test("Cluster: a write that was certainly not taken goes to another member, after a login too", async () => {
  for (const user of [{}, { username: "u", password: "p" }] as Partial<ClusterOptions>[]) {
    for (const failure of user.username ? [FAILURES.learner, FAILURES.lost] : [FAILURES.learner]) {
      const endpoints = ["learner:1", "voter:1"];
      const refusal = (endpoint: string, path: string) =>
        endpoint === "learner:1" && (user.username === undefined || path === "login") ? failure : null;
      const { runtime, ask, asked } = simulated(() => 5, () => false, { ...user, endpoints }, refusal);
      const write = watched(ask(Method.PUT, 5_000));
      await runtime.pass(3_000);
      assert.equal(write.end, "done", failure.text);
      assert.equal(asked.length, user.username ? 1 : 2);
    }
  }
});

Deno.test("Cluster: while the others elect a leader, no call waits at the one that they have lost", async () => {
  let cut = false;
  let refusals: Failure[] = [];
  const at: string[] = [];
  const { runtime, lines, ask } = simulated(
    (_, endpoint) => cut && endpoint === "old:1" ? null : 5,
    () => false,
    { endpoints: ["old:1", "one:1", "two:1"] },
    (endpoint) => {
      at.push(endpoint);
      return endpoint === "old:1" ? null : refusals[at.length % 2] ?? null;
    },
  );
  void watched(ask(Method.PUT, 5_000));
  await runtime.pass(100);
  cut = true;
  const first = watched(ask(Method.RANGE, 400));
  await runtime.pass(500);
  assert.deepEqual([first.end, at, lines.length], ["08006", ["old:1", "old:1"], 1]);
  // It is connected to as quickly as the others, and takes calls as if nothing were.
  refusals = [FAILURES.leaderless, FAILURES.elected];
  const read = watched(ask(Method.RANGE, 5_000, { retries: 5, backoff: 100 }));
  await runtime.pass(1_200);
  refusals = [];
  await runtime.pass(1_000);
  assert.equal(read.end, "done");
  assert.equal(at.lastIndexOf("old:1"), 1, at.join());
  assert.ok(at.includes("one:1") && at.includes("two:1"), at.join());
});

Deno.test("Cluster: that a connection is given up ends no call on it", async () => {
  await withEtcds(1, async (cluster, [etcd]) => {
    await cluster.call(Method.PUT, put("/a", "1"), terms(5_000));
    const channel = REAL.etcd.dial(etcd.endpoint);
    const call = (key: string) =>
      channel.call("/etcdserverpb.KV/Range", get(key), {
        ...{ login: { token: null }, deadline: Deadline.after(REAL, 5_000) },
      });
    await call("/a");
    etcd.signal("SIGSTOP");
    const reply = call("/a");
    await new Promise((resolve) => setTimeout(resolve, 50));
    channel.close();
    await new Promise((resolve) => setTimeout(resolve, 50));
    etcd.signal("SIGCONT");
    assert.equal((await reply).failure, undefined);
  });
});

Deno.test("Cluster: a call that etcd has cancelled at its deadline was late, and no connection was lost", async () => {
  const { runtime, lines, dialled, ask } = simulated(() => 40, () => false, {}, () => null);
  void watched(ask(Method.PUT, 5_000));
  await runtime.pass(100);
  const late = { ...FAILURES.late };
  Object.assign(FAILURES.late, FAILURES.cancelled);
  const hasty = watched(ask(Method.RANGE, 1));
  await runtime.pass(10);
  Object.assign(FAILURES.late, late);
  assert.deepEqual([hasty.end, lines, dialled.length], ["08006", [], 1]);
});

Deno.test("Cluster: a stream that is reset speaks against nobody", async () => {
  const { runtime, lines, dialled, ask } = simulated(() => 5, () => false, {}, () => FAILURES.cancelled);
  const write = watched(ask(Method.PUT, 5_000));
  await runtime.pass(100);
  assert.deepEqual([write.end, lines, dialled.length], ["08007", [], 1]);
});

Deno.test("Cluster: what is under way on a member that is left may end there", async () => {
  const { runtime, lines, ask } = simulated((path) => path.endsWith("/Put") ? 4_000 : null);
  const write = watched(ask(Method.PUT, 10_000));
  void watched(ask(Method.RANGE, 3_000));
  await runtime.pass(3_100);
  assert.equal(lines.length, 1);
  await runtime.pass(1_000);
  assert.equal(write.end, "done");
});

Deno.test("Cluster: what is put can be read, side by side and beyond 4 MB", async () => {
  await withEtcds(1, async (cluster) => {
    const value = "x".repeat(1_000_000);
    await Promise.all(
      Array.from({ length: 6 }, (_, i) => cluster.call(Method.PUT, put(`/k/${i}`, value), terms(5_000))),
    );
    const reply = await cluster.call(Method.RANGE, getPrefix("/k/"), terms(5_000));
    assert.deepEqual(readRange(reply).values, Array(6).fill(value));
  });
});

Deno.test("Cluster: etcd's refusals get their SQLSTATE and etcd's words", async () => {
  await withEtcds(1, async (cluster, [etcd]) => {
    await cluster.call(Method.PUT, put("/a", "1"), terms(5_000));
    await cluster.call(Method.PUT, put("/a", "2"), terms(5_000));
    const { revision } = readRange(await cluster.call(Method.RANGE, get("/a"), terms(5_000)));
    await cluster.call(Method.COMPACT, compact(revision), terms(5_000));
    const compacted = await errorFrom(cluster.call(Method.RANGE, get("/a", "1"), terms(5_000)));
    assert.equal(compacted.sqlstate, "22023");
    assert.equal(compacted.message, "revision 1 of etcd has been compacted");
    assert.equal(compacted.hint, `The oldest revision that can be read is ${revision}.`);
    assert.match(compacted.detail, new RegExp(`^${etcd.endpoint} answered "etcdserver: mvcc: `));
    const txn = encodeReadTxn([{ key: encodeUtf8("/a"), rangeEnd: null, revision: "1" }]);
    const inTxn = await errorFrom(cluster.call(Method.READ_TXN, txn, terms(5_000)));
    assert.deepEqual([inTxn.message, inTxn.hint], [compacted.message, compacted.hint]);
    const future = await errorFrom(cluster.call(Method.RANGE, get("/a", "1000"), terms(5_000)));
    assert.equal(future.message, "required revision is in the future");
    const large = await errorFrom(
      cluster.call(Method.PUT, put("/a", new Uint8Array(3_000_000)), terms(5_000)),
    );
    assert.equal(large.sqlstate, "54000");
    const empty = await errorFrom(cluster.call(Method.PUT, put("", "1"), terms(5_000)));
    assert.equal(empty.sqlstate, "22023");
    assert.equal(empty.message, "etcd: key is not provided");
    assert.equal((await errorFrom(cluster.call(99, put("", "1"), terms(5_000)))).sqlstate, "0A000");
  });
});

Deno.test("Cluster: a read moves to another endpoint when its own dies", async () => {
  await withEtcds(2, async (cluster, etcds) => {
    await Promise.all(etcds.map((etcd, i) => etcd.ctl("put", "/who", String(i))));
    const who = async () =>
      Number(readRange(await cluster.call(Method.RANGE, get("/who"), terms(5_000))).values[0]);
    const first = await who();
    // Stopped, then killed, so that the read is under way when the connection breaks.
    etcds[first].signal("SIGSTOP");
    const read = who();
    await new Promise((resolve) => setTimeout(resolve, 50));
    await etcds[first].kill();
    assert.equal(await read, 1 - first);
  });
});

Deno.test("Cluster: a write whose answer is lost has an unknown outcome and is not made again", async () => {
  await withEtcds(2, async (cluster, etcds) => {
    await Promise.all(etcds.map((etcd, i) => etcd.ctl("put", "/who", String(i))));
    const first = Number(readRange(await cluster.call(Method.RANGE, get("/who"), terms(5_000))).values[0]);
    etcds[first].signal("SIGSTOP");
    const write = errorFrom(cluster.call(Method.PUT, put("/w", "1"), terms(5_000)));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await etcds[first].kill();
    const error = await write;
    assert.equal(error.sqlstate, "08007");
    assert.equal(error.message, `lost connection to etcd at "${etcds[first].endpoint}"`);
    const other = readRange(await cluster.call(Method.RANGE, get("/w"), terms(5_000)));
    assert.deepEqual(other.values, []);
  });
});

Deno.test("Cluster: an etcd that stands still ends in a timeout, and the next call asks another", async () => {
  await withEtcds(2, async (cluster, etcds) => {
    await Promise.all(etcds.map((etcd, i) => etcd.ctl("put", "/who", String(i))));
    const who = async () =>
      Number(readRange(await cluster.call(Method.RANGE, get("/who"), terms(300))).values[0]);
    const first = await who();
    etcds[first].signal("SIGSTOP");
    const [read, write] = await Promise.all([
      errorFrom(who()),
      errorFrom(cluster.call(Method.PUT, put("/w", "1"), terms(300))),
    ]);
    assert.equal(read.sqlstate, "08006");
    assert.equal(read.message, "etcd did not answer within 300 ms");
    assert.equal(write.sqlstate, "08007");
    assert.equal(await who(), 1 - first);
    etcds[first].signal("SIGCONT");
  });
});

Deno.test("Cluster: a cancelled call ends at once and harms no other", async () => {
  await withEtcds(1, async (cluster, [etcd]) => {
    await cluster.call(Method.RANGE, get("/a"), terms(5_000));
    etcd.signal("SIGSTOP");
    const controller = new AbortController();
    const cancelled = errorFrom(
      cluster.call(Method.RANGE, get("/a"), terms(5_000, { signal: controller.signal })),
    );
    const other = cluster.call(Method.RANGE, get("/a"), terms(5_000));
    await new Promise((resolve) => setTimeout(resolve, 50));
    const abortedAt = performance.now();
    controller.abort();
    assert.equal((await cancelled).sqlstate, "57014");
    assert.ok(performance.now() - abortedAt < 100);
    etcd.signal("SIGCONT");
    await other;
  });
});

Deno.test("Cluster: a call to a silent endpoint can be cancelled while it connects", async () => {
  const silent = silentServer();
  const cluster = new Cluster({ runtime: REAL, endpoints: [silent.endpoint], log: quiet });
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 50);
  const error = await errorFrom(
    cluster.call(Method.RANGE, get("/a"), terms(5_000, { signal: controller.signal })),
  );
  assert.equal(error.sqlstate, "57014");
  cluster.close();
  silent.stop();
});

Deno.test("Cluster: a restarted etcd serves the very next read and write", async () => {
  await withEtcds(1, async (cluster, [etcd]) => {
    for (let i = 0; i < 3; i++) {
      await cluster.call(Method.PUT, put("/a", "1"), terms(5_000));
      await etcd.kill();
      assert.equal((await errorFrom(cluster.call(Method.RANGE, get("/a"), terms(5_000)))).sqlstate, "08001");
      await etcd.restart();
    }
    assert.deepEqual(readRange(await cluster.call(Method.RANGE, get("/a"), terms(5_000))).values, ["1"]);
  });
});

Deno.test("Cluster: authentication", async (t) => {
  const etcd = await TestEtcd.start();
  const lines: string[] = [];
  const open = (username?: string, password?: string) =>
    new Cluster({
      runtime: REAL,
      endpoints: [`127.0.0.1:${freePort()}`, etcd.endpoint],
      username,
      password,
      log: (line) => lines.push(line),
    });
  const good = open("root", "s3cret");
  const all = [good];
  try {
    await t.step("is not asked for where etcd has it switched off", async () => {
      await good.call(Method.PUT, put("/a", "1"), terms(5_000));
    });
    await etcd.ctl("user", "add", "root:s3cret");
    await etcd.ctl("user", "grant-role", "root", "root");
    await etcd.ctl("user", "add", "app:apppw");
    await etcd.ctl("role", "add", "app");
    await etcd.ctl("role", "grant-permission", "app", "readwrite", "/app/", "--prefix");
    await etcd.ctl("user", "grant-role", "app", "app");
    await etcd.ctl("auth", "enable");
    await t.step("switched on under a running cluster, is done with the next call", async () => {
      await good.call(Method.PUT, put("/a", "2"), terms(5_000));
    });
    await t.step("with the wrong password names the user, not the password", async () => {
      const cluster = open("root", "wr0ng");
      all.push(cluster);
      const error = await errorFrom(cluster.call(Method.RANGE, get("/a"), terms(5_000)));
      assert.equal(error.sqlstate, "28P01");
      assert.equal(error.message, 'password authentication failed for etcd user "root"');
      assert.doesNotMatch(JSON.stringify(error) + error.stack, /wr0ng/);
    });
    await t.step("without a user is asked for", async () => {
      const cluster = open();
      all.push(cluster);
      const error = await errorFrom(cluster.call(Method.RANGE, get("/a"), terms(5_000)));
      assert.equal(error.sqlstate, "28000");
      assert.match(error.hint, /user mapping/);
    });
    await t.step("keeps a user within the granted range", async () => {
      const cluster = open("app", "apppw");
      all.push(cluster);
      await cluster.call(Method.PUT, put("/app/1", "1"), terms(5_000));
      const error = await errorFrom(cluster.call(Method.PUT, put("/b", "1"), terms(5_000)));
      assert.equal(error.sqlstate, "42501");
    });
    await t.step("is done again when etcd has forgotten the token", async () => {
      await good.call(Method.RANGE, get("/a"), terms(5_000));
      await etcd.kill();
      await etcd.restart();
      const replies = await Promise.all([
        good.call(Method.PUT, put("/a", "3"), terms(5_000)),
        good.call(Method.PUT, put("/b", "3"), terms(5_000)),
      ]);
      assert.equal(replies.length, 2);
    });
    await t.step("is done again for calls of one endpoint, and for streams", async () => {
      const hash = () => good.callEndpoint(etcd.endpoint, Method.HASH_KV, new Uint8Array(0), terms(5_000));
      const defragment = () =>
        good.callEndpoint(etcd.endpoint, Method.DEFRAGMENT, new Uint8Array(0), terms(5_000));
      const request = WatchCreate.encode({ key: encodeUtf8("/a"), start_revision: "1" });
      const events = () =>
        good.stream((channel, options) => pastEvents(REAL, channel, request, options), terms(5_000));
      for (const ask of [hash, defragment, events]) {
        await ask();
        await etcd.kill();
        await etcd.restart();
        await ask();
      }
    });
    assert.doesNotMatch(lines.join("\n"), /s3cret|wr0ng|apppw/);
  } finally {
    for (const cluster of all) cluster.close();
    await etcd.stop();
  }
});

Deno.test("Cluster: passes over the endpoints wait longer each time, and end", async () => {
  const cluster = new Cluster({ runtime: REAL, endpoints: [`127.0.0.1:${freePort()}`], log: quiet });
  const startedAt = performance.now();
  const error = await errorFrom(
    cluster.call(Method.PUT, put("/a", "1"), terms(5_000, { retries: 2, backoff: 100 })),
  );
  const took = performance.now() - startedAt;
  assert.equal(error.sqlstate, "08001");
  assert.ok(took >= 300 && took < 1_500, `${took} ms`);
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 50);
  const patient = { retries: 2, backoff: 4_000 };
  const aborted = await errorFrom(
    cluster.call(Method.RANGE, get("/a"), terms(5_000, { ...patient, signal: controller.signal })),
  );
  assert.equal(aborted.sqlstate, "57014");
  for (const hasty of [terms(5_000, { ...patient, connect: 200 }), terms(200, patient)]) {
    assert.equal((await errorFrom(cluster.call(Method.RANGE, get("/a"), hasty))).sqlstate, "08001");
  }
  assert.ok(performance.now() - startedAt < took + 1_500);
  cluster.close();
});

Deno.test("Cluster: an etcd that comes back between two passes serves a call that began without it", async () => {
  const etcd = await TestEtcd.start();
  const cluster = new Cluster({ runtime: REAL, endpoints: [etcd.endpoint], log: quiet });
  try {
    await etcd.kill();
    const write = cluster.call(
      Method.PUT,
      put("/a", "1"),
      terms(10_000, { connect: 10_000, retries: 20, backoff: 20 }),
    );
    await etcd.restart();
    await write;
    assert.deepEqual(readRange(await cluster.call(Method.RANGE, get("/a"), terms(5_000))).values, ["1"]);
  } finally {
    cluster.close();
    await etcd.stop();
  }
});
