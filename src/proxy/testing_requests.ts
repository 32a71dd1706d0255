// Protobuf requests that tests make and the product does not make yet, or not in TypeScript.

import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import { encodeUtf8 } from "../base/bytes.ts";
import { Header, RangeReply } from "../etcd/api.ts";
import { encodeReadResponses } from "../etcd/txn.ts";
import { encodeRangeRequest } from "../etcd/messages.ts";
import { EtcdFdwError } from "../base/errors.ts";

/** RangeRequest for one key. */
export function get(key: string, revision?: string): Uint8Array {
  return encodeRangeRequest({ key: encodeUtf8(key), rangeEnd: null, revision });
}

/** RangeRequest for all keys that begin with `prefix`, which ends in an ASCII character. */
export function getPrefix(prefix: string): Uint8Array {
  const end = encodeUtf8(prefix);
  end[end.length - 1]++;
  return encodeRangeRequest({ key: encodeUtf8(prefix), rangeEnd: end });
}

/** PutRequest. */
export function put(key: string, value: Uint8Array | string): Uint8Array {
  const bytes = typeof value === "string" ? encodeUtf8(value) : value;
  return new BinaryWriter().uint32(1 << 3 | 2).bytes(encodeUtf8(key)).uint32(2 << 3 | 2).bytes(bytes)
    .finish();
}

/** CompactionRequest. */
export function compact(revision: string): Uint8Array {
  return new BinaryWriter().uint32(1 << 3).int64(revision).finish();
}

/** A TxnResponse of reads, each of which has found this key or none. */
export function foundKeys(...keys: (string | null)[]): Uint8Array {
  const kvs = (key: string | null) => key === null ? [] : [{ key: encodeUtf8(key), create_revision: "3" }];
  return encodeReadResponses(
    Header.encode({ revision: "5" }),
    keys.map((key) => RangeReply.encode({ kvs: kvs(key) })),
  );
}

/** What a RangeResponse holds, as text. */
export function readRange(reply: Uint8Array): { revision: string; values: string[] } {
  const out = { revision: "0", values: [] as string[] };
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  eachField(reply, (field, reader) => {
    if (field === 1) {
      eachField(reader.bytes(), (f, r) => f === 3 ? (out.revision = r.int64().toString(), true) : false);
    } else if (field === 2) {
      eachField(reader.bytes(), (f, r) => f === 5 ? (out.values.push(text(r.bytes())), true) : false);
    } else return false;
    return true;
  });
  return out;
}

/** Calls back for each field of a message; fields that the callback does not take are skipped. */
function eachField(message: Uint8Array, take: (field: number, reader: BinaryReader) => boolean): void {
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (!take(field, reader)) reader.skip(wireType, field);
  }
}

/** Runs what is expected to reject and returns its error. Throws when it does not. */
export async function errorFrom(promise: Promise<unknown>): Promise<EtcdFdwError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof EtcdFdwError) return error;
    throw error;
  }
  throw new Error("expected an error");
}
