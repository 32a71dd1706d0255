// A hub on an etcd of its own, for its tests.

import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import { Event } from "../../etcd/api.ts";
import { prefixRange, toEtcd } from "../../etcd/keyrange.ts";
import { decodeWatchedPage } from "../../etcd/watch.ts";
import { Method } from "../../ipc/frame.ts";
import { Deadline } from "../deadline.ts";
import { Cluster } from "../etcd/cluster.ts";
import { Budget } from "../memory.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { put } from "../testing_requests.ts";
import { atOnce, REAL } from "../testing_runtime.ts";
import type { WatchRequest } from "../handle.ts";
import { Hub } from "./hub.ts";

export const MB = 1024 * 1024;

export class World {
  readonly etcd: TestEtcd;
  readonly cluster: Cluster;
  readonly budget = new Budget(64 * MB);
  readonly hub: Hub;

  constructor(etcd: TestEtcd, user: { username?: string; password?: string } = {}) {
    this.etcd = etcd;
    this.cluster = new Cluster({ runtime: REAL, endpoints: [etcd.endpoint], log: () => {}, ...user });
    this.hub = new Hub(REAL, this.cluster, this.budget);
  }

  terms(ms = 10_000, signal?: AbortSignal) {
    return { connect: 3_000, deadline: Deadline.after(REAL, ms), signal };
  }

  put(key: string, value = ""): Promise<unknown> {
    return this.cluster.call(Method.PUT, put(key, value), this.terms());
  }

  async read(
    prefix: string,
    after: bigint | null,
    { signal, ...more }: Partial<WatchRequest> & { signal?: AbortSignal } = {},
  ) {
    const request: WatchRequest = {
      ...toEtcd(prefixRange(encodeUtf8(prefix))),
      ...{ prev: false, after, wait: 200, count: 1e9, enough: more.count ?? 1e9, bytes: MB, upto: null },
      known: false,
      ...more,
    };
    const page = atOnce(
      decodeWatchedPage(await this.hub.read(request, this.terms(request.wait + 10_000, signal))),
    );
    const events = page.events.map(({ raw }) => Event.decode(raw));
    return { ...page, keys: events.map(({ kv }) => decodeUtf8(kv!.key)), decoded: events };
  }

  close() {
    this.hub.close();
    this.cluster.close();
  }
}

export async function world(work: (world: World) => Promise<void>): Promise<void> {
  const etcd = await TestEtcd.start();
  const one = new World(etcd);
  try {
    await work(one);
  } finally {
    one.close();
    await etcd.stop();
  }
  assert.equal(one.budget.used, 0);
}

export const names = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => `/p/${from + i}`);
