// The scan's state machine: which page to ask for next. All of its state is in the text that goes to the backend and
// comes back, so an engine that is reset in the middle of a query loses nothing.

import { compareBytes, fromHex, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { encodeReadTxn, type Order, type RevisionFilters, type SortTarget } from "../../etcd/messages.ts";
import { type KeyRange, successor } from "../../etcd/keyrange.ts";
import { FIRST_PAGE_KEYS, PAGE_BYTES, PAGE_GROWTH } from "../../ipc/limits.ts";
import { beginAggregates } from "../plan/aggregates.ts";
import { applyConditions } from "../plan/conditions.ts";
import { decodeRange, type ScanPlan } from "../plan/plan.ts";
import {
  type Common,
  type HexRange,
  isSingle,
  keysFrame,
  rangeFrame,
  rangeRequest,
  toHexRange,
} from "./requests.ts";
import { revisionFilters } from "../plan/revisions.ts";
import type { BeginInput, FailedInput, Outcome, PageInput } from "../protocol.ts";

interface ScanState extends Common {
  /** What is left to read, in the order of reading; the first `asked` of these are on their way. */
  todo: HexRange[];
  /** More than one only for single keys, which travel together. */
  asked: number;
  /** Keys of a page, or single keys of a Txn, at most. */
  page: number;
  /** Rows that are wanted before this request's; absent for all. */
  wanted?: number;
}

/** Reads "key desc" and its like; undefined for the order that etcd has by itself. */
export function readOrder(text: string): Order | undefined {
  if (text === "") return undefined;
  const [target, direction] = text.split(" ");
  return { target: target as SortTarget, descending: direction === "desc" };
}

function ask(state: Omit<ScanState, "asked">, most = Infinity): Outcome {
  const { todo } = state;
  if (todo.length === 0) return { answer: { do: "done" } };
  const ranged = todo.findIndex((range) => !isSingle(range));
  const { asked, frame: payload } = ranged !== 0
    ? keysFrame(ranged < 0 ? todo : todo.slice(0, ranged), state, most)
    : { asked: 1, frame: rangeFrame(todo[0], state, Math.min(state.page, state.wanted ?? Infinity)) };
  return {
    answer: {
      do: "send",
      then: todo.length === asked ? "done" : "page",
      latest: Number(state.revision === "0"),
      state: JSON.stringify({ ...state, asked }),
    },
    payload,
  };
}

/** What a plan asks for with these params; null when no key can match. */
function resolve(input: BeginInput): { ranges: KeyRange[]; strip: number; common: Common } | null {
  const plan = JSON.parse(input.plan) as ScanPlan;
  const strip = fromHex(plan.strip);
  const ranges = applyConditions(decodeRange(plan), plan.conditions, strip, input.params);
  const filters: RevisionFilters | null = revisionFilters(plan.revisions ?? [], input.params);
  if (ranges.length === 0 || filters === null) return null;
  const revision = plan.revision !== "0" ? plan.revision : input.revision;
  const { keysOnly, serializable, limits, cache } = plan;
  const order = readOrder(input.order);
  return {
    ranges,
    strip: strip.length,
    common: { limits, revision, keysOnly, serializable, filters, order, cache },
  };
}

/** Operation "begin": the first page, or nothing when no key can fulfil the conditions. */
export function beginScan(input: BeginInput): Outcome {
  const resolved = resolve(input);
  if (input.aggregates.length > 0) {
    return beginAggregates(input.aggregates, resolved?.ranges ?? [], resolved?.strip ?? 0, resolved?.common);
  }
  const wanted = input.limit === null ? undefined : Number(input.limit);
  if (resolved === null || wanted === 0) return { answer: { do: "done" } };
  const { ranges, common } = resolved;
  const { order } = common;
  const todo = ranges.map(toHexRange);
  if (order?.target === "key" && order.descending) todo.reverse();
  // Sorted by anything else, a page says nothing about where the next one would begin: one reply has to do.
  const page = order !== undefined && order.target !== "key" ? Infinity : FIRST_PAGE_KEYS;
  return ask({ ...common, todo, page: Math.min(page, Number.MAX_SAFE_INTEGER), wanted });
}

/** Operation "remove": the reads that find what a DELETE is to delete. The plan must be exact. */
export function removeRanges(input: BeginInput): Outcome {
  const resolved = resolve(input);
  const requests = (resolved?.ranges ?? []).map((range) =>
    rangeRequest(toHexRange(range), resolved!.common, 0)
  );
  return {
    answer: { do: "remove", ranges: requests.length },
    payload: encodeReadTxn(requests),
  };
}

/** What a page that ended with this key leaves of its range. */
function remainder([start, end]: HexRange, lastKey: string, descending: boolean): HexRange {
  const last = fromHex(lastKey);
  const inside = compareBytes(last, fromHex(start)) >= 0 &&
    (end === null || compareBytes(last, fromHex(end)) < 0);
  if (!inside) throw new EtcdFdwError("08P01", "etcd sent keys outside of the range that was asked for");
  return descending ? [start, lastKey] : [toHex(successor(last)), end];
}

/**
 * Operation "page": the request after a page: the rest of its range, or the next ones. Pages grow with what their keys
 * weigh, since etcd counts the whole range for each. Throws EtcdFdwError 08P01 when the page makes no progress.
 */
export function nextPage(input: PageInput): Outcome {
  const { asked, ...state } = JSON.parse(input.state) as ScanState;
  // Every page shows the state that the first one saw.
  const revision = state.revision !== "0" ? state.revision : input.revision;
  const wanted = state.wanted === undefined ? undefined : state.wanted - input.kvs;
  if (wanted !== undefined && wanted <= 0) return { answer: { do: "done" } };
  const rest = state.todo.slice(asked);
  if (!input.more) return ask({ ...state, revision, wanted, todo: rest, page: FIRST_PAGE_KEYS });
  if (input.kvs === 0) throw new EtcdFdwError("08P01", "etcd announced more keys but sent none");
  const perKey = Math.max(1, input.bytes / input.kvs);
  const page = Math.max(1, Math.floor(Math.min(PAGE_BYTES / perKey, state.page * PAGE_GROWTH)));
  const left = remainder(state.todo[0], input.lastKey, state.order?.descending ?? false);
  return ask({ ...state, revision, wanted, todo: [left, ...rest], page });
}

/** Operation "failed": what is too large for a frame is asked for again in smaller pieces; other errors are final. */
export function pageFailed(input: FailedInput): Outcome {
  const { sqlstate, message, detail, hint } = input;
  const { asked, ...state } = JSON.parse(input.state) as ScanState;
  const isPaged = state.order === undefined || state.order.target === "key";
  if (sqlstate === "54000" && asked > 1) return ask(state, Math.ceil(asked / 2));
  if (sqlstate === "54000" && isPaged && Math.min(state.page, state.wanted ?? Infinity) > 1) {
    const page = Math.min(state.page, state.wanted ?? Infinity);
    return ask({ ...state, page: Math.ceil(page / PAGE_GROWTH) });
  }
  return { answer: { do: "error", sqlstate, message, detail, hint } };
}
