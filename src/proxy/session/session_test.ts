import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import {
  Ask,
  encodeFrame,
  type Frame,
  FrameType,
  HEADER_BYTES,
  Method,
  type OpenPayload,
  ReadFlag,
  writeHeader,
} from "../../ipc/frame.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import { encodeStageWrite, StageCode, StageKind } from "../../ipc/stage.ts";
import { listen } from "./server.ts";
import { type CallOptions, type ClusterHandle, LateError, type PartedAnswer } from "../handle.ts";
import { Budget } from "../memory.ts";
import { NO_INFO, TestClient } from "../testing_client.ts";
import { REAL } from "../testing_runtime.ts";

const OPEN: OpenPayload = {
  endpoints: ["h:1"],
  connectTimeout: 1000,
  requestTimeout: 1000,
  maxRetries: 0,
  retryBackoff: 0,
  maxTxnOps: 128,
  requireAtomic: false,
  maxStagedBytes: 1024 * 1024,
  database: "d",
  server: "s",
  role: "r",
};

/** A cluster whose calls do what their payload says, and that notes what happens to it. */
class FakeCluster implements ClusterHandle {
  started = 0;
  aborted = 0;
  closed = 0;
  staging = {
    ...{ maxTxnOps: 128, maxRequestBytes: 1_000_000, nested: true, rights: false, requireAtomic: false },
    maxStagedBytes: 1024 * 1024,
  };
  /** Payload of the answer to "page". */
  page = new Uint8Array(0);
  /** The latest of them. */
  sent = this.page;

  readonly endpoints = ["h:1"];
  readonly label = { database: "d", server: "s", role: "r" };
  transactions = 0;
  readonly user = "";
  readonly requestTimeout = 1000;
  /** Milliseconds that were left for each call when it was made. */
  readonly left: number[] = [];

  events = () => Promise.reject(new Error("not asked for"));
  changes = () => Promise.reject(new Error("not asked for"));
  watch = () => Promise.reject(new Error("not asked for"));
  observe = () => Promise.reject(new Error("not asked for"));
  stand = () => Promise.reject(new Error("not asked for"));
  snapshot = (): Promise<PartedAnswer> => Promise.reject(new Error("not asked for"));
  certificates = () => Promise.resolve([]);
  readonly cluster = {};
  check = () => {};
  share = (): ClusterHandle => this;
  noteTransaction = () => void this.transactions++;

  call(_method: number, payload: Uint8Array, { signal, deadline }: CallOptions = {}): Promise<Uint8Array> {
    this.started++;
    this.left.push(deadline!.left());
    const [verb] = decodeUtf8(payload.subarray(0, 100)).split(" ");
    if (verb === "page") return Promise.resolve(this.sent = this.page.slice());
    if (verb === "fail") return Promise.reject(new EtcdFdwError("42501", "no", { hint: "Ask." }));
    if (verb === "bug") return Promise.reject(new TypeError("oops"));
    if (verb === "later") return new Promise((resolve) => setTimeout(() => resolve(payload), 50));
    if (verb === "late") {
      return new Promise((_, reject) =>
        setTimeout(() => reject(new LateError("08006", "etcd did not answer")), deadline!.left())
      );
    }
    if (verb !== "wait") return Promise.resolve(payload);
    return new Promise((_, reject) => {
      signal!.addEventListener("abort", () => {
        this.aborted++;
        reject(new EtcdFdwError("57014", "cancelled"));
      });
    });
  }

  close(): void {
    this.closed++;
  }
}

interface Setup {
  cluster: FakeCluster;
  client: TestClient;
  log: string[];
  budget: Budget;
  /** Another session, whose channel 1 is open too. */
  another: () => Promise<TestClient>;
}

