// The scan's state machine: which page to ask for next. All of its state is in the text that goes to the backend and
// comes back, so an engine that is reset in the middle of a query loses nothing.

import { compareBytes, fromHex, toHex } from "../ipc/bytes.ts";
import { EtcdFdwError } from "../ipc/errors.ts";
import { encodeRangeRequest, type RevisionFilters } from "../ipc/etcd_messages.ts";
import { encodeFrame, FrameType, Method } from "../ipc/frame.ts";
import { isSingleKey, type KeyRange, successor, toEtcd } from "../ipc/keyrange.ts";
import { FIRST_PAGE_KEYS, PAGE_BYTES, PAGE_GROWTH } from "../ipc/limits.ts";
import { applyConditions } from "./conditions.ts";
import { decodeRange, type ScanPlan } from "./plan.ts";
import { revisionFilters } from "./revisions.ts";
import type { BeginInput, FailedInput, Outcome, PageInput } from "./protocol.ts";

/** A range in hexadecimal, end null for open. */
type HexRange = [string, string | null];

/** The page that was asked for. */
interface ScanState {
  start: string;
  end: string | null;
  /** The ranges that follow. */
  rest: HexRange[];
  /** Keys at most; 0 without a limit. */
  limit: number;
  revision: string;
  keysOnly?: true;
  serializable?: true;
  filters?: RevisionFilters;
}

function ask(state: ScanState): Outcome {
  const range: KeyRange = {
    start: fromHex(state.start),
    end: state.end === null ? null : fromHex(state.end),
  };
  const payload = encodeRangeRequest({
    ...toEtcd(range),
    limit: state.limit,
    revision: state.revision,
    serializable: state.serializable,
    keysOnly: state.keysOnly,
    ...state.filters,
  });
  return {
    answer: { do: "send", then: state.rest.length === 0 ? "done" : "page", state: JSON.stringify(state) },
    payload: encodeFrame({ type: FrameType.UNARY, code: Method.RANGE, channel: 0, id: 0, payload }),
  };
}

/** Operation "begin": the first page, or nothing when no key can fulfil the conditions. */
export function beginScan(input: BeginInput): Outcome {
  const plan = JSON.parse(input.plan) as ScanPlan;
  const ranges = plan.never
    ? []
    : applyConditions(decodeRange(plan), plan.conditions, fromHex(plan.strip), input.params);
  const filters = revisionFilters(plan.revisions ?? [], input.params);
  if (ranges.length === 0 || filters === null) return { answer: { do: "done" } };
  const [first, ...rest] = ranges.map((
    { start, end },
  ): HexRange => [toHex(start), end === null ? null : toHex(end)]);
  return askRange(first, {
    rest,
    revision: plan.revision !== "0" ? plan.revision : input.revision,
    keysOnly: plan.keysOnly,
    serializable: plan.serializable,
    filters,
  });
}

/** The first page of a range. */
function askRange([start, end]: HexRange, state: Omit<ScanState, "start" | "end" | "limit">): Outcome {
  const single = isSingleKey({ start: fromHex(start), end: end === null ? null : fromHex(end) });
  return ask({ ...state, start, end, limit: single ? 0 : FIRST_PAGE_KEYS });
}

/**
 * Operation "page": the request after a page: the rest of its range, or the next one. Pages grow with what their keys weigh, since etcd counts the
 * whole range for each. Throws EtcdFdwError 08P01 when the page makes no progress.
 */
export function nextPage(input: PageInput): Outcome {
  const state = JSON.parse(input.state) as ScanState;
  // Every page shows the state that the first one saw.
  const revision = state.revision !== "0" ? state.revision : input.revision;
  if (!input.more) {
    const [next, ...rest] = state.rest;
    return next === undefined ? { answer: { do: "done" } } : askRange(next, { ...state, rest, revision });
  }
  if (input.kvs === 0) {
    throw new EtcdFdwError("08P01", "etcd announced more keys but sent none");
  }
  const lastKey = fromHex(input.lastKey);
  if (compareBytes(lastKey, fromHex(state.start)) < 0) {
    throw new EtcdFdwError("08P01", "etcd sent keys that come before those that were asked for");
  }
  const perKey = Math.max(1, input.bytes / input.kvs);
  const wanted = Math.floor(Math.min(PAGE_BYTES / perKey, state.limit * PAGE_GROWTH));
  return ask({
    ...state,
    start: toHex(successor(lastKey)),
    limit: Math.max(1, wanted),
    revision,
  });
}

/** Operation "failed": a page too large for a frame is asked for again in smaller pieces; other errors are final. */
export function pageFailed(input: FailedInput): Outcome {
  const { sqlstate, message, detail, hint } = input;
  const state = JSON.parse(input.state) as ScanState;
  if (sqlstate === "54000" && state.limit > 1) {
    return ask({ ...state, limit: Math.ceil(state.limit / PAGE_GROWTH) });
  }
  return { answer: { do: "error", sqlstate, message, detail, hint } };
}
