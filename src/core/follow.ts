// What subscriptions and mirrors ask: which keys they follow, and the next events behind a revision, as soon as there is one.

import { compareBytes, fromHex, toHex } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import { type KeyRange, prefixRange, toEtcd } from "../etcd/keyrange.ts";
import { Ask } from "../ipc/frame.ts";
import { frameOf, jsonPayload } from "./functions/call.ts";
import { readColumn } from "./plan/columns.ts";
import { readTableOptions } from "./plan/options.ts";
import type { FollowedInput, FollowInput, Outcome, PlanInput } from "./protocol.ts";

function followed(range: KeyRange, columns: number[], ttl: number[]): Outcome {
  const { key, rangeEnd } = toEtcd(range);
  const end = rangeEnd === null ? "" : toHex(rangeEnd);
  return {
    answer: { do: "followed", key: toHex(key), end, single: Number(rangeEnd === null), columns, ttl },
  };
}

/** Operation "followKeys": the keys that a user names, by their first and what is behind the last, or by a prefix. */
export function followKeys({ key, end, prefix }: FollowedInput): Outcome {
  const start = fromHex(key);
  if (prefix) return followed(prefixRange(start), [], []);
  if (end !== null) {
    const last = fromHex(end);
    const unbounded = last.length === 0 || last.length === 1 && last[0] === 0;
    if (!unbounded && compareBytes(last, start) <= 0) {
      throw new EtcdFdwError("22023", `argument "range_end" of etcd_subscribe() is not behind the key`);
    }
    return followed({ start, end: unbounded ? null : last }, [], []);
  }
  return { answer: { do: "followed", key, end: "", single: 1, columns: [], ttl: [] } };
}

/** Operation "followTable": a foreign table's keys, and the columns that tell one from the other, or show the time left. */
export function followTable(input: PlanInput): Outcome {
  const { pattern, range, revision } = readTableOptions(input);
  const columns = input.columns.map((column) => readColumn(input.table, column, pattern));
  const key = columns.find(({ field }) => field === "key");
  const segments = pattern?.names.map((_, i) => columns.find(({ segment }) => segment === i)) ?? [];
  const parts = key === undefined ? segments : [key];
  if (range === null || revision !== "0") {
    throw new EtcdFdwError("55000", `foreign table "${input.table}" never changes`, {
      hint: range === null ? "Its options leave no key." : "Drop its option revision.",
    });
  }
  if (parts.length === 0 || parts.includes(undefined)) {
    throw new EtcdFdwError(
      "55000",
      `foreign table "${input.table}" has no column that tells its keys apart`,
      {
        hint: pattern === null
          ? "Give it a column named key."
          : "Give it a column for each placeholder of its key_pattern, or a column named key.",
      },
    );
  }
  const ttl = columns.filter((column) => column.ttl === true).map(({ attnum }) => attnum);
  return followed(range, parts.map((column) => column!.attnum), ttl);
}

/** Operation "follow". */
export function beginFollow({ key, end, prev, after, wait, count }: FollowInput): Outcome {
  const payload = jsonPayload({
    ...{ key, end, prev, after, upto: null, count, enough: 1, known: true, patience: wait },
  });
  return { answer: { do: "follow" }, payload: frameOf({ method: Ask.WATCH, payload, waits: wait }) };
}
