// The queue for a lock or a leadership: keys below its name, each with the lease of who stands there, of which the oldest has
// what they wait for. etcd's own clients form it so, and etcdctl lock and elect stand in the same one.

import { compareBytes, concatBytes, encodeUtf8 } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import { prefixRange } from "./keyrange.ts";
import { encodeRangeRequest, encodeReadTxn, type RangeRequest } from "./messages.ts";
import { decodeTxn, encodeTxn, rangesOf } from "./txn.ts";

/** A key in a queue. It is known by its revision too: one that was made anew stands at the queue's end. */
export interface Place {
  /** What all keys of the queue begin with. */
  queue: Uint8Array;
  key: Uint8Array;
  lease: bigint;
  /** The key's create_revision. */
  revision: bigint;
}

/** How a place stands at some moment. */
export type Standing = "BEHIND" | "FIRST" | "GONE";

/** Who wants a place. */
export interface Claim {
  name: Uint8Array;
  lease: bigint;
  /** The leader's. */
  value: Uint8Array;
  /** Whether to stand behind others. */
  patient: boolean;
}

const queueOf = (name: Uint8Array) => concatBytes(name, encodeUtf8("/"));
const keyOf = ({ name, lease }: Claim) => concatBytes(queueOf(name), encodeUtf8(lease.toString(16)));

const itself = (key: Uint8Array): RangeRequest => ({ key, rangeEnd: null, keysOnly: true });

/** One of the queue: the oldest, or the youngest of those that are older than a revision. */
function oneOf(queue: Uint8Array, before?: bigint): RangeRequest {
  const { start, end } = prefixRange(queue);
  const isLast = before !== undefined;
  return {
    ...{ key: start, rangeEnd: end, limit: 1, keysOnly: true },
    order: { target: "create_revision", descending: isLast },
    ...(isLast ? { maxCreateRevision: String(before - 1n) } : {}),
  };
}

/** A read of who was the first in a queue at this revision. */
export function encodeFirstAt(name: Uint8Array, revision: bigint): Uint8Array {
  return encodeRangeRequest({ ...oneOf(queueOf(name)), revision: String(revision) });
}

/** A Txn that takes the place, and may be made again: who has it already keeps it. */
export function encodeClaim(claim: Claim): Uint8Array {
  const queue = prefixRange(queueOf(claim.name));
  const key = keyOf(claim);
  const free = claim.patient ? { key } : { key: queue.start, rangeEnd: queue.end! };
  const reads = [{ range: itself(key) }, { range: oneOf(queue.start) }];
  return encodeTxn({
    compare: [{ ...free, target: "create", result: "equal", value: 0n }],
    success: [{ put: { key, value: claim.value, lease: claim.lease } }, ...reads],
    failure: reads,
  });
}

/** The place with its standing; null where others stand and the claim is not patient. */
export function decodeClaim(claim: Claim, reply: Uint8Array): { place: Place; standing: Standing } | null {
  const [own, first] = twoOf(reply);
  if (own.length === 0 || first.length === 0) return null;
  const key = keyOf(claim);
  return {
    place: { queue: queueOf(claim.name), key, lease: claim.lease, revision: own[0].createRevision },
    standing: compareBytes(first[0].key, key) === 0 ? "FIRST" : "BEHIND",
  };
}

/** A Txn that tells how the place stands. */
export function encodeLook({ queue, key, revision }: Place): Uint8Array {
  return encodeReadTxn([itself(key), oneOf(queue, revision)]);
}

/** How it stood at this revision, and behind which key. */
export function decodeLook(
  place: Place,
  reply: Uint8Array,
): { standing: Standing; ahead: Uint8Array | null; revision: bigint } {
  const [own, before] = twoOf(reply);
  const { revision } = decodeTxn(reply);
  const ahead = before.length === 0 ? null : before[0].key;
  if (own.length === 0 || own[0].createRevision !== place.revision) {
    return { standing: "GONE", ahead, revision };
  }
  return { standing: ahead === null ? "FIRST" : "BEHIND", ahead, revision };
}

function twoOf(reply: Uint8Array) {
  const ranges = rangesOf(decodeTxn(reply));
  if (ranges.length !== 2) throw new EtcdFdwError("08P01", "invalid reply from etcd");
  return ranges.map(({ rows }) => rows);
}

/** A Txn that gives the place's key another value, as long as it is there. */
export function encodeProclaim({ key, lease, revision }: Place, value: Uint8Array): Uint8Array {
  return encodeTxn({
    compare: [{ key, target: "create", result: "equal", value: revision }],
    success: [{ put: { key, value, lease } }],
    failure: [],
  });
}
