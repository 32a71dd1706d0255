// TxnRequest and TxnResponse: a transaction's writes with the comparisons that guard them.

import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import { concatBytes, decodeUtf8, encodeUtf8 } from "../base/bytes.ts";
import { encodeRangeRequest, type RangeRequest } from "./messages.ts";
import {
  decodeRangeResponse,
  eachField,
  headerRevision,
  headerStanding,
  type RangeResponse,
  type Standing,
} from "./ranges.ts";

/** etcdserverpb.Compare.CompareTarget */
const TARGETS = { version: 0, create: 1, mod: 2 } as const;
/** etcdserverpb.Compare.CompareResult */
const RESULTS = { equal: 0, greater: 1, less: 2 } as const;

export interface Compare {
  key: Uint8Array;
  /** Absent: the single key. Otherwise each key of the range must fulfil the comparison. */
  rangeEnd?: Uint8Array;
  target: keyof typeof TARGETS;
  result: keyof typeof RESULTS;
  value: bigint;
}

export type TxnOp =
  | { put: { key: Uint8Array; value: Uint8Array; lease: bigint } }
  | { delete: { key: Uint8Array; rangeEnd?: Uint8Array } }
  | { range: RangeRequest };

function encodeCompare({ key, rangeEnd, target, result, value }: Compare): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8);
  writer.uint32(1 << 3).int32(RESULTS[result]).uint32(2 << 3).int32(TARGETS[target]);
  writer.uint32(3 << 3 | 2).bytes(key);
  // target_union: version, create_revision, mod_revision
  writer.uint32(4 + TARGETS[target] << 3).int64(value);
  if (rangeEnd !== undefined) writer.uint32(64 << 3 | 2).bytes(rangeEnd);
  return writer.finish();
}

function encodeOp(op: TxnOp): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8);
  if ("range" in op) return writer.uint32(1 << 3 | 2).bytes(encodeRangeRequest(op.range)).finish();
  if ("put" in op) {
    const { key, value, lease } = op.put;
    writer.uint32(2 << 3 | 2).fork().uint32(1 << 3 | 2).bytes(key).uint32(2 << 3 | 2).bytes(value);
    if (lease !== 0n) writer.uint32(3 << 3).int64(lease);
    return writer.join().finish();
  }
  writer.uint32(3 << 3 | 2).fork().uint32(1 << 3 | 2).bytes(op.delete.key);
  if (op.delete.rangeEnd !== undefined) writer.uint32(2 << 3 | 2).bytes(op.delete.rangeEnd);
  return writer.join().finish();
}

export interface TxnRequest {
  compare: Compare[];
  success: TxnOp[];
  failure: TxnOp[];
}

export function encodeTxn({ compare, success, failure }: TxnRequest): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8);
  for (const one of compare) writer.uint32(1 << 3 | 2).bytes(encodeCompare(one));
  for (const op of success) writer.uint32(2 << 3 | 2).bytes(encodeOp(op));
  for (const op of failure) writer.uint32(3 << 3 | 2).bytes(encodeOp(op));
  return writer.finish();
}

/** A TxnRequest of these RangeRequests, which are bytes. */
export function encodeRawReads(requests: Uint8Array[]): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8);
  for (const request of requests) writer.uint32(2 << 3 | 2).fork().uint32(1 << 3 | 2).bytes(request).join();
  return writer.finish();
}

/** The RangeRequests of a TxnRequest that only reads, as bytes. */
export function readsOf(message: Uint8Array): Uint8Array[] {
  const reads: Uint8Array[] = [];
  eachField(message, (field, reader) => {
    if (field !== 2) return false;
    eachField(reader.bytes(), (op, inner) => {
      if (op !== 1) return false;
      reads.push(inner.bytes());
      return true;
    });
    return true;
  });
  return reads;
}

export interface TxnResponse {
  header: Uint8Array;
  /** Of the store, behind this Txn. */
  revision: bigint;
  succeeded: boolean;
  /** One for each operation: a RangeResponse's bytes, or null for a write. */
  responses: (Uint8Array | null)[];
}

export function decodeTxn(message: Uint8Array): TxnResponse {
  const response: TxnResponse = { header: new Uint8Array(0), revision: 0n, succeeded: false, responses: [] };
  eachField(message, (field, reader) => {
    if (field === 1) response.header = reader.bytes();
    else if (field === 2) response.succeeded = reader.bool();
    else if (field === 3) {
      let range: Uint8Array | null = null;
      eachField(reader.bytes(), (op, inner) => {
        if (op !== 1) return false;
        range = inner.bytes();
        return true;
      });
      response.responses.push(range);
    } else return false;
    return true;
  });
  response.revision = headerRevision(response.header);
  return response;
}

/** What a TxnResponse says of the Txn as a whole, however much it says of its operations. */
export function decodeTxnOutcome(message: Uint8Array): Standing & { succeeded: boolean } {
  let standing: Standing = { cluster: 0n, revision: 0n, term: 0n };
  let succeeded = false;
  eachField(message, (field, reader) => {
    if (field === 1) standing = headerStanding(reader.bytes());
    else if (field === 2) succeeded = reader.bool();
    else return false;
    return true;
  });
  return { ...standing, succeeded };
}

/**
 * A Txn that changes nothing and reads nothing, which a user without any right may make. etcd answers an empty one by itself,
 * however old it is; one with a Txn in it is the whole cluster's.
 */
export function encodePresent(): Uint8Array {
  return new BinaryWriter(encodeUtf8).uint32(2 << 3 | 2).fork().uint32(4 << 3 | 2).fork().join().join()
    .finish();
}

/** A TxnResponse of reads. */
export function encodeReadResponses(header: Uint8Array, responses: Uint8Array[]): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8);
  writer.uint32(1 << 3 | 2).bytes(header).uint32(2 << 3).bool(true);
  for (const response of responses) {
    writer.uint32(3 << 3 | 2).fork().uint32(1 << 3 | 2).bytes(response).join();
  }
  return writer.finish();
}

/** The RangeResponses of a Txn's reads. */
export function rangesOf(response: TxnResponse): RangeResponse[] {
  return response.responses.filter((one) => one !== null).map(decodeRangeResponse);
}

/**
 * A response of an operation in a Txn, as if it had come by itself: with the Txn's header in place of its own, which lacks
 * the cluster and the member.
 */
export function withHeader(response: Uint8Array, header: Uint8Array): Uint8Array {
  const own = response[0] === HEADER ? new BinaryReader(response.subarray(1), decodeUtf8) : null;
  const rest = own === null ? response : response.subarray(1 + own.uint32() + own.pos);
  const length: number[] = [];
  let left = header.length;
  for (; left > 0x7f; left >>>= 7) length.push(left & 0x7f | 0x80);
  return concatBytes(Uint8Array.of(HEADER, ...length, left), header, rest);
}

/** The tag of a response's first field. */
const HEADER = 1 << 3 | 2;
