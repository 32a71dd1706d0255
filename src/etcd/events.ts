// Events of a watch, of which one reply may bring very many: they stay the bytes that etcd has sent. Only their revisions
// are read.

import { BinaryReader } from "@bufbuild/protobuf/wire";
import { concatBytes, decodeUtf8 } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import { WatchReply } from "./api.ts";
import type { Decoded } from "./schema.ts";

/** Field numbers of WatchResponse, mvccpb.Event and KeyValue. */
const EVENTS = 11;
const KV = 2;
const MOD_REVISION = 3;

/** Events that are looked at without a pause. */
const STRIDE = 256;

export interface WatchPart {
  /** The reply without its events. */
  head: Decoded<typeof WatchReply.fields>;
  /** The events that are wanted, as a WatchResponse has them: a field for each, one behind the other. */
  events: Uint8Array[];
  /** How many revisions all its events have, wanted or not, if they are in order. */
  revisions: number;
  /** The last one of these; 0 when there are no events. */
  last: bigint;
}

/** Reads a WatchResponse, in pieces. Throws EtcdFdwError 08P01. */
export function* readEvents(
  message: Uint8Array,
  isWanted: (revision: bigint) => boolean,
): Generator<undefined, WatchPart, unknown> {
  const reader = new BinaryReader(message, decodeUtf8);
  const head: Uint8Array[] = [];
  const part = { events: [] as Uint8Array[], revisions: 0, last: 0n };
  let wantedFrom: number | null = null;
  const cut = (at: number) => {
    if (wantedFrom !== null) part.events.push(message.subarray(wantedFrom, at));
    wantedFrom = null;
  };
  try {
    for (let read = 1; reader.pos < reader.len; read++) {
      const at = reader.pos;
      const [field, wire] = reader.tag();
      if (field === EVENTS) {
        const revision = revisionOf(reader);
        if (revision !== part.last) part.revisions++;
        part.last = revision;
        if (!isWanted(revision)) cut(at);
        else wantedFrom ??= at;
      } else {
        reader.skip(wire, field);
        cut(at);
        head.push(message.subarray(at, reader.pos));
      }
      if (read % STRIDE === 0) yield;
    }
    cut(reader.pos);
  } catch (cause) {
    throw new EtcdFdwError("08P01", "invalid message of etcd's protocol", { cause });
  }
  return { head: WatchReply.decode(concatBytes(...head)), ...part };
}

/** The mod_revision of the event that begins here with its length; the reader is then behind it. */
function revisionOf(reader: BinaryReader): bigint {
  let revision = 0n;
  each(reader, (event) => {
    if (event !== KV) return false;
    each(reader, (field) => {
      if (field !== MOD_REVISION) return false;
      revision = BigInt(reader.int64());
      return true;
    });
    return true;
  });
  return revision;
}

/** Visits each field of the message that begins here with its length; what `take` does not read is skipped. */
function each(reader: BinaryReader, take: (field: number) => boolean): void {
  const length = reader.uint32();
  const end = reader.pos + length;
  while (reader.pos < end) {
    const [field, wire] = reader.tag();
    if (!take(field)) reader.skip(wire, field);
  }
  if (reader.pos !== end) throw new RangeError("a message that is longer than it says");
}
