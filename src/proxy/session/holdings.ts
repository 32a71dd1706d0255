// What a session holds in etcd beyond a statement: leases that are kept alive, locks, leaderships. All of it ends with the
// session; locks and leaderships at once, kept leases when their time is up.
//
// A lock is a key below its name that carries a lease, the oldest of these being the owner's, and a leadership is the
// same: etcd's own lock and election services, so that etcdctl lock and elect take turns with SQL.

import { concatBytes, encodeUtf8, fromHex, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import {
  CampaignReply,
  CampaignRequest,
  LeaderKey,
  LeaseGrantRequest,
  LeaseReply,
  LeaseRequest,
  LockReply,
  LockRequest,
  ProclaimRequest,
} from "../../etcd/api.ts";
import { decodeTxn, encodeTxn } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { prefixRange } from "../../etcd/keyrange.ts";
import type { Decoded } from "../../etcd/schema.ts";
import { type ClusterHandle, LateError } from "../handle.ts";
import { KeptLease } from "./leases.ts";

interface Lock {
  lease: KeptLease;
  key: Uint8Array;
  /** How often it was taken; as often must it be given back. */
  count: number;
}

interface Leadership {
  lease: KeptLease;
  leader: Decoded<typeof LeaderKey.fields>;
}

/** One thing that is held, as SQL shows it. */
export interface Held {
  kind: "lease" | "lock" | "election";
  /** Hexadecimal; empty for a lease. */
  name: string;
  key: string;
  lease: string;
  ttl: number;
  lost: boolean;
}

export class Holdings {
  readonly #handle: ClusterHandle;
  readonly #leases = new Map<bigint, KeptLease>();
  readonly #locks = new Map<string, Lock>();
  readonly #leaderships = new Map<string, Leadership>();

  /** Owns the handle. */
  constructor(handle: ClusterHandle) {
    this.#handle = handle;
  }

  get empty(): boolean {
    return this.#leases.size + this.#locks.size + this.#leaderships.size === 0;
  }

  async #grant(ttl: number, signal?: AbortSignal): Promise<KeptLease> {
    const payload = LeaseGrantRequest.encode({ TTL: String(ttl) });
    const reply = LeaseReply.decode(await this.#handle.call(Method.LEASE_GRANT, payload, { signal }));
    // etcd gives no less than a minimum of its own.
    const lease = new KeptLease(this.#handle, BigInt(reply.ID), Number(reply.TTL));
    if (signal?.aborted) void lease.revoke();
    throwIfCancelled(signal);
    return lease;
  }

  /** Grants a lease and keeps it alive. */
  async keepNew(ttl: number, signal?: AbortSignal): Promise<bigint> {
    const lease = await this.#grant(ttl, signal);
    this.#leases.set(lease.id, lease);
    return lease.id;
  }

  /** Keeps a lease alive that is there; its granted time to live. Rejects with 42704 when it is not. */
  async keep(id: bigint, signal?: AbortSignal): Promise<number> {
    const kept = this.#leases.get(id);
    if (kept !== undefined && !kept.lost) return kept.ttl;
    const request = LeaseRequest.encode({ ID: String(id) });
    const reply = LeaseReply.decode(await this.#handle.call(Method.LEASE_KEEPALIVE, request, { signal }));
    if (reply.TTL === "0") throw noLease(id);
    throwIfCancelled(signal);
    const lease = new KeptLease(this.#handle, id, Number(reply.TTL));
    this.#leases.set(id, lease);
    return lease.ttl;
  }

  /** Whether the lease was kept alive here. */
  release(id: bigint): boolean {
    this.#leases.get(id)?.stop();
    return this.#leases.delete(id);
  }

  /** Takes the lock; null when another client has it for as long as `patience`, in milliseconds. */
  async lock(name: string, ttl: number, patience: number, signal?: AbortSignal): Promise<Uint8Array | null> {
    const held = this.#locks.get(name);
    if (held !== undefined && !held.lease.lost) {
      held.count++;
      return held.key;
    }
    const lease = await this.#grant(ttl, signal);
    try {
      const key = patience === 0
        ? await this.#tryLock(fromHex(name), lease, signal)
        : await this.#waitForLock(fromHex(name), lease, patience, signal);
      throwIfCancelled(signal);
      if (key === null) await lease.revoke();
      else this.#locks.set(name, { lease, key, count: 1 });
      return key;
    } catch (error) {
      // The place in the queue goes with the lease.
      void lease.revoke();
      throw error;
    }
  }

  async #waitForLock(
    name: Uint8Array,
    lease: KeptLease,
    patience: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array | null> {
    const request = LockRequest.encode({ name, lease: String(lease.id) });
    try {
      return LockReply.decode(await this.#handle.call(Method.LOCK, request, { signal, patience })).key;
    } catch (error) {
      if (error instanceof LateError && patience < Infinity) return null;
      throw error;
    }
  }

  async #tryLock(name: Uint8Array, lease: KeptLease, signal?: AbortSignal): Promise<Uint8Array | null> {
    const queue = prefixRange(concatBytes(name, encodeUtf8("/")));
    const key = concatBytes(queue.start, encodeUtf8(lease.id.toString(16)));
    const request = encodeTxn({
      compare: [{ key: queue.start, rangeEnd: queue.end!, target: "create", result: "equal", value: 0n }],
      success: [{ put: { key, value: new Uint8Array(0), lease: lease.id } }],
      failure: [],
    });
    const { succeeded } = decodeTxn(await this.#handle.call(Method.TXN, request, { signal }));
    return succeeded ? key : null;
  }

  /** Gives the lock back. False when it is not held, or was lost meanwhile. */
  async unlock(name: string): Promise<boolean> {
    const held = this.#locks.get(name);
    if (held === undefined) return false;
    if (--held.count > 0 && !held.lease.lost) return true;
    this.#locks.delete(name);
    await held.lease.revoke();
    return !held.lease.lost;
  }

  /** Becomes the leader, with this value; false when another one is for as long as `patience`. */
  async campaign(
    name: string,
    value: Uint8Array,
    ttl: number,
    patience: number,
    signal?: AbortSignal,
  ): Promise<boolean> {
    if (await this.proclaim(name, value, signal)) return true;
    const lease = await this.#grant(ttl, signal);
    const request = CampaignRequest.encode({ name: fromHex(name), lease: String(lease.id), value });
    try {
      const reply = await this.#handle.call(Method.CAMPAIGN, request, { signal, patience });
      throwIfCancelled(signal);
      this.#leaderships.set(name, { lease, leader: CampaignReply.decode(reply).leader! });
      return true;
    } catch (error) {
      await lease.revoke();
      if (error instanceof LateError && patience < Infinity) return false;
      throw error;
    }
  }

  /** Gives a leadership that is held another value. False when it is not held. */
  async proclaim(name: string, value: Uint8Array, signal?: AbortSignal): Promise<boolean> {
    const held = this.#leaderships.get(name);
    if (held === undefined) return false;
    if (held.lease.lost) {
      this.#leaderships.delete(name);
      return false;
    }
    const leader = leaderOf(held);
    await this.#handle.call(Method.PROCLAIM, ProclaimRequest.encode({ leader, value }), { signal });
    return true;
  }

  /** Gives a leadership up. False when it is not held, or was lost meanwhile. */
  async resign(name: string, signal?: AbortSignal): Promise<boolean> {
    const held = this.#leaderships.get(name);
    if (held === undefined) return false;
    this.#leaderships.delete(name);
    const request = ProclaimRequest.encode({ leader: leaderOf(held) });
    await this.#handle.call(Method.RESIGN, request, { signal }).catch(() => {});
    await held.lease.revoke();
    return !held.lease.lost;
  }

  /** All of it. */
  held(): Held[] {
    const row = (
      kind: Held["kind"],
      lease: KeptLease,
      name = "",
      key: Uint8Array = new Uint8Array(0),
    ): Held => ({
      ...{ kind, name, key: toHex(key), lease: String(lease.id), ttl: lease.ttl, lost: lease.lost },
    });
    return [
      ...[...this.#leases.values()].map((lease) => row("lease", lease)),
      ...[...this.#locks].map(([name, { lease, key }]) => row("lock", lease, name, key)),
      ...[...this.#leaderships].map(([name, { lease, leader }]) => row("election", lease, name, leader.key)),
    ];
  }

  /** The session is over. */
  async end(): Promise<void> {
    for (const lease of this.#leases.values()) lease.stop();
    const ending = [...this.#locks.values(), ...this.#leaderships.values()].map(({ lease }) =>
      lease.revoke()
    );
    await Promise.all(ending);
    this.#handle.close();
  }
}

const leaderOf = ({ leader: { name, key, rev, lease } }: Leadership) => ({ name, key, rev, lease });

/** An answer may come in the moment of the cancel: what SQL is not told of must not be held, or the session is over. */
function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new EtcdFdwError("57014", "request was cancelled");
}

function noLease(id: bigint): EtcdFdwError {
  return new EtcdFdwError("42704", `etcd has no lease ${id}`, { hint: "It may have ended." });
}
