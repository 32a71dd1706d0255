// Planning: from a table, its options and the query's conditions to what will be asked of etcd. The plan is kept by
// PostgreSQL (perhaps for long, in a prepared statement) as text, and read again when the scan starts.

import { fromHex, toHex } from "../ipc/bytes.ts";
import { isSingleKey, type KeyRange } from "../ipc/keyrange.ts";
import { columnMap } from "./columns.ts";
import { applyConditions, type Condition, recognize } from "./conditions.ts";
import { readTableOptions, type TableOptions } from "./options.ts";
import { recognizeRevision, type RevisionCondition } from "./revisions.ts";
import { FIELDS, type Outcome, type PlanInput } from "./protocol.ts";

/** A scan as planned: short names, since it travels as JSON with every start of the scan. */
export interface ScanPlan {
  /** Start and end of the table's range in hexadecimal, end null for open; absent when the options leave no key. */
  range?: [string, string | null];
  /** Hexadecimal. */
  strip: string;
  conditions: Condition[];
  revisions?: RevisionCondition[];
  /** A comparison with NULL: no row can come. */
  never?: true;
  keysOnly?: true;
  serializable?: true;
  revision: string;
}

/** Rows to expect of a range with nothing known about it. */
const DEFAULT_ROWS = 1000;
/** Cost of one round trip to etcd and of one row of its answer, beside PostgreSQL's cpu_tuple_cost of 0.01. */
const REQUEST_COST = 25;
const ROW_COST = 0.02;

export function decodeRange(plan: ScanPlan): KeyRange | null {
  if (plan.range === undefined) return null;
  const [start, end] = plan.range;
  return { start: fromHex(start), end: end === null ? null : fromHex(end) };
}

function build(input: PlanInput, options: TableOptions): { plan: ScanPlan; exact: number[] } {
  const plan: ScanPlan = { strip: toHex(options.strip), conditions: [], revision: options.revision };
  const exact: number[] = [];
  input.quals.forEach((qual, index) => {
    const recognized = recognize(qual);
    if (recognized === null) {
      const revision = recognizeRevision(qual);
      if (revision === "never") plan.never = true;
      else if (revision !== null) (plan.revisions ??= []).push(revision);
      if (revision !== null) exact.push(index);
      return;
    }
    if (recognized.condition === null) plan.never = true;
    else if (recognized.condition !== undefined) plan.conditions.push(recognized.condition);
    if (recognized.exact) exact.push(index);
  });
  if (options.range !== null) {
    plan.range = [toHex(options.range.start), options.range.end === null ? null : toHex(options.range.end)];
  }
  const needsValue = input.columns.some((column) => column.name === "value" && column.used);
  if (options.keysOnly || !needsValue) plan.keysOnly = true;
  if (options.serializable) plan.serializable = true;
  return { plan, exact };
}

function estimateRows(plan: ScanPlan, options: TableOptions): number {
  // A param counts as a key of its own kind: its value does not matter to "one key".
  const ranges = applyConditions(options.range, plan.conditions, options.strip, []);
  const oneKey = plan.conditions.some((condition) => condition.kind === "equal");
  if (ranges.length === 0 || plan.never || oneKey) return 1;
  if (ranges.every(isSingleKey)) return ranges.length;
  const narrowed = plan.conditions.length > 0 || plan.revisions !== undefined;
  return narrowed ? DEFAULT_ROWS / 10 : DEFAULT_ROWS;
}

/** Operation "plan". */
export function planScan(input: PlanInput): Outcome {
  const options = readTableOptions(input.table, input.options);
  const columns = columnMap(input.table, input.columns, options.keysOnly);
  const { plan, exact } = build(input, options);
  const rows = estimateRows(plan, options);
  return {
    answer: {
      do: "plan",
      plan: JSON.stringify(plan),
      exact,
      columns,
      strip: columns.some(([, field]) => FIELDS[field] === "key") ? options.strip.length : 0,
      // etcd sends keys in ascending order, pages and ranges follow it; a common prefix cut off changes nothing.
      ordered: input.columns.find((column) => column.name === "key")?.attnum ?? 0,
      rows,
      startup: REQUEST_COST,
      total: REQUEST_COST + rows * ROW_COST,
    },
  };
}
