// From a comparison in the query to a condition on the key, and from conditions to the range that is asked for.
//
// A condition is exact when the keys in its range are just those that fulfil the comparison; otherwise the range is a
// superset and PostgreSQL checks each row again.

import { compareBytes, concatBytes, fromHex, toHex } from "../../base/bytes.ts";
import {
  ALL_KEYS,
  hull,
  intersectSets,
  type KeyRange,
  prefixRange,
  singleKey,
  successor,
  unite,
} from "../../etcd/keyrange.ts";
import { type Column, showsBytes } from "./columns.ts";
import type { Comparison, Operand, ParamValue, Qual, Values } from "../protocol.ts";

/** Hexadecimal when known at planning time, otherwise the number of the param. */
type Value = string | number;

/** `like` keeps its pattern: it is read when the value is known. */
export type Comparator = "equal" | "prefix" | "like" | "<" | "<=" | ">" | ">=";

export type Condition =
  | { kind: Comparator; value: Value }
  | { kind: "any"; value: Values | number }
  /** Any of these conjunctions; with `hull`, the one range around them all. */
  | { kind: "or"; arms: Condition[][]; hull?: true }
  /** The key begins with the first literal, a value, the second literal and so on; `whole`: and that is all of it. */
  | { kind: "segments"; literals: string[]; values: Value[]; whole?: true }
  /** A comparison with NULL: no row can come. */
  | { kind: "never" };

/** More ranges than this are asked for as one range around them, which PostgreSQL then checks. */
export const MAX_RANGES = 128;

export interface Recognized {
  /** Absent: every row fulfils it. */
  condition?: Condition;
  exact: boolean;
}

/** Operators that hold just as well with their sides changed, by what they are then. */
const COMMUTED: Record<string, string> = { "=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<=" };

const NOTHING = new Uint8Array(0);
const PERCENT = 0x25;
const UNDERSCORE = 0x5f;
const BACKSLASH = 0x5c;

/**
 * Reads a LIKE pattern: the literal bytes before its first wildcard, and whether what follows is nothing ("equal"), one
 * or more % up to the end ("prefix") or anything else ("other"). `%`, `_` and `\` are ASCII and so never part of a
 * multi-byte UTF-8 character. A pattern that ends in a lone escape is an error of PostgreSQL's, raised by its recheck:
 * it reads as "other" with what came before it.
 */
export function readLikePattern(
  pattern: Uint8Array,
): { literal: Uint8Array; rest: "equal" | "prefix" | "other" } {
  const literal: number[] = [];
  for (let i = 0; i < pattern.length; i++) {
    let byte = pattern[i];
    if (byte === PERCENT || byte === UNDERSCORE) {
      const onlyPercent = pattern.subarray(i).every((b) => b === PERCENT);
      return { literal: Uint8Array.from(literal), rest: onlyPercent ? "prefix" : "other" };
    }
    if (byte === BACKSLASH) {
      if (++i === pattern.length) return { literal: Uint8Array.from(literal), rest: "other" };
      byte = pattern[i];
    }
    literal.push(byte);
  }
  return { literal: Uint8Array.from(literal), rest: "equal" };
}

const NEVER: Recognized = { condition: { kind: "never" }, exact: true };

/** Whether the operand is the column that shows the key, byte for byte. */
function isKey(operand: Operand, columns: Column[]): boolean {
  if (!("column" in operand)) return false;
  const column = columns.find(({ name }) => name === operand.column);
  return column?.field === "key" && showsBytes(column);
}

/** A list of keys; without NULLs, which equal nothing. */
function recognizeAny(operand: Operand): Recognized | null {
  if ("null" in operand) return NEVER;
  if ("param" in operand) return { condition: { kind: "any", value: operand.param }, exact: false };
  if (!("array" in operand)) return null;
  if (!Array.isArray(operand.array)) {
    return { condition: { kind: "any", value: operand.array }, exact: false };
  }
  const value = [...new Set(operand.array.filter((hex) => hex !== null))];
  return { condition: { kind: "any", value }, exact: value.length <= MAX_RANGES };
}

function valueOf(operand: Operand): Value | null {
  if ("hex" in operand) return operand.hex;
  return "param" in operand ? operand.param : null;
}

function recognizeLike(value: Value): Recognized {
  // A pattern that is known only later may hold anything: its prefix narrows the range, the rows are checked again.
  if (typeof value === "number") return { condition: { kind: "like", value }, exact: false };
  const { literal, rest } = readLikePattern(fromHex(value));
  const kind = rest === "equal" ? "equal" : "prefix";
  return { condition: { kind, value: toHex(literal) }, exact: rest !== "other" };
}

function recognizeComparison(comparison: Comparison, columns: Column[]): Recognized | null {
  const { op, left, right, collation } = comparison;
  // No key is NULL.
  if (op === "is not null") return isKey(left, columns) ? { exact: true } : null;
  if (op === "is null") return isKey(left, columns) ? NEVER : null;
  if (collation === "nondeterministic") return null;
  if (!isKey(left, columns)) {
    if (!isKey(right, columns) || !Object.hasOwn(COMMUTED, op)) return null;
    return recognizeComparison({ op: COMMUTED[op], left: right, right: left, collation }, columns);
  }
  if ("column" in right) return null;
  if (op === "= any") return recognizeAny(right);
  if ("array" in right) return null;
  const value = valueOf(right);
  const exactly = (kind: Comparator): Recognized =>
    value === null ? NEVER : { condition: { kind, value }, exact: true };
  switch (op) {
    case "=":
      return exactly("equal");
    case "^@":
      return exactly("prefix");
    case "~~":
      return value === null ? NEVER : recognizeLike(value);
    case "<":
    case "<=":
    case ">":
    case ">=":
      // Under another collation the order is not etcd's.
      return collation === "c" || collation === "none" ? exactly(op) : null;
    default:
      return null;
  }
}

