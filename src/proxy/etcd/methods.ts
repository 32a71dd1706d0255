// etcd's unary calls: their gRPC paths, and what a lost answer means for each.

import { Method } from "../../ipc/frame.ts";

export interface MethodInfo {
  path: string;
  /** Asking twice does no harm and gives the same answer. */
  readonly: boolean;
  /** A lost answer leaves open whether data have changed. */
  writes: boolean;
  /** A stream of requests and replies, of which one each is exchanged. */
  stream?: true;
}

const read = (path: string): MethodInfo => ({ path, readonly: true, writes: false });
const write = (path: string): MethodInfo => ({ path, readonly: false, writes: true });
/** Not to be repeated, but nothing is in doubt that matters. */
const once = (path: string): MethodInfo => ({ path, readonly: false, writes: false });

const METHODS: Record<number, MethodInfo> = {
  [Method.RANGE]: read("/etcdserverpb.KV/Range"),
  [Method.PUT]: write("/etcdserverpb.KV/Put"),
  [Method.DELETE_RANGE]: write("/etcdserverpb.KV/DeleteRange"),
  [Method.TXN]: write("/etcdserverpb.KV/Txn"),
  [Method.READ_TXN]: read("/etcdserverpb.KV/Txn"),
  // A lease that nobody knows of ends by itself.
  [Method.LEASE_GRANT]: once("/etcdserverpb.Lease/LeaseGrant"),
  [Method.LEASE_REVOKE]: write("/etcdserverpb.Lease/LeaseRevoke"),
  [Method.LEASE_TTL]: read("/etcdserverpb.Lease/LeaseTimeToLive"),
  [Method.LEASE_KEEPALIVE]: { ...read("/etcdserverpb.Lease/LeaseKeepAlive"), stream: true },
  [Method.LEASES]: read("/etcdserverpb.Lease/LeaseLeases"),
  // Compaction takes history away, no data: to do it again is the answer to not knowing.
  [Method.COMPACT]: once("/etcdserverpb.KV/Compact"),
  [Method.MEMBER_ADD]: write("/etcdserverpb.Cluster/MemberAdd"),
  [Method.MEMBER_REMOVE]: write("/etcdserverpb.Cluster/MemberRemove"),
  [Method.MEMBER_UPDATE]: write("/etcdserverpb.Cluster/MemberUpdate"),
  [Method.MEMBER_LIST]: read("/etcdserverpb.Cluster/MemberList"),
  [Method.MEMBER_PROMOTE]: write("/etcdserverpb.Cluster/MemberPromote"),
  [Method.ALARM]: once("/etcdserverpb.Maintenance/Alarm"),
  [Method.STATUS]: read("/etcdserverpb.Maintenance/Status"),
  [Method.DEFRAGMENT]: once("/etcdserverpb.Maintenance/Defragment"),
  [Method.HASH_KV]: read("/etcdserverpb.Maintenance/HashKV"),
  [Method.MOVE_LEADER]: once("/etcdserverpb.Maintenance/MoveLeader"),
  [Method.AUTH_ENABLE]: write("/etcdserverpb.Auth/AuthEnable"),
  [Method.AUTH_DISABLE]: write("/etcdserverpb.Auth/AuthDisable"),
  [Method.AUTH_STATUS]: read("/etcdserverpb.Auth/AuthStatus"),
  [Method.USER_ADD]: write("/etcdserverpb.Auth/UserAdd"),
  [Method.USER_GET]: read("/etcdserverpb.Auth/UserGet"),
  [Method.USER_LIST]: read("/etcdserverpb.Auth/UserList"),
  [Method.USER_DELETE]: write("/etcdserverpb.Auth/UserDelete"),
  [Method.USER_PASSWORD]: write("/etcdserverpb.Auth/UserChangePassword"),
  [Method.USER_GRANT_ROLE]: write("/etcdserverpb.Auth/UserGrantRole"),
  [Method.USER_REVOKE_ROLE]: write("/etcdserverpb.Auth/UserRevokeRole"),
  [Method.ROLE_ADD]: write("/etcdserverpb.Auth/RoleAdd"),
  [Method.ROLE_GET]: read("/etcdserverpb.Auth/RoleGet"),
  [Method.ROLE_LIST]: read("/etcdserverpb.Auth/RoleList"),
  [Method.ROLE_DELETE]: write("/etcdserverpb.Auth/RoleDelete"),
  [Method.ROLE_GRANT]: write("/etcdserverpb.Auth/RoleGrantPermission"),
  [Method.ROLE_REVOKE]: write("/etcdserverpb.Auth/RoleRevokePermission"),
  // A lock or a candidacy whose answer is lost ends with its lease.
  [Method.LOCK]: once("/v3lockpb.Lock/Lock"),
  [Method.UNLOCK]: once("/v3lockpb.Lock/Unlock"),
  [Method.CAMPAIGN]: once("/v3electionpb.Election/Campaign"),
  [Method.PROCLAIM]: write("/v3electionpb.Election/Proclaim"),
  [Method.LEADER]: read("/v3electionpb.Election/Leader"),
  [Method.RESIGN]: once("/v3electionpb.Election/Resign"),
};

/** The call with this number in a UNARY frame; undefined when there is none. */
export function methodInfo(code: number): MethodInfo | undefined {
  return METHODS[code];
}
