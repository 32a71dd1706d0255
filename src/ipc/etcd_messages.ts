// etcd's protobuf messages, as far as core writes them (etcd's rpc.proto, API 3.4 and later). Replies are not decoded
// here: the backend walks them in C, the proxy passes them through.

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { encodeUtf8 } from "./bytes.ts";

/** Inclusive bounds as decimal strings; what is absent is no bound. */
export interface RevisionFilters {
  minModRevision?: string;
  maxModRevision?: string;
  minCreateRevision?: string;
  maxCreateRevision?: string;
}

/** etcdserverpb.RangeRequest. 64-bit numbers as decimal strings; what is absent is etcd's default. */
export interface RangeRequest extends RevisionFilters {
  key: Uint8Array;
  /** Null: the single key. */
  rangeEnd: Uint8Array | null;
  /** Keys at most; 0 is no limit. */
  limit?: number;
  revision?: string;
  serializable?: boolean;
  keysOnly?: boolean;
}

/** The wire form of a RangeRequest. */
export function encodeRangeRequest(request: RangeRequest): Uint8Array {
  // The engines have no TextEncoder, which the writer would look for by itself.
  const writer = new BinaryWriter(encodeUtf8);
  writer.uint32(1 << 3 | 2).bytes(request.key);
  if (request.rangeEnd !== null) writer.uint32(2 << 3 | 2).bytes(request.rangeEnd);
  if (request.limit) writer.uint32(3 << 3).int64(request.limit);
  if (request.revision !== undefined && request.revision !== "0") {
    writer.uint32(4 << 3).int64(request.revision);
  }
  if (request.serializable) writer.uint32(7 << 3).bool(true);
  if (request.keysOnly) writer.uint32(8 << 3).bool(true);
  const bounds = [
    request.minModRevision,
    request.maxModRevision,
    request.minCreateRevision,
    request.maxCreateRevision,
  ];
  bounds.forEach((bound, i) => {
    if (bound !== undefined) writer.uint32(10 + i << 3).int64(bound);
  });
  return writer.finish();
}
