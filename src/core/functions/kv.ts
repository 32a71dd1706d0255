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
import { decodeUtf8 } from "../../base/bytes.ts";
import {
  type AnyFunction,
  type Args,
  type Ask,
  keyRow,
  rangeOf,
  type Row,
  simple,
  type SqlFunction,
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
}

const askRange = (request: RangeRequest, state: RangeState) => ({
  ask: {
    method: Method.RANGE,
    payload: encodeRangeRequest({ ...request, limit: state.page }),
    rows: request.keysOnly ? "keys" as const : "rows" as const,
  },
  state,
});

/** A range in pages, all of one revision. An order of etcd's making has no pages: it comes at once. */
const range: SqlFunction<RangeState> = {
  begin(args) {
    const request = rangeRequest(args);
    const left = limitOf(args);
    const ordered = request.order !== undefined &&
      (request.order.target !== "key" || request.order.descending);
    return askRange(request, {
      left,
      page: ordered ? left : left === 0 ? FIRST_KEYS : Math.min(left, FIRST_KEYS),
    });
  },
  page({ revision, more, kvs, bytes, lastKey }, { left, page }, args) {
    const rest = left - kvs;
    const request = rangeRequest(args);
    const ordered = request.order !== undefined &&
      (request.order.target !== "key" || request.order.descending);
    if (!more || kvs === 0 || left > 0 && rest <= 0 || ordered) return { rows: [] };
    const fitting = Math.max(Math.floor(kvs * PAGE_BYTES / Math.max(bytes, 1)), 1);
    const next = Math.min(fitting, page * PAGE_GROWTH);
    return askRange(
      { ...request, key: successor(lastKey), revision: request.revision ?? revision },
      { left: Math.max(rest, 0), page: left > 0 ? Math.min(next, rest) : next },
    );
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

const deletion = (prev: boolean, rows: (reply: Uint8Array) => Row[]): AnyFunction =>
  simple(
    (args) => {
      const { key, rangeEnd } = rangeOf(args);
      const end = rangeEnd === null ? {} : { range_end: rangeEnd };
      const previous = prev ? { prev_kv: true } : {};
      return { method: Method.DELETE_RANGE, payload: DeleteRequest.encode({ key, ...end, ...previous }) };
    },
    rows,
    { writes: true },
  );

export const KV: Record<string, AnyFunction> = {
  etcd_get: getRow,
  etcd_get_row: getRow,
  etcd_range: range,
  etcd_count: count,
  etcd_put: put(false, null),
  etcd_put_returning: put(true, putReply),
  etcd_delete: deletion(false, (reply) => [[DeleteReply.decode(reply).deleted]]),
  etcd_delete_returning: deletion(true, (reply) => DeleteReply.decode(reply).prev_kvs.map(keyRow)),
};
