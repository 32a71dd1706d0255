// Comparisons of mod_revision and create_revision with a number: etcd's own filters, exact.

import { decodeUtf8, fromHex } from "../../base/bytes.ts";
import type { RevisionFilters } from "../../etcd/messages.ts";
import type { Column } from "./columns.ts";
import type { Operand, ParamValue, Qual } from "../protocol.ts";

export interface RevisionCondition {
  column: "mod_revision" | "create_revision";
  op: "=" | "<" | "<=" | ">" | ">=";
  /** Decimal digits in hexadecimal when known at planning time, otherwise the number of the param. */
  value: string | number;
}

const COMMUTED: Record<string, RevisionCondition["op"]> = {
  "=": "=",
  "<": ">",
  "<=": ">=",
  ">": "<",
  ">=": "<=",
};
const NUMBERS = ["int2", "int4", "int8"];
const LARGEST = 2n ** 63n - 1n;

function revisionColumn(operand: Operand, columns: Column[]): RevisionCondition["column"] | null {
  if (!("column" in operand)) return null;
  const column = columns.find(({ name }) => name === operand.column);
  if (column === undefined || column.type !== "bigint") return null;
  return column.field === "mod_revision" || column.field === "create_revision" ? column.field : null;
}

/**
 * The comparison as a filter; null when it is none. "never" when it compares with NULL.
 */
export function recognizeRevision(qual: Qual, columns: Column[]): RevisionCondition | "never" | null {
  if (qual === null || !("op" in qual) || !Object.hasOwn(COMMUTED, qual.op)) return null;
  let { left, right } = qual;
  let op = qual.op as RevisionCondition["op"];
  if (revisionColumn(right, columns) !== null) [op, left, right] = [COMMUTED[op], right, left];
  const column = revisionColumn(left, columns);
  if (column === null || "column" in right || "array" in right || !NUMBERS.includes(right.type)) return null;
  if ("null" in right) return "never";
  return { column, op, value: "hex" in right ? right.hex : right.param };
}

/** What a condition's number says, for EXPLAIN too. */
export function decimal(hex: string): string {
  return decodeUtf8(fromHex(hex));
}

/**
 * The filters of all conditions; null when no revision can fulfil them. Revisions start at 1, and 0 is etcd's word for "no
 * filter". A condition on a param that is not given (`undefined`) is left out.
 */
export function revisionFilters(
  conditions: RevisionCondition[],
  params: ParamValue[],
): RevisionFilters | null {
  const bounds = { mod_revision: { min: 1n, max: LARGEST }, create_revision: { min: 1n, max: LARGEST } };
  for (const { column, op, value } of conditions) {
    const hex = typeof value === "string" ? value : params[value];
    if (hex === undefined) continue;
    if (hex === null || typeof hex !== "string") return null;
    const number = BigInt(decimal(hex));
    const bound = bounds[column];
    const min = op === ">" ? number + 1n : op === ">=" || op === "=" ? number : bound.min;
    const max = op === "<" ? number - 1n : op === "<=" || op === "=" ? number : bound.max;
    if (min > bound.min) bound.min = min;
    if (max < bound.max) bound.max = max;
  }
  const { mod_revision: mod, create_revision: create } = bounds;
  if (mod.min > mod.max || create.min > create.max) return null;
  const filters: RevisionFilters = {};
  // A row that the transaction itself wrote has no revision yet: what compares with one must not find it.
  const compared = (column: string) => conditions.some((condition) => condition.column === column);
  if (compared("mod_revision")) filters.minModRevision = String(mod.min);
  if (mod.max < LARGEST) filters.maxModRevision = String(mod.max);
  if (compared("create_revision")) filters.minCreateRevision = String(create.min);
  if (create.max < LARGEST) filters.maxCreateRevision = String(create.max);
  return filters;
}
