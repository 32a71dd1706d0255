// All that a session holds for one server and role. The server's options may change meanwhile: what is held stays with the
// handle that it was acquired by, and what is new goes through the present one.

import { concatBytes, encodeUtf8, fromHex } from "../../base/bytes.ts";
import { LeaseRequest, PutRequest } from "../../etcd/api.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import { Method } from "../../ipc/frame.ts";
import type { ClusterHandle } from "../handle.ts";
import type { Runtime } from "../runtime.ts";
import { type By, clusterIdOf, type Held, Holdings } from "./holdings.ts";

export class Estate {
  readonly #runtime: Runtime;
  /** The latest first. */
  #all: Holdings[] = [];

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** What is acquired through this handle. */
  of(handle: ClusterHandle): Holdings {
    const isOver = (holdings: Holdings) => holdings.origin !== handle && holdings.empty;
    for (const holdings of this.#all) if (isOver(holdings)) void holdings.end();
    this.#all = this.#all.filter((holdings) => !isOver(holdings));
    let present = this.#all.find(({ origin }) => origin === handle);
    if (present === undefined) this.#all.unshift(present = new Holdings(this.#runtime, handle));
    return present;
  }

  /** Where this is held on the cluster that the handle reaches: what an earlier handle holds there is no other client's. */
  async #holderOf(kind: Held["kind"], name: string, handle: ClusterHandle, by: By): Promise<Holdings> {
    const there: Holdings[] = [];
    for (const holdings of this.#all) {
      if (holdings.origin === handle || holdings.leaseOf(kind, name) === undefined) continue;
      if (await isOnSame(holdings, kind, name, handle, by)) there.push(holdings);
    }
    for (const holdings of there) {
      if (holdings.leaseOf(kind, name)?.state === "HELD") return holdings;
      if (kind !== "lease") holdings.forgetLost(kind, name);
    }
    return this.of(handle);
  }

  /** The same of what is still allowed: all keys of its queue begin with the name. */
  async #allowedHolderOf(kind: "lock" | "election", name: string, handle: ClusterHandle, by: By) {
    handle.check(Method.PUT, PutRequest.encode({ key: fromHex(name) }));
    return await this.#holderOf(kind, name, handle, by);
  }

  /** Where it can be given back: first where it is held, else where it was lost. */
  #ownerOf(kind: Held["kind"], name: string): Holdings | undefined {
    const owners = this.#all.filter((holdings) => holdings.leaseOf(kind, name) !== undefined);
    return owners.find((holdings) => holdings.leaseOf(kind, name)!.state === "HELD") ?? owners[0];
  }

  // As in Holdings.

  keepNew(handle: ClusterHandle, ttl: number, by: By): Promise<bigint> {
    return this.of(handle).keepNew(ttl, by);
  }

  async keep(handle: ClusterHandle, id: bigint, by: By): Promise<number> {
    return await (await this.#holderOf("lease", String(id), handle, by)).keep(id, by);
  }

  release(id: bigint): boolean {
    return this.#ownerOf("lease", String(id))?.release(id) ?? false;
  }

  async lock(handle: ClusterHandle, name: string, ttl: number, patience: number, by: By) {
    const holder = await this.#allowedHolderOf("lock", name, handle, by);
    return await holder.lock(name, ttl, patience, by);
  }

  async unlock(name: string, by: By): Promise<boolean> {
    return await this.#ownerOf("lock", name)?.unlock(name, by) ?? false;
  }

  async campaign(
    handle: ClusterHandle,
    name: string,
    value: Uint8Array,
    ttl: number,
    patience: number,
    by: By,
  ): Promise<boolean> {
    const holder = await this.#allowedHolderOf("election", name, handle, by);
    return await holder.campaign(name, value, ttl, patience, by);
  }

  async proclaim(handle: ClusterHandle, name: string, value: Uint8Array, by: By): Promise<boolean> {
    const holder = await this.#allowedHolderOf("election", name, handle, by);
    return await holder.proclaim(name, value, by);
  }

  async resign(name: string, by: By): Promise<boolean> {
    return await this.#ownerOf("election", name)?.resign(name, by) ?? false;
  }

  held(): Held[] {
    return this.#all.flatMap((holdings) => holdings.held());
  }

  /** The session is over. */
  end(): void {
    for (const holdings of this.#all) void holdings.end();
    this.#all = [];
  }
}

/**
 * Whether the handle reaches, as the same user, the cluster on which this is held. Endpoints may be named otherwise, and more of
 * them, after ALTER SERVER; each answer of etcd tells its cluster's id.
 */
async function isOnSame(
  { origin, clusterId }: Holdings,
  kind: Held["kind"],
  name: string,
  handle: ClusterHandle,
  { signal, deadline }: By,
): Promise<boolean> {
  if (origin.cluster === handle.cluster) return true;
  if (clusterId === null || origin.user !== handle.user) return false;
  // What whoever holds this may surely read.
  const [method, payload] = kind === "lease"
    ? [Method.LEASE_TTL, LeaseRequest.encode({ ID: name })]
    : [Method.RANGE, countOf(concatBytes(fromHex(name), encodeUtf8("/")))];
  try {
    const options = { signal, deadline: deadline?.within(handle.requestTimeout) };
    return clusterIdOf(await handle.call(method, payload, options)) === clusterId;
  } catch {
    // What comes next will tell.
    return false;
  }
}

const countOf = (key: Uint8Array) => encodeRangeRequest({ key, rangeEnd: null, countOnly: true });
