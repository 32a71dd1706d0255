// From a comparison in the query to a condition on the key, and from conditions to the range that is asked for.
//
// A condition is exact when the keys in its range are just those that fulfil the comparison; otherwise the range is a
// superset and PostgreSQL checks each row again.

import { compareBytes, concatBytes, fromHex, toHex } from "../ipc/bytes.ts";
import { intersect, type KeyRange, prefixRange, singleKey, successor } from "../ipc/keyrange.ts";
import type { Comparison, Operand, ParamValue } from "./protocol.ts";

/** `like` keeps its pattern: it is read when the value is known. */
export type ConditionKind = "equal" | "any" | "prefix" | "like" | "<" | "<=" | ">" | ">=";

export interface Condition {
  kind: ConditionKind;
  /** Hexadecimal when known at planning time (several for "any"), otherwise the number of the param. */
  value: string | string[] | number;
}

/** More keys than this are asked for as one range around them, which PostgreSQL then checks. */
export const MAX_KEYS = 128;

export interface Recognized {
  /** Null: the comparison is NULL for every row, so no row fulfils it. Absent: every row fulfils it. */
  condition?: Condition | null;
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

const isKey = (operand: Operand) => "column" in operand && operand.column === "key";
const isValue = (operand: Operand) => !("column" in operand);

/** A list of keys; without NULLs, which equal nothing. */
function recognizeAny(operand: Operand): Recognized | null {
  if ("null" in operand) return { condition: null, exact: true };
  if ("param" in operand) return { condition: { kind: "any", value: operand.param }, exact: false };
  if (!("array" in operand)) return null;
  const value = operand.array.filter((hex) => hex !== null);
  return { condition: { kind: "any", value }, exact: new Set(value).size <= MAX_KEYS };
}

function valueOf(operand: Operand): string | number | null {
  if ("hex" in operand) return operand.hex;
  return "param" in operand ? operand.param : null;
}

/** The comparison as a condition on the key, or null when it is none that etcd can help with. */
export function recognize(comparison: Comparison | null): Recognized | null {
  if (comparison === null || comparison.collation === "nondeterministic") return null;
  let { op, left, right } = comparison;
  // No key is NULL.
  if (op === "is not null") return isKey(left) ? { exact: true } : null;
  if (isKey(right) && Object.hasOwn(COMMUTED, op)) [op, left, right] = [COMMUTED[op], right, left];
  if (!isKey(left) || !isValue(right)) return null;
  if (op === "= any") return recognizeAny(right);
  const value = valueOf(right);
  switch (op) {
    case "=":
      return value === null
        ? { condition: null, exact: true }
        : { condition: { kind: "equal", value }, exact: true };
    case "^@":
      return value === null
        ? { condition: null, exact: true }
        : { condition: { kind: "prefix", value }, exact: true };
    case "~~":
      return value === null ? { condition: null, exact: true } : recognizeLike(value);
    case "<":
    case "<=":
    case ">":
    case ">=":
      // Under another collation the order is not etcd's.
      if (comparison.collation !== "c" && comparison.collation !== "none") return null;
      return { condition: value === null ? null : { kind: op, value }, exact: true };
    default:
      return null;
  }
}

function recognizeLike(value: string | number): Recognized {
  // A pattern that is known only later may hold anything: its prefix narrows the range, the rows are checked again.
  if (typeof value === "number") return { condition: { kind: "like", value }, exact: false };
  const { literal, rest } = readLikePattern(fromHex(value));
  const kind = rest === "equal" ? "equal" : "prefix";
  return { condition: { kind, value: toHex(literal) }, exact: rest !== "other" };
}

function rangeOf(kind: Exclude<ConditionKind, "any">, value: Uint8Array, strip: Uint8Array): KeyRange {
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
function keyRanges(values: (string | null)[], strip: Uint8Array): KeyRange[] {
  const distinct = [...new Set(values.filter((hex) => hex !== null))];
  const keys = distinct.map((hex) => concatBytes(strip, fromHex(hex))).sort(compareBytes);
  if (keys.length <= MAX_KEYS) return keys.map(singleKey);
  return [{ start: keys[0], end: successor(keys[keys.length - 1]) }];
}

function rangesOf({ kind }: Condition, value: string | (string | null)[], strip: Uint8Array): KeyRange[] {
  if (Array.isArray(value)) return keyRanges(value, strip);
  return kind === "any" ? [] : [rangeOf(kind, fromHex(value), strip)];
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
    const value = typeof condition.value === "number" ? params[condition.value] : condition.value;
    if (value === undefined) continue;
    const allowed = value === null ? [] : rangesOf(condition, value, strip);
    ranges = ranges.flatMap((a) => allowed.map((b) => intersect(a, b))).filter((r) => r !== null);
  }
  return ranges.sort((a, b) => compareBytes(a.start, b.start));
}
