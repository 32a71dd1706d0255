// Keys and values: get, range, count, put, delete.

import { successor } from "../../etcd/keyrange.ts";
import {
  DeleteReply,
  DeleteRequest,
  LeaseGrantRequest,
  LeaseReply,
  PutReply,
  PutRequest,
  RangeReply,
} from "../../etcd/api.ts";
import { encodeRangeRequest, type Order, type RangeRequest, SORT_TARGETS } from "../../etcd/messages.ts";
import { Method } from "../../ipc/frame.ts";
import { PAGE_BYTES, PAGE_GROWTH } from "../../ipc/limits.ts";
import { decodeUtf8, fromHex, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import {
  type AnyFunction,
  type Args,
  type Ask,
  keyRow,
  rangeOf,
  type Row,
  simple,
  type SqlFunction,
  type Turn,
} from "./call.ts";

/** Keys of the first page: a function's rows are all kept before the first is shown, so that few are of no use. */
const FIRST_KEYS = 10_000;

function commonOf(args: Args): Pick<RangeRequest, "revision" | "serializable"> {
  return { revision: args.optionalNumber("revision"), serializable: args.flag("serializable") };
}

/** One key, all of it. */
const getRow: SqlFunction = {
  begin(args) {
    if (!args.has("key")) return { rows: [] };
    const request = { key: args.bytes("key"), rangeEnd: null, ...commonOf(args) };
    const payload = encodeRangeRequest(request);
    return { ask: { method: Method.RANGE, payload, rows: "rows", template: ["key"] } };
  },
};

/** Reads "mod_revision desc". */
function orderOf(args: Args): Order | undefined {
  const given = args.optionalBytes("sort");
  if (given === null) return undefined;
  const words = /^\s*(\w+)(?:\s+(asc|desc))?\s*$/i.exec(decodeUtf8(given));
  const target = SORT_TARGETS.find((one) => one === words?.[1].toLowerCase());
  if (target === undefined) {
    args.wrong(
      "sort",
      `is invalid: "${decodeUtf8(given)}"`,
      `Give one of ${SORT_TARGETS.join(", ")}, and asc or desc behind it.`,
    );
  }
  return { target, descending: words![2]?.toLowerCase() === "desc" };
}

function limitOf(args: Args): number {
  const given = args.optionalNumber("limit");
  if (given === undefined) return 0;
  if (!/^[1-9]\d{0,8}$/.test(given)) {
    args.wrong("limit", `is invalid: ${given}`, "Give the number of rows wanted.");
  }
  return Number(given);
}

function rangeRequest(args: Args): RangeRequest {
  const filters = {
    minModRevision: args.optionalNumber("min_mod_revision"),
    maxModRevision: args.optionalNumber("max_mod_revision"),
    minCreateRevision: args.optionalNumber("min_create_revision"),
    maxCreateRevision: args.optionalNumber("max_create_revision"),
  };
  return {
    ...rangeOf(args),
    ...commonOf(args),
    ...filters,
    order: orderOf(args),
    keysOnly: args.flag("keys_only"),
  };
}

interface RangeState {
  /** Rows that are still wanted, 0 for all. */
  left: number;
  /** Keys of the page under way. */
  page: number;
  /** Where it begins, in hexadecimal, and the revision of the pages before it; null for the first one. */
  from: { key: string; revision: string } | null;
}

function askRange(args: Args, state: RangeState): Turn<RangeState> {
  const request = rangeRequest(args);
  const from = state.from === null ? {} : { ...state.from, key: fromHex(state.from.key) };
  return {
    ask: {
      method: Method.RANGE,
      payload: encodeRangeRequest({ ...request, ...from, limit: state.page }),
      rows: request.keysOnly ? "keys" : "rows",
      errors: true,
    },
    state,
  };
}

/** Sorted otherwise than by ascending keys, it comes at once: a page would not say where the next one begins. */
function isPaged({ order }: RangeRequest): boolean {
  return order === undefined || order.target === "key" && !order.descending;
}

/** A range in pages, all of one revision. */
const range: SqlFunction<RangeState> = {
  begin(args) {
    const left = limitOf(args);
    const first = left === 0 ? FIRST_KEYS : Math.min(left, FIRST_KEYS);
    return askRange(args, { left, page: isPaged(rangeRequest(args)) ? first : left, from: null });
  },
  page({ revision, more, kvs, bytes, lastKey }, { left, page }, args) {
    const rest = left - kvs;
    const request = rangeRequest(args);
    if (!more || kvs === 0 || left > 0 && rest <= 0 || !isPaged(request)) return { rows: [] };
    const fitting = Math.max(Math.floor(kvs * PAGE_BYTES / Math.max(bytes, 1)), 1);
    const next = Math.min(fitting, page * PAGE_GROWTH);
    return askRange(args, {
      left: Math.max(rest, 0),
      page: left > 0 ? Math.min(next, rest) : next,
      from: { key: toHex(successor(lastKey)), revision: request.revision ?? revision },
    });
  },
  /** What is too large for an answer is asked for again in smaller pages. */
  failed({ sqlstate, message, detail, hint }, state, args) {
    if (sqlstate === "54000" && state.page > 1 && isPaged(rangeRequest(args))) {
      return askRange(args, { ...state, page: Math.ceil(state.page / PAGE_GROWTH) });
    }
    throw new EtcdFdwError(sqlstate, message, { detail, hint });
  },
};

const count = simple(
  (args) => ({
    method: Method.RANGE,
    payload: encodeRangeRequest({ ...rangeOf(args), ...commonOf(args), countOnly: true }),
  }),
  (reply) => [[RangeReply.decode(reply).count]],
);

interface PutState {
  granted: true;
}

function putRequest(args: Args, prev: boolean, lease = args.optionalNumber("lease")): Uint8Array {
  const ignoreValue = args.flag("ignore_value");
  if (ignoreValue && args.has("value")) args.wrong("value", "must be null with ignore_value");
  return PutRequest.encode({
    key: args.bytes("key"),
    ...(ignoreValue ? { ignore_value: true } : { value: args.bytes("value") }),
    ...(lease === undefined ? {} : { lease }),
    ...(args.flag("ignore_lease") ? { ignore_lease: true } : {}),
    ...(prev ? { prev_kv: true } : {}),
  });
}

/** With a ttl, a lease is granted first. `rows` null: the revision. */
function put(prev: boolean, rows: ((reply: Uint8Array) => Row[]) | null): SqlFunction<PutState | null> {
  const ask = (payload: Uint8Array): Ask =>
    rows !== null ? { method: Method.PUT, payload } : { method: Method.PUT, payload, rows: "revision" };
  return {
    writes: true,
    begin(args) {
      const request = putRequest(args, prev);
      const fields = args.flag("ignore_value") ? ["key"] : ["key", "value"];
      const template = rows === null ? fields : [];
      if (!args.has("ttl")) return { ask: { ...ask(request), template }, state: null };
      if (args.has("lease")) args.wrong("ttl", "cannot be given together with lease");
      if (args.flag("ignore_lease")) args.wrong("ttl", "cannot be given together with ignore_lease");
      const payload = LeaseGrantRequest.encode({ TTL: String(args.seconds("ttl")) });
      return { ask: { method: Method.LEASE_GRANT, payload }, state: { granted: true } };
    },
    reply(reply, state, args) {
      if (state === null) return { rows: rows!(reply) };
      const lease = LeaseReply.decode(reply).ID;
      return { ask: ask(putRequest(args, prev, lease)), state: null };
    },
  };
}

function putReply(reply: Uint8Array): Row[] {
  const { header, prev_kv } = PutReply.decode(reply);
  return [[header!.revision, ...(prev_kv === null ? [null, null, null, null, null, null] : keyRow(prev_kv))]];
}

function askDelete(args: Args, previous: { prev_kv?: true } = {}): Ask {
  const { key, rangeEnd } = rangeOf(args);
  const end = rangeEnd === null ? {} : { range_end: rangeEnd };
  return { method: Method.DELETE_RANGE, payload: DeleteRequest.encode({ key, ...end, ...previous }) };
}

export const KV: Record<string, AnyFunction> = {
  etcd_get: getRow,
  etcd_get_row: getRow,
  etcd_range: range,
  etcd_count: count,
  etcd_put: put(false, null),
  etcd_put_returning: put(true, putReply),
  etcd_delete: simple(
    (args) => askDelete(args),
    (reply) => [[DeleteReply.decode(reply).deleted]],
    { writes: true },
  ),
  // However many there were: once they are deleted, an engine without memory for them could not show them any more.
  etcd_delete_returning: {
    writes: true,
    begin: (args) => ({ ask: { ...askDelete(args, { prev_kv: true }), rows: "deleted" } }),
  },
};
