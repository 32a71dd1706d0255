// etcd's unary calls: their gRPC paths, and what a lost answer means for each.

import { eachField } from "../../etcd/ranges.ts";
import { Method } from "../../ipc/frame.ts";

export interface MethodInfo {
  path: string;
  /** Asking twice does no harm and gives the same answer. */
  readonly: boolean;
  /** A lost answer leaves open whether data have changed. */
  writes: boolean;
  /** A stream of requests and replies, of which one each is exchanged. */
  stream?: true;
  /** A member answers by itself, so that its answer does not show that it is in touch with its cluster. */
  local?: true;
}

const read = (path: string): MethodInfo => ({ path, readonly: true, writes: false });
const write = (path: string): MethodInfo => ({ path, readonly: false, writes: true });
const localRead = (path: string): MethodInfo => ({ ...read(path), local: true });
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
  [Method.LEASE_TTL]: localRead("/etcdserverpb.Lease/LeaseTimeToLive"),
  [Method.LEASE_KEEPALIVE]: {
    ...localRead("/etcdserverpb.Lease/LeaseKeepAlive"),
    stream: true,
  },
  [Method.LEASES]: localRead("/etcdserverpb.Lease/LeaseLeases"),
  // Compaction takes history away, no data: to do it again is the answer to not knowing.
  [Method.COMPACT]: once("/etcdserverpb.KV/Compact"),
  [Method.MEMBER_ADD]: write("/etcdserverpb.Cluster/MemberAdd"),
  [Method.MEMBER_REMOVE]: write("/etcdserverpb.Cluster/MemberRemove"),
  [Method.MEMBER_UPDATE]: write("/etcdserverpb.Cluster/MemberUpdate"),
  [Method.MEMBER_LIST]: localRead("/etcdserverpb.Cluster/MemberList"),
  [Method.MEMBER_PROMOTE]: write("/etcdserverpb.Cluster/MemberPromote"),
  [Method.ALARM]: { ...once("/etcdserverpb.Maintenance/Alarm"), local: true },
  [Method.STATUS]: localRead("/etcdserverpb.Maintenance/Status"),
  [Method.DEFRAGMENT]: { ...once("/etcdserverpb.Maintenance/Defragment"), local: true },
  [Method.HASH_KV]: localRead("/etcdserverpb.Maintenance/HashKV"),
  [Method.MOVE_LEADER]: once("/etcdserverpb.Maintenance/MoveLeader"),
  [Method.AUTH_ENABLE]: write("/etcdserverpb.Auth/AuthEnable"),
  [Method.AUTH_DISABLE]: write("/etcdserverpb.Auth/AuthDisable"),
  [Method.AUTH_STATUS]: localRead("/etcdserverpb.Auth/AuthStatus"),
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
  // A place in a queue stands under its lease's number: who asks again has the same one, and without the lease none.
  [Method.CLAIM]: read("/etcdserverpb.KV/Txn"),
  [Method.LEADER]: read("/v3electionpb.Election/Leader"),
};

/** RangeRequest.serializable; in a TxnRequest: success, and in that request_range. */
const SERIALIZABLE = 7;
const SUCCESS = 2;
const REQUEST_RANGE = 1;

function isSerializable(range: Uint8Array): boolean {
  let found = false;
  eachField(range, (field, reader) => field === SERIALIZABLE && (found = reader.bool(), true));
  return found;
}

/** A Txn of reads is read as it stands at one member when all of them may be. */
function isSerializableTxn(txn: Uint8Array): boolean {
  let all = true;
  eachField(txn, (field, reader) => {
    if (field !== SUCCESS) return false;
    eachField(reader.bytes(), (inner, range) => {
      if (inner !== REQUEST_RANGE || !isSerializable(range.bytes())) all = false;
      return inner === REQUEST_RANGE;
    });
    return true;
  });
  return all;
}

/** Whether an answer to this shows that the member is in touch with its cluster. */
export function provesQuorum(method: number, payload: Uint8Array): boolean {
  if (METHODS[method]?.local) return false;
  if (method === Method.RANGE) return !isSerializable(payload);
  return method !== Method.READ_TXN || !isSerializableTxn(payload);
}

/** The call with this number in a UNARY frame; undefined when there is none. */
export function methodInfo(code: number): MethodInfo | undefined {
  return METHODS[code];
}