/** Runs the test with a session on a real socket whose channel 1 is open. */
async function withSession(
  test: (setup: Setup) => Promise<void>,
  budget = new Budget(2 ** 30),
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const cluster = new FakeCluster();
  const log: string[] = [];
  const open = (payload: OpenPayload) => {
    if (payload.username === "bad") throw new EtcdFdwError("22023", "bad options");
    return cluster;
  };
  const server = await listen(`${directory}/s`, {
    ...{ runtime: REAL, open, log: (line: string) => log.push(line), info: NO_INFO(), budget },
  });
  const clients: TestClient[] = [];
  const another = async () => {
    const client = await TestClient.connect(`${directory}/s`);
    clients.push(client);
    client.open(OPEN);
    return client;
  };
  try {
    await test({ cluster, client: await another(), log, budget, another });
  } finally {
    for (const client of clients) await client.close();
    await new Promise<void>((resolve) => server.close(resolve));
    assert.equal(budget.used, 0, "all memory was given back");
    await Deno.remove(directory, { recursive: true });
  }
}

function unary(id: number, text: string, more: Partial<Frame> = {}): Partial<Frame> {
  return { type: FrameType.UNARY, code: 1, id, payload: encodeUtf8(text), ...more };
}

Deno.test("Session: requests are answered as they end, errors with all their parts", async () => {
  await withSession(async ({ client, log }) => {
    client.send(unary(1, "wait"));
    client.send(unary(2, "fail"));
    client.send(unary(3, "echo"));
    client.send(unary(4, "bug"));
    client.send(unary(5, "echo", { channel: 9 }));
    client.send(unary(6, ""));
    assert.equal(decodeUtf8((await client.answer(3)).payload), "echo");
    assert.deepEqual(await client.error(2), { sqlstate: "42501", message: "no", detail: "", hint: "Ask." });
    assert.equal((await client.error(4)).message, "internal error: oops");
    assert.match(log[0], /^internal error: oops\n/);
    assert.equal((await client.error(5)).sqlstate, "08003");
    assert.equal((await client.answer(6)).payload.length, 0);
    assert.ok(!client.frames.some((frame) => frame.id === 1));
  });
});

Deno.test("Session: what fails at OPEN fails the channel's requests", async () => {
  await withSession(async ({ client }) => {
    client.open({ ...OPEN, username: "bad" }, 2);
    client.send({ type: FrameType.OPEN, channel: 3, payload: encodeUtf8('{"password": "s3cret') });
    client.send(unary(1, "echo", { channel: 2 }));
    client.send(unary(2, "echo", { channel: 3 }));
    assert.equal((await client.error(1)).message, "bad options");
    const error = await client.error(2);
    assert.equal(error.sqlstate, "08P01");
    assert.doesNotMatch(JSON.stringify(error), /s3cret/);
  });
});

Deno.test("Session: a cancelled request is aborted and never answered; its id is free again", async () => {
  await withSession(async ({ client, cluster }) => {
    client.send(unary(1, "wait"));
    client.send({ type: FrameType.CANCEL, id: 1 });
    client.send(unary(1, "echo"));
    client.send({ type: FrameType.CANCEL, id: 77 });
    client.send(unary(2, "echo"));
    await client.answer(2);
    assert.equal(cluster.aborted, 1);
    assert.deepEqual(client.frames.map((frame) => [frame.type, frame.id]), [
      [FrameType.REPLY, 1],
      [FrameType.REPLY, 2],
    ]);
  });
});

Deno.test("Session: CLOSE takes no more requests, and lets those under way end", async () => {
  await withSession(async ({ client, cluster }) => {
    client.send(unary(1, "later"));
    client.send(unary(2, "wait"));
    client.send({ type: FrameType.CLOSE, channel: 1 });
    client.send(unary(3, "echo"));
    assert.equal((await client.error(3)).sqlstate, "08003");
    assert.equal(cluster.closed, 0);
    assert.equal(decodeUtf8((await client.answer(1)).payload), "later");
    client.send({ type: FrameType.CANCEL, id: 2 });
    await client.until(() => cluster.closed === 1);
    // The number is free again.
    client.open(OPEN);
    client.send(unary(4, "echo"));
    assert.equal((await client.answer(4)).type, FrameType.REPLY);
  });
});

