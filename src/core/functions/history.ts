// What has changed: etcd's events up to now, as states and as versions.

import { fromHex, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { type KeyValueMessage, RangeReply, WatchCreate, WatchReply } from "../../etcd/api.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import { Ask, Method } from "../../ipc/frame.ts";
import { prefixRange, toEtcd } from "../../etcd/keyrange.ts";
import { type AnyFunction, type Args, type Row, type SqlFunction } from "./call.ts";

/** mvccpb.Event.DELETE */
const DELETE = 1;

function askEvents(key: Uint8Array, rangeEnd: Uint8Array | null, start: string) {
  const range = rangeEnd === null ? {} : { range_end: rangeEnd };
  return { method: Ask.EVENTS, payload: WatchCreate.encode({ key, ...range, start_revision: start }) };
}

/** Throws EtcdFdwError 22023 when the events asked for are gone. */
function checkCompacted(
  { canceled, compact_revision }: ReturnType<typeof WatchReply.decode>,
  start: string,
): void {
  if (!canceled) return;
  throw new EtcdFdwError("22023", `revision ${start} of etcd has been compacted`, {
    hint: `The oldest revision that can be read is ${compact_revision}.`,
  });
}

/** The largest there can be: nothing comes after it. */
const LAST_REVISION = 2n ** 63n - 1n;

/** The first revision whose changes are wanted. */
function startRevision(args: Args): bigint {
  const given = args.number("after_revision");
  if (given.startsWith("-")) args.wrong("after_revision", "must not be negative");
  return BigInt(given) + 1n;
}

/** The newest event of each key; deletions have no value and no version. */
const changes: SqlFunction = {
  begin(args) {
    const { key, rangeEnd } = toEtcd(prefixRange(args.bytes("prefix")));
    const start = startRevision(args);
    if (start > LAST_REVISION) return { rows: [] };
    return { ask: { ...askEvents(key, rangeEnd, String(start)), method: Ask.CHANGES, rows: "events" } };
  },
};

const versionRow = (kv: KeyValueMessage, deleted: boolean): Row =>
  deleted
    ? [kv.mod_revision, null, null, null, null, true]
    : [kv.mod_revision, kv.value, kv.create_revision, kv.version, kv.lease, false];

interface HistoryState {
  /** Rows behind the one that is asked for. */
  rows: (string | number | boolean | null)[][];
}

/** Every version, oldest first: the events, and in front of them the version that a compaction has left. */
const history: SqlFunction<HistoryState | null> = {
  begin(args) {
    const from = args.optionalNumber("from_revision") ?? "0";
    return { ask: askEvents(args.bytes("key"), null, from) };
  },
  reply(reply, state, args) {
    if (state !== null) {
      const { kvs } = RangeReply.decode(reply);
      return { rows: [...kvs.map((kv) => versionRow(kv, false)), ...state.rows.map(unpacked)] };
    }
    const answer = WatchReply.decode(reply);
    checkCompacted(answer, args.optionalNumber("from_revision") ?? "0");
    const rows = answer.events.map(({ type, kv }) => versionRow(kv!, type === DELETE));
    if (answer.compact_revision === "0") return { rows };
    const request = { key: args.bytes("key"), rangeEnd: null, revision: answer.compact_revision };
    return {
      ask: { method: Method.RANGE, payload: encodeRangeRequest(request) },
      state: { rows: rows.map(packed) },
    };
  },
};

/** JSON has no bytes: the value, which is the only one, is hexadecimal. */
const packed = (row: Row) => row.map((cell) => cell instanceof Uint8Array ? toHex(cell) : cell);
const unpacked = ([revision, value, ...rest]: (string | number | boolean | null)[]): Row => [
  revision,
  value === null ? null : fromHex(String(value)),
  ...rest,
];

export const HISTORY: Record<string, AnyFunction> = { etcd_changes: changes, etcd_history: history };
