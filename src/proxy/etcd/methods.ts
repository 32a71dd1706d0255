// etcd's unary calls: their gRPC paths, and what a lost answer means for each.

import { Method } from "../../ipc/frame.ts";

export interface MethodInfo {
  path: string;
  /** Asking twice does no harm and gives the same answer. */
  readonly: boolean;
  /** A lost answer leaves open whether data have changed. */
  writes: boolean;
}

const METHODS: Record<number, MethodInfo> = {
  [Method.RANGE]: { path: "/etcdserverpb.KV/Range", readonly: true, writes: false },
  [Method.PUT]: { path: "/etcdserverpb.KV/Put", readonly: false, writes: true },
  [Method.DELETE_RANGE]: { path: "/etcdserverpb.KV/DeleteRange", readonly: false, writes: true },
  [Method.TXN]: { path: "/etcdserverpb.KV/Txn", readonly: false, writes: true },
  [Method.READ_TXN]: { path: "/etcdserverpb.KV/Txn", readonly: true, writes: false },
  // A lease that nobody knows of ends by itself.
  [Method.LEASE_GRANT]: { path: "/etcdserverpb.Lease/LeaseGrant", readonly: false, writes: false },
  [Method.LEASE_REVOKE]: { path: "/etcdserverpb.Lease/LeaseRevoke", readonly: false, writes: true },
  [Method.LEASE_TTL]: { path: "/etcdserverpb.Lease/LeaseTimeToLive", readonly: true, writes: false },
  // Compaction takes history away, no data: to do it again is the answer to not knowing.
  [Method.COMPACT]: { path: "/etcdserverpb.KV/Compact", readonly: false, writes: false },
};

/** The call with this number in a UNARY frame; undefined when there is none. */
export function methodInfo(code: number): MethodInfo | undefined {
  return METHODS[code];
}
