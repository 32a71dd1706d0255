// What a session holds in etcd beyond a statement: leases that are kept alive, locks, leaderships. All of it ends with the
// session; locks and leaderships at once, kept leases when their time is up.
//
// A lock and a leadership are the first place in a queue, as etcd/queue.ts has it. The key is held by nothing but its lease,
// and whoever has it watches it: with the key goes what it stands for.

import { fromHex, printableKey, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { LeaseGrantRequest, LeaseReply, LeaseRequest, OnlyHeader } from "../../etcd/api.ts";
import { type Claim, decodeClaim, encodeClaim, encodeProclaim, type Place } from "../../etcd/queue.ts";
import { decodeTxnOutcome } from "../../etcd/txn.ts";
import { Method } from "../../ipc/frame.ts";
import { cancelled, Deadline } from "../deadline.ts";
import { type CallOptions, type ClusterHandle, LateError } from "../handle.ts";
import { type Runtime, sleep } from "../runtime.ts";
import { KeptLease } from "./leases.ts";

/** The first place in a queue. */
interface Tenure {
  lease: KeptLease;
  place: Place;
}

interface Lock extends Tenure {
  /** How often it was taken; as often must it be given back. */
  count: number;
}

/** A lock's value: it shows nothing. */
const NO_VALUE = new Uint8Array(0);
/** Parts of a lease's time after which its key is watched again when that could not be done. */
const WATCHES = 3;

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

/** How a request of the session is made. */
export type By = Pick<CallOptions, "signal" | "deadline">;

export class Holdings {
  /** The channel's handle that it was made for; what it uses is another one on the same. */
  readonly origin: ClusterHandle;
  /** etcd's name of the cluster; null as long as nothing was acquired. */
  clusterId: string | null = null;
  readonly #runtime: Runtime;
  readonly #handle: ClusterHandle;
  readonly #leases = new Map<bigint, KeptLease>();
  readonly #locks = new Map<string, Lock>();
  readonly #leaderships = new Map<string, Tenure>();
  /** Given up here, while etcd is still to be told. */
  readonly #ending = new Set<KeptLease>();

  constructor(runtime: Runtime, origin: ClusterHandle) {
    this.#runtime = runtime;
    this.origin = origin;
    this.#handle = origin.share();
  }

  get empty(): boolean {
    return this.#leases.size + this.#locks.size + this.#leaderships.size + this.#ending.size === 0;
  }

  /** As KeptLease.revoke. */
  #revoke(lease: KeptLease, deadline?: Deadline): Promise<boolean> {
    const revoked = lease.revoke(deadline);
    this.#ending.add(lease);
    void lease.over.then(() => this.#ending.delete(lease));
    return revoked;
  }

  /** The same where nobody has to know. */
  async #abandon(lease: KeptLease, deadline?: Deadline): Promise<void> {
    await this.#revoke(lease, deadline).catch(() => {});
  }

  /** The lease that stands for this, held or lost; a lease's name is its number. */
  leaseOf(kind: Held["kind"], name: string): KeptLease | undefined {
    if (kind === "lease") return this.#leases.get(BigInt(name));
    return (kind === "lock" ? this.#locks : this.#leaderships).get(name)?.lease;
  }

  /** Gives up what was lost: etcd may have it still, and in front of the queue. Whether nothing is held now. */
  forgetLost(kind: "lock" | "election", name: string): boolean {
    const lease = this.leaseOf(kind, name);
    if (lease?.state === "HELD") return false;
    (kind === "lock" ? this.#locks : this.#leaderships).delete(name);
    if (lease !== undefined) void this.#abandon(lease);
    return true;
  }

  /** One call within the time of a request that may wait for other clients for much longer. */
  #call(method: number, payload: Uint8Array, { signal, deadline }: By): Promise<Uint8Array> {
    return this.#handle.call(method, payload, {
      signal,
      deadline: deadline?.within(this.#handle.requestTimeout),
    });
  }

  async #grant(ttl: number, by: By): Promise<KeptLease> {
    const payload = LeaseGrantRequest.encode({ TTL: String(ttl) });
    const sentAt = this.#runtime.now();
    const answer = await this.#call(Method.LEASE_GRANT, payload, by);
    this.clusterId = clusterIdOf(answer);
    const reply = LeaseReply.decode(answer);
    // etcd gives no less than a minimum of its own.
    const lease = new KeptLease(this.#runtime, this.#handle, BigInt(reply.ID), Number(reply.TTL), sentAt);
    if (by.signal?.aborted) void this.#abandon(lease);
    throwIfCancelled(by);
    return lease;
  }

  /** Grants a lease and keeps it alive. */
  async keepNew(ttl: number, by: By): Promise<bigint> {
    const lease = await this.#grant(ttl, by);
    this.#leases.set(lease.id, lease);
    return lease.id;
  }

  /** Keeps a lease alive that is there; its granted time to live. Rejects with 42704 when it is not. */
  async keep(id: bigint, by: By): Promise<number> {
    const kept = this.#leases.get(id);
    if (kept?.state === "HELD") return kept.ttl;
    const request = LeaseRequest.encode({ ID: String(id) });
    const sentAt = this.#runtime.now();
    const answer = await this.#call(Method.LEASE_KEEPALIVE, request, by);
    this.clusterId = clusterIdOf(answer);
    const reply = LeaseReply.decode(answer);
    if (reply.TTL === "0") throw noLease(id);
    throwIfCancelled(by);
    const lease = new KeptLease(this.#runtime, this.#handle, id, Number(reply.TTL), sentAt);
    this.#leases.set(id, lease);
    return lease.ttl;
  }

  /** Whether the lease was kept alive here. */
  release(id: bigint): boolean {
    this.#leases.get(id)?.release();
    return this.#leases.delete(id);
  }

  /** Takes the lock; null when another client has it for as long as `patience`, in milliseconds. */
  async lock(name: string, ttl: number, patience: number, by: By): Promise<Uint8Array | null> {
    const held = this.#locks.get(name);
    if (held?.lease.state === "HELD") {
      held.count++;
      return held.place.key;
    }
    this.forgetLost("lock", name);
    const taken = await this.#take(fromHex(name), NO_VALUE, ttl, patience, by);
    if (taken !== null) this.#locks.set(name, { ...taken, count: 1 });
    return taken && taken.place.key;
  }

  /** Becomes the first in a queue; null when another client is for as long as `patience`. */
  async #take(
    name: Uint8Array,
    value: Uint8Array,
    ttl: number,
    patience: number,
    by: By,
  ): Promise<Tenure | null> {
    // What was given up may stand in front of the queue still.
    for (const one of this.#ending) one.hasten();
    const lease = await this.#grant(ttl, by);
    try {
      const place = await this.#queue(
        { name, value, lease: lease.id, patient: patience > 0 },
        lease,
        patience,
        by,
      );
      throwIfCancelled(by);
      if (place === null) await this.#abandon(lease, by.deadline);
      // What etcd granted in the last moment of the lease is nothing to rely on.
      else if (lease.lost) throw leaseLost();
      else void this.#watch(lease, place);
      return place && { lease, place };
    } catch (error) {
      const { lost } = lease;
      // The place in the queue goes with the lease.
      void this.#abandon(lease);
      throw lost ? leaseLost() : error;
    }
  }

  async #queue(claim: Claim, lease: KeptLease, patience: number, by: By): Promise<Place | null> {
    const claimed = decodeClaim(claim, await this.#call(Method.CLAIM, encodeClaim(claim), by));
    if (claimed === null || claimed.standing === "FIRST") return claimed && claimed.place;
    if (!claim.patient) return null;
    const { place } = claimed;
    try {
      const standing = await this.#handle.stand(place, "FIRST", this.#waiting(patience, lease, by));
      if (standing === "GONE") throw placeLost(place);
      return place;
    } catch (error) {
      if (error instanceof LateError && patience < Infinity && !lease.lost) return null;
      throw error;
    }
  }

  /** The place in the queue is worth nothing any more when its lease is lost. */
  #waiting(patience: number, lease: KeptLease, { signal: wanted, deadline }: By): CallOptions {
    const until = Deadline.after(this.#runtime, patience);
    const signal = AbortSignal.any(wanted === undefined ? [lease.signal] : [lease.signal, wanted]);
    return { signal, deadline: deadline?.earlier(until) ?? until };
  }

  /** Somebody may delete the key, and revoke a lease, of which no renewal tells before its time. */
  async #watch(lease: KeptLease, place: Place): Promise<void> {
    const { signal } = lease;
    while (lease.state === "HELD") {
      try {
        const deadline = Deadline.after(this.#runtime, Infinity);
        await this.#handle.stand(place, "GONE", { signal, deadline });
        lease.refuse();
      } catch {
        await sleep(this.#runtime, lease.ttl * 1000 / WATCHES, signal);
      }
    }
  }

  /**
   * Gives the lock back. False when it is not held, or was lost meanwhile. Rejects when etcd could not be told in time: it is
   * told later then, if that is possible before the lease ends.
   */
  async unlock(name: string, by: By): Promise<boolean> {
    const held = this.#locks.get(name);
    if (held === undefined || this.forgetLost("lock", name)) return false;
    if (--held.count > 0) return true;
    this.#locks.delete(name);
    return await this.#giveBack("lock", held.lease, by);
  }

  async #giveBack(what: string, lease: KeptLease, { deadline }: By): Promise<boolean> {
    try {
      return await this.#revoke(lease, deadline);
    } catch (error) {
      throw staysHeld(what, lease, EtcdFdwError.from(error));
    }
  }

  /** Becomes the leader, with this value; false when another one is for as long as `patience`. */
  async campaign(name: string, value: Uint8Array, ttl: number, patience: number, by: By): Promise<boolean> {
    if (await this.proclaim(name, value, by)) return true;
    const taken = await this.#take(fromHex(name), value, ttl, patience, by);
    if (taken !== null) this.#leaderships.set(name, taken);
    return taken !== null;
  }

  /** Gives a leadership that is held another value. False when it is not held. */
  async proclaim(name: string, value: Uint8Array, by: By): Promise<boolean> {
    const held = this.#leaderships.get(name);
    if (held === undefined || this.forgetLost("election", name)) return false;
    const reply = await this.#call(Method.TXN, encodeProclaim(held.place, value), by);
    if (decodeTxnOutcome(reply).succeeded) return true;
    held.lease.refuse();
    this.forgetLost("election", name);
    return false;
  }

  /** Gives a leadership up. False when it is not held, or was lost meanwhile. */
  async resign(name: string, by: By): Promise<boolean> {
    const held = this.#leaderships.get(name);
    if (held === undefined || this.forgetLost("election", name)) return false;
    this.#leaderships.delete(name);
    return await this.#giveBack("leadership", held.lease, by);
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
      ...[...this.#locks].map(([name, { lease, place }]) => row("lock", lease, name, place.key)),
      ...[...this.#leaderships].map(([name, { lease, place }]) => row("election", lease, name, place.key)),
    ];
  }

  /** The session is over. */
  async end(): Promise<void> {
    for (const lease of this.#leases.values()) lease.release();
    for (const { lease } of [...this.#locks.values(), ...this.#leaderships.values()]) {
      void this.#abandon(lease);
    }
    await Promise.all([...this.#ending].map(({ over }) => over));
    this.#handle.close();
  }
}

/** The id of the cluster that has answered so; all its answers begin alike. */
export function clusterIdOf(reply: Uint8Array): string | null {
  return OnlyHeader.decode(reply).header?.cluster_id ?? null;
}

/** An answer may come in the moment of the cancel: what SQL is not told of must not be held, or the session is over. */
function throwIfCancelled({ signal }: By): void {
  if (signal?.aborted) throw cancelled();
}

function leaseLost(): EtcdFdwError {
  return new EtcdFdwError("08006", "the lease ran out before etcd could be heard", {
    hint: "Check that etcd has a leader, or give a longer ttl.",
  });
}

function placeLost({ key }: Place): EtcdFdwError {
  return new EtcdFdwError("08006", "the place in the queue was lost", {
    detail: `Somebody has deleted etcd's key "${printableKey(key)}", or revoked its lease.`,
  });
}

/** The error for what was given back while etcd could not be told. */
function staysHeld(
  what: string,
  { ttl }: KeptLease,
  { sqlstate, message, detail }: EtcdFdwError,
): EtcdFdwError {
  return new EtcdFdwError(sqlstate, message, {
    detail,
    hint:
      `The ${what} is given up here; for others it ends when etcd can be told, or with its lease ${ttl} s ` +
      "from now at the latest.",
  });
}

function noLease(id: bigint): EtcdFdwError {
  return new EtcdFdwError("42704", `etcd has no lease ${id}`, { hint: "It may have ended." });
}
