// Planning: from a table, its options and the query's conditions to what will be asked of etcd. The plan is kept by
// PostgreSQL (perhaps for long, in a prepared statement) as text, and read again when the scan starts.

import { fromHex, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { encodeRangeRequest, type SortTarget } from "../../etcd/messages.ts";
import type { Limits } from "../../etcd/batches.ts";
import { encodeCacheTerms } from "../../etcd/cached.ts";
import { isSingleKey, type KeyRange } from "../../etcd/keyrange.ts";
import { type Column, columnMap, needsValue, readColumn, showsBytes } from "./columns.ts";
import { applyConditions, type Condition, rangeBound, recognize } from "./conditions.ts";
import { readTableOptions, type TableOptions } from "./options.ts";
import { recognizeRevision, type RevisionCondition } from "./revisions.ts";
import { recognizeSegments } from "./segments.ts";
import type { Outcome, PlanAnswer, PlanInput } from "../protocol.ts";

/** A scan as planned: short names, since it travels as JSON with every start of the scan. */
export interface ScanPlan {
  /** Start and end of the table's range in hexadecimal, end null for open; absent when the options leave no key. */
  range?: [string, string | null];
  /** Hexadecimal. */
  strip: string;
  conditions: Condition[];
  revisions?: RevisionCondition[];
  keysOnly?: true;
  serializable?: true;
  revision: string;
  /** Which cache in the proxy may answer (src/etcd/cached.ts), in hexadecimal. */
  cache?: string;
  /** What etcd takes in one request, by the server's options. */
  limits: Limits;
}

export function decodeRange(plan: ScanPlan): KeyRange | null {
  if (plan.range === undefined) return null;
  const [start, end] = plan.range;
  return { start: fromHex(start), end: end === null ? null : fromHex(end) };
}

interface Built {
  plan: ScanPlan;
  exact: number[];
  used: number[];
}

function build(input: PlanInput, options: TableOptions, columns: Column[]): Built {
  const { limits, revision } = options;
  const plan: ScanPlan = { strip: toHex(options.strip), conditions: [], revision, limits };
  const exact: number[] = [];
  const used: number[] = [];
  input.quals.forEach((qual, index) => {
    const recognized = recognize(qual, columns);
    if (recognized !== null) {
      if (recognized.condition !== undefined) plan.conditions.push(recognized.condition);
      if (recognized.exact) exact.push(index);
      used.push(index);
      return;
    }
    const revision = recognizeRevision(qual, columns);
    if (revision === null) return;
    if (revision === "never") plan.conditions.push({ kind: "never" });
    else (plan.revisions ??= []).push(revision);
    exact.push(index);
    used.push(index);
  });
  if (options.pattern !== null) {
    const segments = recognizeSegments(input.quals, columns, options.pattern);
    if (segments !== null) {
      plan.conditions.push(segments.condition);
      used.push(...segments.used);
    }
  }
  if (options.range !== null) {
    plan.range = [toHex(options.range.start), options.range.end === null ? null : toHex(options.range.end)];
  }
  if (input.values && options.keysOnly) {
    throw new EtcdFdwError("55000", `cannot update foreign table "${input.table}" that fetches keys only`, {
      hint: "Drop its option keys_only.",
    });
  }
  if (options.keysOnly || !input.values && !columns.some(needsValue)) plan.keysOnly = true;
  if (options.serializable) plan.serializable = true;
  if (options.cache !== null) plan.cache = toHex(encodeCacheTerms(options.cache));
  return { plan, exact, used };
}

/** How many keys can come, when that is known before the params are. */
function keyBound(plan: ScanPlan, options: TableOptions): number {
  // A param counts as a key of its own kind: its value does not matter to "one key".
  const ranges = applyConditions(options.range, plan.conditions, options.strip, []);
  if (ranges.length === 0) return 0;
  const one = plan.conditions.some((c) => c.kind === "equal" || c.kind === "segments" && c.whole);
  if (one) return 1;
  return ranges.every(isSingleKey) ? ranges.length : -1;
}

/** See PlanAnswer. The backend adds a revision of its own, and asks core where the query has a LIMIT. */
function lookupOf(plan: ScanPlan): string[] {
  const { conditions, range, revisions, revision, strip, keysOnly, serializable } = plan;
  const cache = plan.cache === undefined ? undefined : fromHex(plan.cache);
  const [only] = conditions;
  if (conditions.length !== 1 || only.kind !== "equal" || revisions !== undefined || revision !== "0") {
    return [];
  }
  if (range === undefined || typeof only.value === "number" && only.value !== 0) return [];
  const none = new Uint8Array(0);
  const rest = toHex(encodeRangeRequest({ key: none, rangeEnd: null, keysOnly, serializable, cache }));
  const key = typeof only.value === "number" ? "" : strip + only.value;
  if (typeof only.value !== "number") {
    const [start, end] = range;
    // Hexadecimal sorts as its bytes do.
    if (only.value === "" && strip === "" || key < start || end !== null && key >= end) return [];
  }
  // Behind the empty key, two bytes.
  return [key, strip, range[0], range[1] ?? "", rest.slice(4)];
}

type Orders = Pick<PlanAnswer, "targets" | "orders">;

/** Which orders etcd can bring the rows in. Only a single range can be sorted by something else than the key. */
function ordersOf(columns: Column[], ranges: number): Orders {
  const result: Orders = { targets: [], orders: [] };
  for (const column of columns) {
    const { attnum, field, type } = column;
    if (field === undefined || field === "lease") continue;
    const bytes = field === "key" || field === "value";
    if (bytes ? !showsBytes(column) : type !== "bigint") continue;
    const target: SortTarget = field;
    if (target !== "key" && ranges > 1) continue;
    result.targets.push(target);
    result.orders.push([attnum, Number(bytes), Number(target === "key")]);
  }
  return result;
}

/** Operation "plan". */
export function planScan(input: PlanInput): Outcome {
  const options = readTableOptions(input);
  const { pattern } = options;
  const columns = input.columns.map((column) => readColumn(input.table, column, pattern));
  const { plan, exact, used } = build(input, options, columns);
  const ranges = 1 + plan.conditions.reduce((sum, condition) => sum + rangeBound(condition) - 1, 0);
  return {
    answer: {
      do: "plan",
      plan: JSON.stringify(plan),
      exact,
      used,
      ...columnMap(columns, options.keysOnly),
      literals: pattern?.literals.map(toHex) ?? [],
      rest: Number(pattern?.rest ?? false),
      strict: Number(options.strict),
      strip: options.strip.length,
      serializable: Number(options.serializable),
      values: Number(plan.keysOnly !== true),
      ...ordersOf(columns, ranges),
      limitable: Number(pattern === null),
      countable: Number(pattern === null && plan.revisions === undefined),
      keys: keyBound(plan, options),
      ranges,
      lookup: lookupOf(plan),
    },
  };
}
