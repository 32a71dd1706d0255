// What changes, as it changes: etcd's events as rows, for as long as the caller likes to wait.

import { compareBytes, toHex } from "../../base/bytes.ts";
import { decodeTxnOutcome, encodePresent } from "../../etcd/txn.ts";
import { Ask, Method } from "../../ipc/frame.ts";
import {
  type AnyFunction,
  type Args,
  jsonPayload,
  rangeOf,
  simple,
  type SqlFunction,
  type Turn,
} from "./call.ts";

/** Where a watch stands between two pages. */
interface WatchState {
  /** The revision up to which the rows are here; null for the revision at the call. */
  after: string | null;
  /** Milliseconds; null for ever. */
  wait: number | null;
  /** Events that are still wanted; null for all. */
  count: number | null;
  /** Up to where the events of the next page go at most; null when it is waited for new ones. */
  upto: string | null;
}

/** A number of events that is as good as all. */
const MAX_COUNT = 2 ** 53 - 1;

function countOf(args: Args): number | null {
  const given = args.optionalNumber("max_events");
  if (given === undefined) return null;
  if (!/^[1-9]\d*$/.test(given)) {
    args.wrong("max_events", `is invalid: ${given}`, "Give the number of events wanted.");
  }
  return Math.min(Number(given), MAX_COUNT);
}

function askWatch(args: Args, state: WatchState): Turn<WatchState> {
  const { key, rangeEnd } = rangeOf(args);
  // etcd refuses it as if a right were missing.
  if (rangeEnd !== null && rangeEnd[0] !== 0 && compareBytes(rangeEnd, key) <= 0) {
    args.wrong(
      "range_end",
      "is not behind the key",
      "A range holds the keys from key on and before range_end.",
    );
  }
  const { after, wait, count, upto } = state;
  return {
    ask: {
      method: Ask.WATCH,
      payload: jsonPayload({
        ...{ key: toHex(key), end: rangeEnd && toHex(rangeEnd), prev: args.flag("prev") },
        ...{ after, upto, count, patience: wait },
      }),
      waits: wait,
      rows: "events",
    },
    state,
  };
}

const watch: SqlFunction<WatchState> = {
  begin(args) {
    const state = {
      ...{ after: args.optionalNumber("after_revision") ?? null, upto: null },
      ...{ wait: args.patience("wait"), count: countOf(args) },
    };
    if (state.after?.startsWith("-")) args.wrong("after_revision", "must not be negative");
    if (state.wait === null && state.count === null) {
      args.wrong("wait", "must not be null without max_events", "A watch that never ends shows no row.");
    }
    return askWatch(args, state);
  },
  page({ revision, kvs, left, upto }, { count }, args) {
    const rest = count === null ? null : count - kvs;
    if (rest !== null && rest <= 0) return { rows: [] };
    if (upto !== "0") return askWatch(args, { after: revision, wait: 0, count: rest, upto });
    if (left !== "0") {
      const wait = args.patience("wait") === null ? null : Number(left);
      return askWatch(args, { after: revision, wait, count: rest, upto: null });
    }
    return { rows: [] };
  },
};

const revision = simple(
  () => ({ method: Method.READ_TXN, payload: encodePresent() }),
  (reply) => [[String(decodeTxnOutcome(reply).revision)]],
);

export const WATCH: Record<string, AnyFunction> = { etcd_watch: watch, etcd_revision: revision };