Deno.test("Session: a lost connection cancels everything", async () => {
  await withSession(async ({ client, cluster, log }) => {
    for (let id = 1; id <= 5; id++) client.send(unary(id, "wait"));
    client.send(unary(6, "echo"));
    await client.answer(6);
    await client.close();
    await client.until(() => cluster.closed === 1);
    assert.equal(cluster.aborted, 5);
    assert.deepEqual(log, []);
  });
});

Deno.test("Session: a violation of the protocol is an error of its own, then the end", async () => {
  const violations: [string, Uint8Array][] = [
    ["frame of protocol version 0, expected 2", new Uint8Array(20)],
    ["unexpected frame type 16", encodeFrame(full({ type: FrameType.REPLY }))],
    ["request id 0 is not free", encodeFrame(full({ type: FrameType.UNARY }))],
    ["request id 1 is not free", encodeFrame(full({ type: FrameType.UNARY, channel: 1, id: 1 }))],
    ["channel 1 is open already", encodeFrame(full({ type: FrameType.OPEN, channel: 1 }))],
  ];
  for (const [message, bytes] of violations) {
    await withSession(async ({ client, cluster, log }) => {
      client.send(unary(1, "wait"));
      client.socket.write(bytes);
      const error = await client.error(0);
      assert.deepEqual([error.sqlstate, error.message], ["08P01", message]);
      await client.until(() => client.closed);
      assert.deepEqual([cluster.aborted, cluster.closed], [1, 1]);
      assert.deepEqual(log, [`closing a backend's connection: ${message}`]);
    });
  }
});

function full(frame: Partial<Frame>): Frame {
  return { type: 0, code: 0, channel: 0, id: 0, payload: new Uint8Array(0), ...frame };
}

