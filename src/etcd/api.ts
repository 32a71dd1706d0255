// etcd's messages, as its rpc.proto, auth.proto, kv.proto and v3election.proto state them (API 3.4; fields
// of later versions where they are shown).

import { type Decoded, message } from "./schema.ts";

export const Header = message({
  cluster_id: [1, "uint64"],
  member_id: [2, "uint64"],
  revision: [3, "int64"],
  raft_term: [4, "uint64"],
});

export const KeyValue = message({
  key: [1, "bytes"],
  create_revision: [2, "int64"],
  mod_revision: [3, "int64"],
  version: [4, "int64"],
  value: [5, "bytes"],
  lease: [6, "int64"],
});
export type KeyValueMessage = Decoded<typeof KeyValue.fields>;

/** Of answers that hold nothing else that is shown. */
export const OnlyHeader = message({ header: [1, Header] });

export const RangeReply = message({
  header: [1, Header],
  kvs: [2, KeyValue, "repeated"],
  more: [3, "bool"],
  count: [4, "int64"],
});

export const PutRequest = message({
  key: [1, "bytes"],
  value: [2, "bytes"],
  lease: [3, "int64"],
  prev_kv: [4, "bool"],
  ignore_value: [5, "bool"],
  ignore_lease: [6, "bool"],
});
export const PutReply = message({ header: [1, Header], prev_kv: [2, KeyValue] });

export const DeleteRequest = message({ key: [1, "bytes"], range_end: [2, "bytes"], prev_kv: [3, "bool"] });
export const DeleteReply = message({
  header: [1, Header],
  deleted: [2, "int64"],
  prev_kvs: [3, KeyValue, "repeated"],
});

export const CompactRequest = message({ revision: [1, "int64"], physical: [2, "bool"] });

/** mvccpb.Event: type 0 is a put, 1 a deletion. */
export const Event = message({ type: [1, "int32"], kv: [2, KeyValue], prev_kv: [3, KeyValue] });
export const WatchCreate = message({
  key: [1, "bytes"],
  range_end: [2, "bytes"],
  start_revision: [3, "int64"],
  prev_kv: [6, "bool"],
  watch_id: [7, "int64"],
});
export const WatchRequest = message({ create_request: [1, WatchCreate] });
export const WatchReply = message({
  header: [1, Header],
  watch_id: [2, "int64"],
  created: [3, "bool"],
  canceled: [4, "bool"],
  compact_revision: [5, "int64"],
  cancel_reason: [6, "string"],
  events: [11, Event, "repeated"],
});

export const LeaseGrantRequest = message({ TTL: [1, "int64"], ID: [2, "int64"] });
/** Of LeaseGrant and LeaseKeepAlive. */
export const LeaseReply = message({ header: [1, Header], ID: [2, "int64"], TTL: [3, "int64"] });
/** LeaseRevokeRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest. */
export const LeaseRequest = message({ ID: [1, "int64"], keys: [2, "bool"] });
export const LeaseTtlReply = message({
  header: [1, Header],
  ID: [2, "int64"],
  TTL: [3, "int64"],
  grantedTTL: [4, "int64"],
  keys: [5, "bytes", "repeated"],
});
const LeaseStatus = message({ ID: [1, "int64"] });
export const LeasesReply = message({ header: [1, Header], leases: [2, LeaseStatus, "repeated"] });

export const Member = message({
  ID: [1, "uint64"],
  name: [2, "string"],
  peerURLs: [3, "string", "repeated"],
  clientURLs: [4, "string", "repeated"],
  isLearner: [5, "bool"],
});
export const MemberAddRequest = message({ peerURLs: [1, "string", "repeated"], isLearner: [2, "bool"] });
export const MemberAddReply = message({
  header: [1, Header],
  member: [2, Member],
  members: [3, Member, "repeated"],
});
/** MemberRemoveRequest, MemberUpdateRequest, MemberPromoteRequest. */
export const MemberRequest = message({ ID: [1, "uint64"], peerURLs: [2, "string", "repeated"] });
export const MembersReply = message({ header: [1, Header], members: [2, Member, "repeated"] });

export const AlarmRequest = message({ action: [1, "int32"], memberID: [2, "uint64"], alarm: [3, "int32"] });
const AlarmMember = message({ memberID: [1, "uint64"], alarm: [2, "int32"] });
export const AlarmReply = message({ header: [1, Header], alarms: [2, AlarmMember, "repeated"] });

export const StatusReply = message({
  header: [1, Header],
  version: [2, "string"],
  dbSize: [3, "int64"],
  leader: [4, "uint64"],
  raftIndex: [5, "uint64"],
  raftTerm: [6, "uint64"],
  raftAppliedIndex: [7, "uint64"],
  errors: [8, "string", "repeated"],
  dbSizeInUse: [9, "int64"],
  isLearner: [10, "bool"],
});
export const HashKvRequest = message({ revision: [1, "int64"] });
export const HashKvReply = message({
  header: [1, Header],
  hash: [2, "uint64"],
  compact_revision: [3, "int64"],
});
export const SnapshotReply = message({
  header: [1, Header],
  remaining_bytes: [2, "uint64"],
  blob: [3, "bytes"],
});
export const MoveLeaderRequest = message({ targetID: [1, "uint64"] });

export const AuthStatusReply = message({
  header: [1, Header],
  enabled: [2, "bool"],
  authRevision: [3, "uint64"],
});
const UserAddOptions = message({ no_password: [1, "bool"] });
/** AuthUserAddRequest, AuthUserChangePasswordRequest. */
export const UserRequest = message({
  name: [1, "string"],
  password: [2, "string"],
  options: [3, UserAddOptions],
});
/** AuthUserGetRequest, AuthUserDeleteRequest, AuthRoleAddRequest, AuthRoleGetRequest, AuthRoleDeleteRequest. */
export const NameRequest = message({ name: [1, "string"] });
/** AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest. */
export const UserRoleRequest = message({ user: [1, "string"], role: [2, "string"] });
/** The names in AuthUserGetResponse, AuthUserListResponse, AuthRoleListResponse. */
export const NamesReply = message({ header: [1, Header], names: [2, "string", "repeated"] });
/** authpb.Permission: type 0 is READ, 1 WRITE, 2 READWRITE. */
export const Permission = message({ permType: [1, "int32"], key: [2, "bytes"], range_end: [3, "bytes"] });
export const RoleReply = message({ header: [1, Header], perm: [2, Permission, "repeated"] });
export const RoleGrantRequest = message({ name: [1, "string"], perm: [2, Permission] });
export const RoleRevokeRequest = message({ role: [1, "string"], key: [2, "bytes"], range_end: [3, "bytes"] });

/** v3electionpb.LeaderRequest, which Observe takes too. */
export const LeaderRequest = message({ name: [1, "bytes"] });
export const LeaderReply = message({ header: [1, Header], kv: [2, KeyValue] });
