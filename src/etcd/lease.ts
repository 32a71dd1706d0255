// Lease messages: requests and the one field of their answers that is needed.

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { encodeUtf8 } from "../base/bytes.ts";
import { eachField } from "./ranges.ts";

/** LeaseGrantRequest; etcd chooses the id. */
export function encodeLeaseGrant(seconds: bigint): Uint8Array {
  return new BinaryWriter(encodeUtf8).uint32(1 << 3).int64(seconds).finish();
}

/** LeaseRevokeRequest, or LeaseTimeToLiveRequest without the lease's keys. */
export function encodeLease(lease: bigint): Uint8Array {
  return new BinaryWriter(encodeUtf8).uint32(1 << 3).int64(lease).finish();
}

/** The id in a LeaseGrantResponse. */
export function decodeLease(message: Uint8Array): bigint {
  let lease = 0n;
  eachField(message, (field, reader) => {
    if (field !== 2) return false;
    lease = BigInt(reader.int64());
    return true;
  });
  return lease;
}
