// count, min(key) and max(key) of all keys that a plan asks for, from one Txn: etcd counts without sending keys, and the
// first and the last key are a Range of one key each.

import { encodeUtf8, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { decodeReadTxn, type RangeRequest, type RangeSummary } from "../../etcd/messages.ts";
import { type KeyRange, toEtcd } from "../../etcd/keyrange.ts";
import { type Common, readsFrame } from "../scan/requests.ts";
import type { AggregateInput, Outcome } from "../protocol.ts";

interface AggregateState {
  aggregates: string[];
  /** Ranges asked for; each once for every aggregate. */
  ranges: number;
  /** Bytes cut off the front of each key. */
  strip: number;
}

function request(aggregate: string, range: KeyRange, { revision, serializable }: Common): RangeRequest {
  const common = { ...toEtcd(range), revision, serializable };
  switch (aggregate) {
    case "count":
      return { ...common, countOnly: true };
    case "min":
      return { ...common, keysOnly: true, limit: 1 };
    default:
      return { ...common, keysOnly: true, limit: 1, order: { target: "key", descending: true } };
  }
}

/** The first answer: the Txn, or the row itself when no key can match. */
export function beginAggregates(
  aggregates: string[],
  ranges: KeyRange[],
  strip: number,
  common?: Common,
): Outcome {
  const empty = aggregates.map((aggregate) => aggregate === "count" ? toHex(encodeUtf8("0")) : null);
  if (common === undefined || ranges.length === 0) return { answer: { do: "row", cells: empty } };
  const state: AggregateState = { aggregates, ranges: ranges.length, strip };
  return {
    answer: {
      do: "send",
      then: "row",
      latest: Number(common.revision === "0"),
      state: JSON.stringify(state),
    },
    payload: readsFrame(aggregates.flatMap((name) => ranges.map((range) => request(name, range, common)))),
  };
}

function result(aggregate: string, summaries: RangeSummary[], strip: number): string | null {
  if (aggregate === "count") {
    return toHex(encodeUtf8(String(summaries.reduce((sum, { count }) => sum + BigInt(count), 0n))));
  }
  const keys = summaries.map(({ key }) => key).filter((key) => key !== null);
  if (keys.length === 0) return null;
  return toHex((aggregate === "min" ? keys[0] : keys[keys.length - 1]).subarray(strip));
}

/** Operation "aggregate": the row, from the reply. Throws EtcdFdwError 08P01 when the reply is another's. */
export function readAggregates({ state }: AggregateInput, reply: Uint8Array): Outcome {
  const { aggregates, ranges, strip } = JSON.parse(state) as AggregateState;
  const summaries = decodeReadTxn(reply);
  if (summaries.length !== aggregates.length * ranges) {
    throw new EtcdFdwError("08P01", "invalid reply from etcd", {
      detail: `${aggregates.length * ranges} answers were expected, ${summaries.length} came.`,
    });
  }
  const of = (i: number) => summaries.slice(i * ranges, (i + 1) * ranges);
  const cells = aggregates.map((name, i) => result(name, of(i), strip));
  return { answer: { do: "row", cells } };
}
