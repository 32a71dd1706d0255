// What a foreign server's options prefix and updatable allow: all that is asked of etcd in the server's name, whoever asks
// and by whatever way, keeps to the keys of its prefix, and writes nothing where it is not updatable.
//
// It stands between a session and the cluster, and reads the requests as etcd will. Without these options nothing is read.

import { compareBytes, fromHex, printableKey } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import { LeaderRequest, LeaseReply, LeaseRequest, WatchCreate } from "../etcd/api.ts";
import { type KeyRange, prefixRange, singleKey } from "../etcd/keyrange.ts";
import { eachField } from "../etcd/ranges.ts";
import type { Watched } from "../etcd/watch.ts";
import { Method } from "../ipc/frame.ts";
import type { ClusterHandle } from "./handle.ts";

export interface FenceOptions {
  /** The server's name, for errors. */
  server: string;
  /** What every key begins with, in hexadecimal; empty for none. */
  prefix?: string;
  /** False: nothing may be written. */
  updatable?: boolean;
}

/** What a request does, as far as a fence is concerned. */
type Kind =
  | "read"
  | "write"
  | "txn"
  | "leader"
  | "grant"
  | "revoke"
  | "renew"
  | "ttl"
  | "leases"
  | "look"
  | "rule";

/** `look` shows the cluster and no key, `rule` changes more than keys. */
const KINDS: Record<number, Kind> = {
  [Method.RANGE]: "read",
  [Method.PUT]: "write",
  [Method.DELETE_RANGE]: "write",
  [Method.TXN]: "txn",
  [Method.READ_TXN]: "txn",
  [Method.LEASE_GRANT]: "grant",
  [Method.LEASE_REVOKE]: "revoke",
  [Method.LEASE_KEEPALIVE]: "renew",
  [Method.LEASE_TTL]: "ttl",
  [Method.LEASES]: "leases",
  [Method.MEMBER_LIST]: "look",
  [Method.STATUS]: "look",
  [Method.HASH_KV]: "look",
  [Method.AUTH_STATUS]: "look",
  [Method.USER_GET]: "look",
  [Method.USER_LIST]: "look",
  [Method.ROLE_GET]: "look",
  [Method.ROLE_LIST]: "look",
  [Method.CLAIM]: "txn",
  [Method.LEADER]: "leader",
};

/** Field numbers of TxnRequest and what is in it. */
const TXN_COMPARE = 1;
const OP_RANGE = 1;
const OP_PUT = 2;
const OP_TXN = 4;
/** AlarmRequest without an action lists. */
const ALARM_ACTION = 1;

/** Leases of a session that are known to be its own. */
const MAX_LEASES = 100_000;

const NO_BYTES = new Uint8Array(0);

/** The range that a message names by two of its fields; an empty range_end that is there means the end of the keyspace. */
function rangeIn(message: Uint8Array, keyField: number, endField: number): KeyRange {
  let key: Uint8Array = NO_BYTES;
  let end: Uint8Array | null = null;
  eachField(message, (field, reader) => {
    if (field !== keyField && field !== endField) return false;
    if (field === keyField) key = reader.bytes();
    else end = reader.bytes();
    return true;
  });
  return rangeFrom(key, end);
}

function rangeFrom(key: Uint8Array, end: Uint8Array | null): KeyRange {
  if (end === null) return singleKey(key);
  return { start: key, end: end.length === 0 || end.length === 1 && end[0] === 0 ? null : end };
}

/** The parts of a message that holds messages alone. */
function partsOf(message: Uint8Array): { field: number; bytes: Uint8Array }[] {
  const parts: { field: number; bytes: Uint8Array }[] = [];
  eachField(message, (field, reader) => {
    parts.push({ field, bytes: reader.bytes() });
    return true;
  });
  return parts;
}

export class Fence {
  readonly #server: string;
  readonly #allowed: KeyRange | null;
  readonly #updatable: boolean;
  readonly #leases: Set<string>;

  /** @param leases Those that were granted on this side: others may hold keys of anybody. */
  constructor({ server, prefix = "", updatable = true }: FenceOptions, leases = new Set<string>()) {
    this.#server = server;
    this.#leases = leases;
    this.#allowed = prefix === "" ? null : prefixRange(fromHex(prefix));
    this.#updatable = updatable;
  }

  /** Whether anything is forbidden at all. */
  get stands(): boolean {
    return this.#allowed !== null || !this.#updatable;
  }