/** A conjunction: what is not recognized in it only makes it inexact. */
function recognizeAnd(quals: Qual[], columns: Column[]): { conditions: Condition[]; exact: boolean } {
  const parts = quals.map((qual) => recognize(qual, columns));
  return {
    conditions: parts.flatMap((part) => part?.condition ?? []),
    exact: parts.every((part) => part !== null && part.exact),
  };
}

function recognizeOr(quals: Qual[], columns: Column[]): Recognized | null {
  const arms = quals.map((qual) => recognizeAnd([qual], columns));
  if (arms.some(({ conditions }) => conditions.length === 0)) return null;
  const condition: Condition = { kind: "or", arms: arms.map(({ conditions }) => conditions) };
  if (rangeBound(condition) > MAX_RANGES) return { condition: { ...condition, hull: true }, exact: false };
  return { condition, exact: arms.every(({ exact }) => exact) };
}

/** The condition of the query as one on the key, or null when it is none that etcd can help with. */
export function recognize(qual: Qual, columns: Column[]): Recognized | null {
  if (qual === null) return null;
  if ("or" in qual) return recognizeOr(qual.or, columns);
  if (!("and" in qual)) return recognizeComparison(qual, columns);
  const { conditions, exact } = recognizeAnd(qual.and, columns);
  if (conditions.length === 0) return exact ? { exact } : null;
  return { condition: conditions.length === 1 ? conditions[0] : { kind: "or", arms: [conditions] }, exact };
}

/** How many ranges the condition can leave of one. */
export function rangeBound(condition: Condition): number {
  switch (condition.kind) {
    case "any":
      if (typeof condition.value === "number") return MAX_RANGES;
      if (!Array.isArray(condition.value)) return 1;
      return condition.value.length > MAX_RANGES ? 1 : condition.value.length;
    case "or": {
      const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);
      return condition.hull ? 1 : sum(condition.arms.map((arm) => sum(arm.map(rangeBound)) - arm.length + 1));
    }
    default:
      return 1;
  }
}

function rangeOf(kind: Comparator, value: Uint8Array, strip: Uint8Array): KeyRange {
  const key = concatBytes(strip, value);
  switch (kind) {
    case "equal":
      return singleKey(key);
    case "prefix":
      return prefixRange(key);
    case "<":
      return { start: NOTHING, end: key };
    case "<=":
      return { start: NOTHING, end: successor(key) };
    case ">":
      return { start: successor(key), end: null };
    case ">=":
      return { start: key, end: null };
    case "like": {
      const { literal, rest } = readLikePattern(value);
      return rangeOf(rest === "equal" ? "equal" : "prefix", literal, strip);
    }
  }
}

/** The ranges of a list of keys, in order and each once. */
function keyRanges(values: Values, strip: Uint8Array): KeyRange[] {
  const single = (hex: string) => singleKey(concatBytes(strip, fromHex(hex)));
  if (!Array.isArray(values)) return around([single(values.least), single(values.greatest)]);
  const distinct = [...new Set(values.filter((hex) => hex !== null))];
  const keys = distinct.map(single).sort((a, b) => compareBytes(a.start, b.start));
  return keys.length <= MAX_RANGES ? keys : around(keys);
}

const around = (ranges: KeyRange[]) => {
  const range = hull(ranges);
  return range === null ? [] : [range];
};

function segmentRanges({ literals, values, whole }: Condition & { kind: "segments" }, params: ParamValue[]) {
  const parts = [fromHex(literals[0])];
  for (const [i, value] of values.entries()) {
    const hex = typeof value === "number" ? params[value] : value;
    if (hex === undefined) return [prefixRange(concatBytes(...parts))];
    if (typeof hex !== "string") return [];
    parts.push(fromHex(hex), fromHex(literals[i + 1]));
  }
  const key = concatBytes(...parts);
  return [whole ? singleKey(key) : prefixRange(key)];
}

/** What one condition allows; undefined when it depends on a param that is not given. */
function rangesOf(condition: Condition, strip: Uint8Array, params: ParamValue[]): KeyRange[] | undefined {
  switch (condition.kind) {
    case "never":
      return [];
    case "segments":
      return segmentRanges(condition, params);
    case "or": {
      const arms = condition.arms.map((arm) => applyConditions(ALL_KEYS, arm, strip, params));
      const united = unite(arms.flat());
      return condition.hull ? around(united) : united;
    }
    default: {
      const value = typeof condition.value === "number" ? params[condition.value] : condition.value;
      if (value === undefined) return undefined;
      if (value === null) return [];
      if (condition.kind === "any") return typeof value === "string" ? [] : keyRanges(value, strip);
      return typeof value === "string" ? [rangeOf(condition.kind, fromHex(value), strip)] : [];
    }
  }
}

/**
 * The keys that fulfil all conditions within `range`, as ranges in etcd's order; none when no key can. A condition on a
 * param that is not given (`undefined`) is left out.
 */
export function applyConditions(
  range: KeyRange | null,
  conditions: Condition[],
  strip: Uint8Array,
  params: ParamValue[],
): KeyRange[] {
  let ranges = range === null ? [] : [range];
  for (const condition of conditions) {
    const allowed = rangesOf(condition, strip, params);
    if (allowed !== undefined) ranges = intersectSets(ranges, allowed);
  }
  return ranges;
}
