// What waits for other clients of etcd, in virtual time: it holds up nobody, and is bounded all the same.

import assert from "node:assert/strict";
import { encodeUtf8 } from "../../base/bytes.ts";
import { decodeError, EtcdFdwError } from "../../base/errors.ts";
import { Ask, encodeFrame, type Frame, FrameDecoder, FrameType, Method } from "../../ipc/frame.ts";
import type { CallOptions, ClusterHandle, WatchRequest } from "../handle.ts";
import { Budget, Expectations } from "../memory.ts";
import type { Connection } from "../runtime.ts";
import { NO_INFO } from "../testing_client.ts";
import { settled, VirtualRuntime } from "../testing_runtime.ts";
import { Session } from "./session.ts";

const MB = 1024 * 1024;
const PATIENCE_MS = 30_000;

/** A watch that says what it has to bring, and brings it when it may. */
interface Waiting {
  tell: (bytes: number) => Promise<void>;
}

class World {
  readonly runtime = new VirtualRuntime();
  readonly budget = new Budget(512 * MB);
  readonly frames: Frame[] = [];
  readonly waiting = new Map<string, Waiting>();
  /** Answers that were made. */
  made = 0;
  /** Whether the backend takes what is written. */
  reads = true;
  readonly session: Session;
  readonly #untaken: (() => void)[] = [];
  readonly #decoder = new FrameDecoder();

  constructor() {
    const untaken = this.#untaken;
    const connection: Connection = {
      write: (parts, taken) => {
        for (const part of parts) this.frames.push(...this.#decoder.push(part.slice()));
        if (this.reads) taken();
        else this.#untaken.push(taken);
      },
      get congested() {
        return untaken.length > 0;
      },
      end: () => {},
      destroy: () => {},
    };
    const handle = {
      label: { database: "d", server: "s", role: "r" },
      watch: (request: WatchRequest, options: CallOptions) => this.#watch(request, options),
      call: (_method: number, payload: Uint8Array) => Promise.resolve(new Uint8Array(payload.length * MB)),
      close: () => {},
    } as unknown as ClusterHandle;
    this.session = new Session(connection, {
      ...{ runtime: this.runtime, open: () => handle, log: () => {}, info: NO_INFO(), budget: this.budget },
      ...{ transactions: this.budget, expectations: new Expectations(this.budget) },
    });
    this.#send({ type: FrameType.OPEN, payload: encodeUtf8("{}") });
  }

  #watch({ key, turn }: WatchRequest, { signal }: CallOptions): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      signal!.addEventListener("abort", () => reject(new EtcdFdwError("57014", "cancelled")));
      const tell = async (bytes: number) => {
        try {
          await turn!(bytes);
          this.made++;
          resolve(new Uint8Array(bytes));
        } catch (error) {
          reject(error);
        }
      };
      this.waiting.set(new TextDecoder().decode(key), { tell });
    });
  }

  #send(frame: Partial<Frame>): void {
    this.session.data(
      encodeFrame({ type: 0, code: 0, channel: 1, id: 0, payload: new Uint8Array(0), ...frame }),
    );
  }

  watch(id: number, deadline = 0): void {
    const key = [...encodeUtf8(String(id))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const ask = { key, end: null, prev: false, after: "1", upto: null, patience: PATIENCE_MS, count: null };
    this.#send({
      type: FrameType.UNARY,
      code: Ask.WATCH,
      id,
      deadline,
      payload: encodeUtf8(JSON.stringify(ask)),
    });
  }

  /** A call whose answer has so many megabytes. */
  read(id: number, megabytes: number): void {
    const payload = new Uint8Array(megabytes);
    this.#send({ type: FrameType.UNARY, code: Method.RANGE, id, payload });
  }

  cancel(id: number): void {
    this.#send({ type: FrameType.CANCEL, id });
  }

  tell(id: number, bytes: number): void {
    this.waiting.get(String(id))!.tell(bytes);
  }

  /** The backend takes what was written up to now. */
  takeAll(): void {
    for (const taken of this.#untaken.splice(0)) taken();
  }

  answers = () => this.frames.filter(({ type }) => type === FrameType.REPLY).map(({ id }) => id);

  end(): void {
    this.session.closed();
    assert.equal(this.budget.used, 0, "all memory was given back");
  }
}

for (const count of [200, 2_000]) {
  Deno.test(`Session: ${count} who wait for others hold up nobody, also after a large answer`, async () => {
    const w = new World();
    for (let id = 1; id <= count; id++) w.watch(id);
    await settled();
    assert.equal(w.waiting.size, count, "all of them wait at etcd");
    for (const id of [count, 17, 1]) w.tell(id, 100);
    await w.runtime.pass(100);
    assert.deepEqual(w.answers(), [count, 17, 1]);
    // What one brought, the others are not taken to bring.
    w.tell(2, 31 * MB);
    await w.runtime.pass(100);
    w.read(9_001, 31);
    await w.runtime.pass(100);
    w.tell(3, 100);
    w.tell(4, 100);
    w.read(9_002, 1);
    await w.runtime.pass(100);
    assert.deepEqual(w.answers().slice(3).sort((a, b) => a - b), [2, 3, 4, 9_001, 9_002]);
    w.end();
  });
}

Deno.test("Session: what all of them have to bring comes as far as it is taken, and is not made before", async () => {
  const w = new World();
  for (let id = 1; id <= 200; id++) w.watch(id);
  await settled();
  w.reads = false;
  for (let id = 1; id <= 200; id++) w.tell(id, MB);
  await w.runtime.pass(1_000);
  assert.ok(w.made > 16 && w.made <= 32, `${w.made} answers were made`);
  assert.ok(w.budget.used < 40 * MB, `${w.budget.used} bytes`);
  // One whose turn has not come may be cancelled, like one that waits.
  w.cancel(200);
  for (let i = 0; i < 20; i++) {
    w.takeAll();
    w.session.drained();
    await w.runtime.pass(10);
  }
  assert.deepEqual(w.answers(), Array.from({ length: 199 }, (_, i) => i + 1));
  assert.equal(w.made, 199);
  w.end();
});

Deno.test("Session: who has something to bring waits for its turn until its deadline", async () => {
  const w = new World();
  w.watch(1, 500);
  w.watch(2);
  await settled();
  w.reads = false;
  w.tell(2, 40 * MB);
  await w.runtime.pass(10);
  w.read(3, 1);
  w.tell(1, 100);
  await w.runtime.pass(100);
  assert.deepEqual(w.answers(), [2]);
  await w.runtime.pass(1_000);
  const error = decodeError(w.frames.find(({ id }) => id === 1)!.payload);
  assert.equal(error.sqlstate, "08006");
  assert.equal(w.made, 1);
  w.takeAll();
  w.session.drained();
  await w.runtime.pass(10);
  assert.deepEqual(w.answers(), [2, 3]);
  w.end();
});

Deno.test("Session: those who wait are bounded in number", async () => {
  const w = new World();
  for (let id = 1; id <= 10_001; id++) w.watch(id);
  await settled();
  assert.equal(w.waiting.size, 10_000);
  assert.equal(decodeError(w.frames[0].payload).sqlstate, "53200");
  for (let id = 1; id <= 10_000; id++) w.cancel(id);
  await settled();
  w.watch(10_002);
  await settled();
  w.tell(10_002, 100);
  await w.runtime.pass(10);
  assert.deepEqual(w.answers(), [10_002]);
  w.end();
});
