// count, min(key) and max(key) of all keys that a plan asks for, from as few Txns as hold them: etcd counts without sending keys, and the
// first and the last key are a Range of one key each.

import { encodeUtf8, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { decodeReadTxn, type RangeRequest, type RangeSummary } from "../../etcd/messages.ts";
import { batchEnd } from "../../etcd/batches.ts";
import { type KeyRange, toEtcd } from "../../etcd/keyrange.ts";
import {
  type Common,
  fromHexRange,
  type HexRange,
  readsFrame,
  REQUEST_BYTES,
  toHexRange,
} from "../scan/requests.ts";
import type { AggregateInput, Outcome } from "../protocol.ts";

/** What is known so far: how many keys, the first and the last one, in hexadecimal. */
interface Sums {
  count: string;
  min: string | null;
  max: string | null;
}

/** An aggregate of one of the ranges. */
type Part = [aggregate: string, range: HexRange];

interface AggregateState extends Common {
  aggregates: string[];
  /** Bytes cut off the front of each key. */
  strip: number;
  /** What is left to ask; the first `asked` are on their way. Of each aggregate, the ranges come in the order of their keys. */
  todo: Part[];
  asked: number;
  sums: Sums;
}

function request(aggregate: string, range: HexRange, { revision, serializable }: Common): RangeRequest {
  const common = { ...toEtcd(fromHexRange(range)), revision, serializable };
  switch (aggregate) {
    case "count":
      return { ...common, countOnly: true };
    case "min":
      return { ...common, keysOnly: true, limit: 1 };
    default:
      return { ...common, keysOnly: true, limit: 1, order: { target: "key", descending: true } };
  }
}

/** The Txn for as many parts as fit, or the row. */
function ask({ asked: _, ...state }: AggregateState): Outcome {
  const { aggregates, strip, todo, sums, limits } = state;
  if (todo.length === 0) return row(aggregates, sums, strip);
  const sizeOf = ([, [start, end]]: Part) => REQUEST_BYTES + (start.length + (end?.length ?? 0)) / 2;
  const asked = batchEnd(0, todo.length, (i) => sizeOf(todo[i]), limits);
  return {
    answer: {
      do: "send",
      then: "row",
      latest: Number(state.revision === "0"),
      state: JSON.stringify({ ...state, asked }),
    },
    payload: readsFrame(todo.slice(0, asked).map(([name, range]) => request(name, range, state)), state),
  };
}

/** The first answer: a Txn, or the row itself when no key can match. */
export function beginAggregates(
  aggregates: string[],
  ranges: KeyRange[],
  strip: number,
  common?: Common,
): Outcome {
  const sums: Sums = { count: "0", min: null, max: null };
  if (common === undefined) return row(aggregates, sums, strip);
  const hex = ranges.map(toHexRange);
  // count(*) and count(key) are the same.
  const todo = [...new Set(aggregates)].flatMap((name) => hex.map((range): Part => [name, range]));
  return ask({ ...common, aggregates, strip, todo, asked: 0, sums });
}

function row(aggregates: string[], { count, min, max }: Sums, strip: number): Outcome {
  const cells = aggregates.map((aggregate) => {
    if (aggregate === "count") return toHex(encodeUtf8(count));
    return (aggregate === "min" ? min : max)?.slice(2 * strip) ?? null;
  });
  return { answer: { do: "row", cells } };
}

/** What is known with one more answer. */
function added(sums: Sums, aggregate: string, { count, key }: RangeSummary): Sums {
  if (aggregate === "count") return { ...sums, count: String(BigInt(sums.count) + BigInt(count)) };
  if (key === null) return sums;
  return aggregate === "min" ? { ...sums, min: sums.min ?? toHex(key) } : { ...sums, max: toHex(key) };
}

/** Operation "aggregate": the row, or the next Txn. Throws EtcdFdwError 08P01 when the reply is another's. */
export function readAggregates({ state: text }: AggregateInput, reply: Uint8Array): Outcome {
  const state = JSON.parse(text) as AggregateState;
  const { asked, todo } = state;
  const { revision, summaries } = decodeReadTxn(reply);
  if (summaries.length !== asked) {
    throw new EtcdFdwError("08P01", "invalid reply from etcd", {
      detail: `${asked} answers were expected, ${summaries.length} came.`,
    });
  }
  const sums = summaries.reduce((sum, one, i) => added(sum, todo[i][0], one), state.sums);
  // All of it is of one revision.
  const read = state.revision !== "0" ? state.revision : revision;
  return ask({ ...state, revision: read, todo: todo.slice(asked), sums });
}