Deno.test("Session: frames may come in pieces of any size, and large ones whole", async () => {
  await withSession(async ({ client }) => {
    const bytes = encodeFrame(
      full({ type: FrameType.UNARY, channel: 1, id: 1, payload: encodeUtf8("echo") }),
    );
    for (const byte of bytes) {
      client.socket.write(Uint8Array.of(byte));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const large = new Uint8Array(3_000_000).map((_, i) => i * 7);
    client.send(unary(2, "", { payload: large }));
    await client.answer(1);
    assert.deepEqual((await client.answer(2)).payload, large);
  });
});

Deno.test("Session: a backend that does not read stops further calls until it does", async () => {
  await withSession(async ({ client, cluster }) => {
    cluster.page = new Uint8Array(4 * 1024 * 1024).fill(7);
    client.socket.pause();
    for (let id = 1; id <= 100; id++) client.send(unary(id, "page"));
    // All requests have been read when the one behind them is cancelled.
    client.send(unary(101, "page"));
    client.send({ type: FrameType.CANCEL, id: 101 });
    await new Promise((resolve) => setTimeout(resolve, 300));
    // The first ones were started before there was a reply to learn from.
    assert.ok(cluster.started <= 32, `${cluster.started} calls were started`);
    client.socket.resume();
    await client.answer(100);
    assert.equal(client.frames.length, 100);
    assert.deepEqual(client.frames.map((frame) => frame.id), Array.from({ length: 100 }, (_, i) => i + 1));
    assert.ok(client.frames.every(({ payload }) => payload.length === cluster.page.length));
    assert.equal(cluster.started, 100);
  });
});

Deno.test("Session: many requests side by side are bounded, and none is lost", async () => {
  await withSession(async ({ client, cluster }) => {
    for (let id = 1; id <= 300; id++) client.send(unary(id, "wait"));
    client.send(unary(301, "echo"));
    await client.until(() => cluster.started === 32);
    for (let id = 1; id <= 300; id++) client.send({ type: FrameType.CANCEL, id });
    await client.answer(301);
    assert.equal(cluster.aborted, 32);
    assert.equal(client.frames.length, 1);
  });
});

Deno.test("Session: PING is answered past all that waits", async () => {
  await withSession(async ({ client, cluster }) => {
    for (let id = 1; id <= 300; id++) client.send(unary(id, "wait"));
    client.send({ type: FrameType.PING, channel: 0, id: 4711 });
    const pong = await client.answer(4711);
    assert.deepEqual([pong.type, pong.payload.length], [FrameType.PONG, 0]);
    assert.equal(client.frames.length, 1);
    assert.equal(cluster.aborted, 0);
  });
});

Deno.test("Session: a request's deadline goes with its call, and its end is that request's alone", async () => {
  await withSession(async ({ client, cluster }) => {
    client.send(unary(1, "late", { deadline: 100 }));
    client.send(unary(2, "later"));
    assert.ok(cluster.left.length === 0 || cluster.left[0] <= 100);
    assert.equal((await client.error(1)).sqlstate, "08006");
    assert.equal((await client.answer(2)).type, FrameType.REPLY);
    assert.ok(cluster.left[0] > 50 && cluster.left[0] <= 100, `${cluster.left[0]} ms`);
    assert.equal(cluster.left[1], Infinity);
  });
});

Deno.test("Session: who waits to be started waits no longer than its deadline", async () => {
  await withSession(async ({ client, cluster }) => {
    for (let id = 1; id <= 32; id++) client.send(unary(id, "wait"));
    client.send(unary(33, "echo", { deadline: 50 }));
    const error = await client.error(33);
    assert.deepEqual([error.sqlstate, cluster.started], ["08006", 32]);
    assert.match(error.message, /within 50 ms/);
    client.send({ type: FrameType.CANCEL, id: 1 });
    client.send(unary(33, "echo"));
    assert.equal((await client.answer(33)).id, 33);
  });
});

Deno.test("Session: a request that cannot be taken is refused by itself", async () => {
  await withSession(async ({ client, cluster, log }) => {
    client.send(unary(1, "wait"));
    const header = new Uint8Array(HEADER_BYTES);
    writeHeader(header, { type: FrameType.UNARY, code: 1, channel: 1, id: 2 }, MAX_FRAME_BYTES + 4);
    client.socket.write(header);
    assert.equal((await client.error(2)).sqlstate, "54000");
    for (let i = 0; i < 4; i++) client.socket.write(new Uint8Array(MAX_FRAME_BYTES / 4));
    client.socket.write(new Uint8Array(4));
    // For what there is no memory, and what is malformed.
    client.send(unary(3, "", { payload: new Uint8Array(11_000_000) }));
    assert.equal((await client.error(3)).sqlstate, "53200");
    client.send(unary(4, "", { flags: ReadFlag.ENDPOINT }));
    client.send(unary(5, "", { flags: ReadFlag.STAGED }));
    client.send(unary(6, "{", { code: Ask.HELD }));
    client.send({ type: FrameType.STAGE, code: 99, id: 7 });
    for (const id of [4, 5, 6, 7]) assert.equal((await client.error(id)).sqlstate, "08P01", String(id));
    client.send(unary(8, "echo"));
    assert.equal(decodeUtf8((await client.answer(8)).payload), "echo");
    assert.deepEqual([cluster.aborted, client.closed, log], [0, false, []]);
  }, new Budget(10_000_000));
});

Deno.test("Session: a channel that is opened while memory is short works when that is over", async () => {
  const budget = new Budget(1_000_000);
  await withSession(async ({ client }) => {
    budget.take(1_000_000);
    client.open(OPEN, 2);
    client.send(unary(1, "echo", { channel: 2 }));
    assert.equal((await client.error(1)).sqlstate, "53200");
    budget.give(1_000_000);
    client.send(unary(2, "echo", { channel: 2 }));
    assert.equal(decodeUtf8((await client.answer(2)).payload), "echo");
    client.send({ type: FrameType.OPEN, channel: 3, payload: new Uint8Array(2_000_000) });
    client.send(unary(3, "echo", { channel: 3 }));
    assert.equal((await client.error(3)).sqlstate, "54000");
  }, budget);
});

Deno.test("Session: answers on their way are bounded for all sessions together, and none is refused for that", async () => {
  await withSession(async ({ client, cluster, another }) => {
    const size = 3_000_000;
    let running = 0;
    let most = 0;
    cluster.call = () => {
      most = Math.max(most, ++running);
      return new Promise((resolve) =>
        setTimeout(() => {
          running--;
          resolve(new Uint8Array(size));
        }, 20)
      );
    };
    const clients = [client, await another()];
    for (const one of clients) {
      one.send(unary(1, "learn"));
      await one.answer(1);
    }
    most = 0;
    for (let id = 2; id <= 9; id++) for (const one of clients) one.send(unary(id, "page"));
    for (let id = 2; id <= 9; id++) {
      for (const one of clients) assert.equal((await one.answer(id)).payload.length, size);
    }
    assert.ok(most > 1 && most <= 5, `${most} at a time`);
  }, new Budget(16_000_000));
});

Deno.test("Session: what brings little takes no room, and who waits for room does so until its deadline", async () => {
  const budget = new Budget(2_000_000);
  await withSession(async ({ client, cluster, another }) => {
    for (let id = 1; id <= 10; id++) client.send(unary(id, "wait", { code: Method.COMPACT }));
    client.send(unary(11, "wait"));
    await client.until(() => cluster.started === 11);
    budget.take(900_000);
    const other = await another();
    other.send(unary(1, "echo", { deadline: 50 }));
    assert.equal((await other.error(1)).sqlstate, "08006");
    other.send(unary(2, "echo"));
    client.send({ type: FrameType.CANCEL, id: 11 });
    assert.equal(decodeUtf8((await other.answer(2)).payload), "echo");
    budget.give(900_000);
  }, budget);
});

Deno.test("Session: staged rows leave room for the requests of others", async () => {
  const budget = new Budget(2_000_000);
  await withSession(async ({ client, another }) => {
    const entry = (i: number) => ({
      ...{ kind: StageKind.UPSERT, seenMod: 0n, seenCreate: 0n, seenVersion: 0n, lease: 0n },
      ...{ key: encodeUtf8(`/k/${i}`), value: new Uint8Array(100_000) },
    });
    for (let i = 0; i < 9; i++) {
      const payload = encodeStageWrite({ level: 1, command: 0, flags: 0 }, [entry(i)]);
      client.send({ type: FrameType.STAGE, code: StageCode.WRITE, payload });
      client.send({ type: FrameType.PING, channel: 0, id: 100 + i });
      await client.answer(100 + i);
    }
    const hog = await another();
    for (let i = 0; i < 20; i++) {
      const payload = encodeStageWrite({ level: 1, command: 0, flags: 0 }, [entry(i)]);
      hog.send({ type: FrameType.STAGE, code: StageCode.WRITE, payload });
      hog.send({ type: FrameType.PING, channel: 0, id: 100 + i });
      await hog.answer(100 + i);
    }
    hog.send({ type: FrameType.STAGE, code: StageCode.COMMIT, id: 1 });
    assert.equal((await hog.error(1)).sqlstate, "53200");
    assert.ok(budget.used <= 1_500_000, `${budget.used} bytes`);
    const other = await another();
    other.send(unary(1, "", { payload: new Uint8Array(200_000) }));
    assert.equal((await other.answer(1)).type, FrameType.REPLY);
  }, budget);
});

Deno.test("Session: a reply for which there is no memory is refused by itself", async () => {
  await withSession(async ({ client, cluster }) => {
    cluster.page = new Uint8Array(2_000_000);
    client.send(unary(1, "page"));
    assert.equal((await client.error(1)).sqlstate, "53200");
    cluster.page = new Uint8Array(1000);
    client.send(unary(2, "page"));
    assert.equal((await client.answer(2)).payload.length, 1000);
  }, new Budget(1_000_000));
});

Deno.test("Session: a large reply is freed when the backend has it, and what a transaction may keep is not", async () => {
  await withSession(async ({ client, cluster }) => {
    cluster.page = new Uint8Array(2_000_000);
    client.send(unary(1, "page"));
    assert.equal((await client.answer(1)).payload.length, 2_000_000);
    await client.until(() => cluster.sent.length === 0);
    const message = encodeUtf8("\0\0\0\0page");
    client.send({ ...unary(2, ""), code: Method.PUT, flags: ReadFlag.STAGED, payload: message });
    assert.equal((await client.answer(2)).payload.length, 2_000_000);
    client.send({ type: FrameType.PING, channel: 0, id: 3 });
    await client.answer(3);
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(cluster.sent.length, 2_000_000);
  });
});

Deno.test("Session: rows that could not be staged fail what comes next in the transaction, until it ends", async () => {
  await withSession(async ({ client }) => {
    client.send({ type: FrameType.STAGE, code: StageCode.WRITE, payload: new Uint8Array(2_000_000) });
    client.send({ type: FrameType.STAGE, code: StageCode.COMMIT, id: 1 });
    assert.equal((await client.error(1)).sqlstate, "53200");
    client.send({ type: FrameType.STAGE, code: StageCode.END });
    client.send({ type: FrameType.STAGE, code: StageCode.COMMIT, id: 2 });
    assert.equal((await client.answer(2)).type, FrameType.REPLY);
  }, new Budget(1_000_000));
});

Deno.test("Session: each Txn of a commit has the request's full time, and tells that there is progress", async () => {
  await withSession(async ({ client, cluster }) => {
    cluster.staging = { ...cluster.staging, nested: false };
    // A TxnResponse that has succeeded, with a header.
    cluster.page = Uint8Array.of(1 << 3 | 2, 2, 3 << 3, 9, 2 << 3, 1);
    cluster.call = function (_method, _payload, { deadline } = {}) {
      this.left.push(deadline!.left());
      return new Promise((resolve) => setTimeout(() => resolve(this.page), 60));
    };
    const entries = Array.from({ length: 128 * 17 }, (_, i) => ({
      ...{ kind: StageKind.UPSERT, seenMod: 0n, seenCreate: 0n, seenVersion: 0n, lease: 0n },
      ...{ key: encodeUtf8(`/k/${i}`), value: new Uint8Array(0) },
    }));
    const payload = encodeStageWrite({ level: 1, command: 0, flags: 0 }, entries);
    client.send({ type: FrameType.STAGE, code: StageCode.WRITE, payload });
    client.send({ type: FrameType.STAGE, code: StageCode.COMMIT, id: 1, deadline: 100 });
    await client.until(() => client.frames.some(({ type }) => type === FrameType.REPLY));
    const types = client.frames.map(({ type, id }) => [type, id]);
    assert.deepEqual(types, [...Array(17).fill([FrameType.PROGRESS, 1]), [FrameType.REPLY, 1]]);
    assert.ok(cluster.left.every((left) => left <= 100), String(cluster.left));
    // It was sent when 60 ms had passed.
    assert.ok(cluster.left.at(-1)! > 60, String(cluster.left));
  });
});

Deno.test("Session: a snapshot counts as long as it is under way, and is refused by itself", async () => {
  const budget = new Budget(16_000_000);
  await withSession(async ({ client, cluster, budget, another }) => {
    let closed = 0;
    cluster.snapshot = () => {
      let parts = 3;
      return Promise.resolve({
        next: () => Promise.resolve(parts-- > 0 ? new Uint8Array(1_000) : null),
        close: () => void closed++,
      });
    };
    const ask = async (one: TestClient, id: number, first = false) => {
      one.send(unary(id, JSON.stringify({ first }), { code: Ask.SNAPSHOT }));
      return await one.answer(id);
    };
    assert.equal((await ask(client, 1, true)).payload.length, 1_000);
    const held = budget.used;
    assert.ok(held > 4_000_000, `${held} bytes`);
    await ask(client, 2);
    await client.until(() => budget.used === held);
    const other = await another();
    budget.take(budget.free - 3_000_000);
    other.send(unary(1, JSON.stringify({ first: true }), { code: Ask.SNAPSHOT }));
    assert.equal((await other.error(1)).sqlstate, "53200");
    assert.equal((await ask(client, 3)).payload.length, 1_000);
    assert.equal((await ask(client, 4)).payload.length, 0);
    assert.equal(closed, 1);
    budget.give(budget.used);
    // The one that the session's end finds under way is given back too.
    await ask(client, 5, true);
  }, budget);
});
