// A transaction as a backend drives it, for tests: frames' payloads in, decoded answers out.

import { encodeUtf8 } from "../base/bytes.ts";
import { encodeReadTxn, type RangeRequest } from "../etcd/messages.ts";
import type { KeyRow } from "../etcd/ranges.ts";
import { Method, ReadFlag } from "../ipc/frame.ts";
import { encodeStageWrite, StageCode, type StageEntry, type StageReply } from "../ipc/stage.ts";
import { Deadline } from "./deadline.ts";
import { Cluster } from "./etcd/cluster.ts";
import type { ClusterHandle } from "./handle.ts";
import { Budget } from "./memory.ts";
import { type Call, type Link, type Pace, Transactions } from "./txn/driver.ts";
import { TestEtcd } from "./testing_etcd.ts";
import { REAL } from "./testing_runtime.ts";
import type { TransactionOptions } from "./txn/transaction.ts";

export const REAL_PACE: Pace = {
  now: () => performance.now(),
  turn: () => new Promise((resolve) => setTimeout(resolve, 0)),
};

export const STAGING: TransactionOptions = {
  ...{ maxTxnOps: 128, maxRequestBytes: 1536 * 1024, nested: true, rights: true, requireAtomic: false },
  maxStagedBytes: 64 * 1024 * 1024,
};

/** A row to be written; `row` as a statement has seen it in etcd. */
export function entry(
  kind: number,
  key: string,
  value: string | Uint8Array = "",
  row?: KeyRow,
  lease = 0n,
): StageEntry {
  const seen = {
    seenMod: row?.modRevision ?? 0n,
    seenCreate: row?.createRevision ?? 0n,
    seenVersion: row?.version ?? 0n,
  };
  const bytes = typeof value === "string" ? encodeUtf8(value) : value;
  return { kind, ...seen, lease, key: encodeUtf8(key), value: bytes };
}

/** A WRITE's payload. */
export const write = (entries: StageEntry[], { level = 1, command = 1, flags = 0, revision = 0n } = {}) =>
  encodeStageWrite({ level, command, flags, revision }, entries);

/** A DELETE_RANGE's payload. */
export function deletion(
  key: string,
  end: string,
  level = 1,
  { command = 2, flags = 0, revision = "0" } = {},
): Uint8Array {
  const range = { key: encodeUtf8(key), rangeEnd: encodeUtf8(end), revision };
  return deletions([range], { level, command, flags });
}

/** The same of several ranges. */
export function deletions(ranges: RangeRequest[], { level = 1, command = 2, flags = 0 } = {}): Uint8Array {
  const request = encodeReadTxn(ranges);
  const payload = new Uint8Array(17 + request.length);
  const view = new DataView(payload.buffer);
  view.setUint32(0, level);
  view.setUint32(4, command);
  payload[8] = flags;
  payload.set(request, 17);
  return payload;
}

function levelOf(level: number): Uint8Array {
  const payload = new Uint8Array(4);
  new DataView(payload.buffer).setUint32(0, level);
  return payload;
}

function replyOf(payload: Uint8Array): StageReply {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const refused = Array.from({ length: view.getUint32(12) }, (_, i) => view.getUint32(16 + 4 * i));
  return { revision: view.getBigInt64(0), count: view.getUint32(8), refused };
}

export class TestTransaction {
  readonly #transactions: Transactions;
  readonly #call: Call;
  /** Leases that it has revoked. */
  readonly revoked: Uint8Array[] = [];
  /** Aborts what is under way, as a cancelled request does. */
  controller = new AbortController();
  progress = 0;

  constructor(
    call: Call,
    options: Partial<TransactionOptions> = {},
    { budget = new Budget(2 ** 40), pace = REAL_PACE }: { budget?: Budget; pace?: Pace } = {},
  ) {
    this.#call = call;
    const handle = {
      staging: { ...STAGING, ...options },
      call: (method: number, payload: Uint8Array) => {
        if (method === Method.LEASE_REVOKE) this.revoked.push(payload);
        return call(method, payload);
      },
      noteTransaction: () => {},
    };
    this.#transactions = new Transactions(handle as unknown as ClusterHandle, budget, pace);
  }

  get #link(): Link {
    const { signal } = this.controller;
    const call: Call = (method, payload) => {
      const cancelled = new Promise<never>((_, reject) => {
        signal.addEventListener("abort", () => reject(new Error("aborted")), { once: true });
      });
      return Promise.race([this.#call(method, payload), cancelled]);
    };
    return { call, callAfresh: call, progress: () => this.progress++, signal };
  }

  async #answer(code: number, payload: Uint8Array): Promise<StageReply> {
    return replyOf(await this.#transactions.answer(code, payload, this.#link));
  }

  stage = (payload: Uint8Array) => this.#transactions.stage(StageCode.WRITE, payload);
  rollback = (level: number) => this.#transactions.stage(StageCode.ROLLBACK, levelOf(level));
  release = (level: number) => this.#transactions.stage(StageCode.RELEASE, levelOf(level));
  end = () => this.#transactions.stage(StageCode.END, new Uint8Array(0));
  write = (payload: Uint8Array) => this.#answer(StageCode.WRITE, payload);
  deleteRange = (payload: Uint8Array) => this.#answer(StageCode.DELETE_RANGE, payload);
  commit = () => this.#answer(StageCode.COMMIT, new Uint8Array(0));

  async grant(seconds: number, level = 1): Promise<bigint> {
    const payload = new Uint8Array(12);
    new DataView(payload.buffer).setBigInt64(0, BigInt(seconds));
    new DataView(payload.buffer).setUint32(8, level);
    return (await this.#answer(StageCode.GRANT, payload)).revision;
  }

  read(method: number, message: Uint8Array, command: number, record = false): Promise<Uint8Array> {
    const payload = new Uint8Array(4 + message.length);
    new DataView(payload.buffer).setUint32(0, command);
    payload.set(message, 4);
    return this.#transactions.read(method, record ? ReadFlag.RECORDED : 0, payload, this.#link);
  }
}

/** Small enough to repeat: mulberry32. */
export function randomOf(seed: number) {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000;
  };
  return { below: (end: number) => Math.floor(next() * end), chance: (p: number) => next() < p };
}

const terms = () => ({ connect: 3_000, retries: 1, deadline: Deadline.after(REAL, 20_000) });

/** Runs the test with an etcd of its own. */
export async function withEtcd(test: (call: Call, etcd: TestEtcd) => Promise<void>): Promise<void> {
  const etcd = await TestEtcd.start();
  const cluster = new Cluster({ runtime: REAL, endpoints: [etcd.endpoint], log: () => {} });
  try {
    await test((method, payload) => cluster.call(method, payload, terms()), etcd);
  } finally {
    cluster.close();
    await etcd.stop();
  }
}
