// What can still be read after a compaction. etcd tells the oldest readable revision to a watch that asks for older
// events, and to nobody else.

import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import { EtcdFdwError } from "../../base/errors.ts";
import type { CallOptions, Channel, Failure } from "./transport.ts";

const WATCH = "/etcdserverpb.Watch/Watch";
/** Milliseconds that a better hint may cost. */
const PATIENCE_MS = 1_000;

/** The first length-delimited `field` of a message; null when there is none. */
function part(message: Uint8Array, field: number): Uint8Array | null {
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (number === field && wire === 2) return reader.bytes();
    reader.skip(wire, number);
  }
  return null;
}

/** The first varint `field`, decimal; "0" when there is none. */
function varint(message: Uint8Array, field: number): string {
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (number === field && wire === 0) return String(reader.int64());
    reader.skip(wire, number);
  }
  return "0";
}

/** The RangeRequest of a read: itself, or the first one of a Txn of reads. */
function rangeOf(payload: Uint8Array, isTxn: boolean): Uint8Array | null {
  if (!isTxn) return payload;
  const operation = part(payload, 2);
  return operation && part(operation, 1);
}

function watchRequest(key: Uint8Array): Uint8Array {
  const writer = new BinaryWriter();
  // create_request: key, and start_revision 1, which is older than any compaction
  return writer.uint32(1 << 3 | 2).fork().uint32(1 << 3 | 2).bytes(key).uint32(3 << 3).int64(1).join()
    .finish();
}

/** WatchResponse.compact_revision, in the response that ends the watch. */
const compactRevision = (reply: Uint8Array) => varint(reply, 5);

export function isCompacted(failure: Failure): boolean {
  return /required revision has been compacted/.test(failure.text);
}

/**
 * The error for a read of a compacted revision, with the oldest one that can be read where etcd tells it. `payload` is
 * the read's: a RangeRequest or a TxnRequest of these.
 */
export async function compactedError(
  channel: Channel,
  payload: Uint8Array,
  isTxn: boolean,
  failure: Failure,
  options: CallOptions,
): Promise<EtcdFdwError> {
  const range = rangeOf(payload, isTxn);
  const revision = range === null ? "0" : varint(range, 4);
  // The user may read this key, and perhaps no other.
  const request = watchRequest(range && part(range, 1) || Uint8Array.of(0));
  const deadline = options.deadline.within(PATIENCE_MS);
  const told = await channel.converse(
    WATCH,
    [request],
    { ...options, deadline },
    (reply) => compactRevision(reply) !== "0",
  );
  const oldest = told.reply === undefined ? null : compactRevision(told.reply);
  const named = revision === "0" ? "the required revision" : `revision ${revision} of etcd`;
  return new EtcdFdwError("22023", `${named} has been compacted`, {
    detail: `${channel.endpoint} answered "${failure.text}".`,
    hint: oldest === null
      ? "Read a later revision, or run the query again if it read the latest one."
      : `The oldest revision that can be read is ${oldest}.`,
  });
}