  /** Throws EtcdFdwError 42501 for a request that the server's options do not allow. */
  check(method: number, payload: Uint8Array): void {
    switch (KINDS[method] ?? "rule") {
      case "read":
        return this.#checkRange(rangeIn(payload, 1, 2));
      case "write":
        this.#checkWrite();
        return this.#checkRange(rangeIn(payload, 1, method === Method.PUT ? -1 : 2));
      case "txn":
        return this.#checkTxn(payload);
      case "leader":
        return this.checkName(LeaderRequest.decode(payload).name);
      case "grant":
        return this.#checkWrite();
      case "renew":
      case "revoke":
        this.#checkWrite();
        return this.#checkLease(LeaseRequest.decode(payload).ID);
      case "ttl":
        if (this.#allowed !== null && LeaseRequest.decode(payload).keys) this.#refuseBeyond("a lease's keys");
        return;
      case "leases":
        return this.checkEverything("the list of all leases");
      case "rule":
        return this.#checkRule(method, payload);
      case "look":
    }
  }

  /** The same for a WatchCreateRequest. */
  checkWatch(request: Uint8Array): void {
    const { key, range_end } = WatchCreate.decode(request);
    this.#checkRange(range_end.length === 0 ? singleKey(key) : rangeIn(request, 1, 2));
  }

  /** The same for what is watched from now on. */
  checkKeys({ key, rangeEnd }: Watched): void {
    this.#checkRange(rangeFrom(key, rangeEnd));
  }

  /** The same for the name of a lock or an election. */
  checkName(name: Uint8Array): void {
    this.#checkRange(singleKey(name));
  }

  /** The same for what shows all keys there are. */
  checkEverything(what: string): void {
    if (this.#allowed !== null) this.#refuseBeyond(what);
  }

  /** Sees each answer: a lease that was granted here may be renewed and revoked here. */
  note(method: number, payload: Uint8Array, reply: Uint8Array): void {
    if (this.#allowed === null) return;
    if (method === Method.LEASE_REVOKE) this.#leases.delete(LeaseRequest.decode(payload).ID);
    if (method !== Method.LEASE_GRANT) return;
    this.#leases.add(LeaseReply.decode(reply).ID);
    // The oldest are the first to have ended by themselves.
    if (this.#leases.size > MAX_LEASES) this.#leases.delete(this.#leases.values().next().value!);
  }

  #checkRule(method: number, payload: Uint8Array): void {
    let lists = method === Method.ALARM;
    if (lists) {
      eachField(payload, (field, reader) => {
        if (field !== ALARM_ACTION) return false;
        lists = reader.int32() === 0;
        return true;
      });
    }
    if (lists) return;
    this.#checkWrite();
    this.checkEverything("what concerns the whole cluster");
  }

  #checkTxn(payload: Uint8Array): void {
    for (const { field, bytes } of partsOf(payload)) {
      if (field === TXN_COMPARE) this.#checkRange(rangeIn(bytes, 3, 64));
      else this.#checkOp(bytes);
    }
  }

  #checkOp(op: Uint8Array): void {
    for (const { field, bytes } of partsOf(op)) {
      if (field === OP_TXN) this.#checkTxn(bytes);
      else {
        if (field !== OP_RANGE) this.#checkWrite();
        this.#checkRange(rangeIn(bytes, 1, field === OP_PUT ? -1 : 2));
      }
    }
  }

  #checkWrite(): void {
    if (this.#updatable) return;
    throw new EtcdFdwError("42501", `server "${this.#server}" does not allow writes`, {
      hint: "Its option updatable, or its wrapper's, is false.",
    });
  }

  #checkRange({ start, end }: KeyRange): void {
    const allowed = this.#allowed;
    if (allowed === null) return;
    const within = compareBytes(start, allowed.start) >= 0 &&
      (allowed.end === null || end !== null && compareBytes(end, allowed.end) <= 0);
    if (!within) {
      this.#refuseBeyond(`key "${printableKey(start)}"${end === null ? " and all behind it" : ""}`);
    }
  }

  #checkLease(id: string): void {
    if (this.#allowed === null || this.#leases.has(id)) return;
    this.#refuseBeyond(`lease ${id}, which was not granted in this session,`);
  }

  #refuseBeyond(what: string): never {
    throw new EtcdFdwError("42501", `${what} lies outside the prefix of server "${this.#server}"`, {
      hint: `Its option prefix is "${
        printableKey(this.#allowed!.start)
      }"; use a server without one for other keys.`,
    });
  }
}

/** The leases that a session's requests were granted, by ClusterHandle.cluster: they outlive the channel. */
export class GrantedLeases {
  readonly #all = new WeakMap<object, Set<string>>();

  on(cluster: object): Set<string> {
    let leases = this.#all.get(cluster);
    if (leases === undefined) this.#all.set(cluster, leases = new Set());
    return leases;
  }
}

/** The handle behind a fence; itself where there is nothing to forbid. */
export function fenced(handle: ClusterHandle, options: FenceOptions, granted: GrantedLeases): ClusterHandle {
  const fence = new Fence(options, granted.on(handle.cluster));
  if (!fence.stands) return handle;
  return {
    ...handle,
    check: (method, payload) => fence.check(method, payload),
    async call(method, payload, callOptions) {
      fence.check(method, payload);
      const reply = await handle.call(method, payload, callOptions);
      fence.note(method, payload, reply);
      return reply;
    },
    async events(request, ...rest) {
      fence.checkWatch(request);
      return await handle.events(request, ...rest);
    },
    async changes(request, ...rest) {
      fence.checkWatch(request);
      return await handle.changes(request, ...rest);
    },
    async watch(request, ...rest) {
      fence.checkKeys(request);
      return await handle.watch(request, ...rest);
    },
    async observe(election, ...rest) {
      fence.checkName(election);
      return await handle.observe(election, ...rest);
    },
    async stand(place, ...rest) {
      fence.checkName(place.queue);
      return await handle.stand(place, ...rest);
    },
    async snapshot(...rest) {
      fence.checkEverything("a snapshot");
      return await handle.snapshot(...rest);
    },
  };
}
