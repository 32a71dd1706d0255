// Equality with the leading parts of a key pattern narrows the range: with '/registry/{kind}/{ns}/{name}', kind = 'pods'
// asks for the keys that begin with /registry/pods/.
//
// It only narrows: PostgreSQL checks the rows again, since a value may hold what a placeholder does not.

import { toHex } from "../../base/bytes.ts";
import { type Column, showsBytes } from "./columns.ts";
import type { Condition } from "./conditions.ts";
import type { KeyPattern } from "./pattern.ts";
import type { Operand, Qual } from "../protocol.ts";

/** The placeholder that the operand is, or -1. */
function segmentOf(operand: Operand, columns: Column[]): number {
  if (!("column" in operand)) return -1;
  const column = columns.find(({ name }) => name === operand.column);
  return column?.segment !== undefined && showsBytes(column) ? column.segment : -1;
}

/** `placeholder = value`, either way round; null when the condition is something else. */
function equality(qual: Qual, columns: Column[]): { segment: number; value: string | number } | null {
  if (qual === null || !("op" in qual) || qual.op !== "=" || qual.collation === "nondeterministic") {
    return null;
  }
  const { left, right } = qual;
  const segment = Math.max(segmentOf(left, columns), segmentOf(right, columns));
  const operand = segmentOf(left, columns) >= 0 ? right : left;
  if (segment < 0) return null;
  if ("hex" in operand) return { segment, value: operand.hex };
  return "param" in operand ? { segment, value: operand.param } : null;
}

/** What the equalities with the first placeholders make of the range, and which conditions they are. */
export function recognizeSegments(
  quals: Qual[],
  columns: Column[],
  pattern: KeyPattern,
): { condition: Condition; used: number[] } | null {
  const found = quals.map((qual) => equality(qual, columns));
  const values: (string | number)[] = [];
  const used: number[] = [];
  while (values.length < pattern.names.length) {
    const index = found.findIndex((equal) => equal?.segment === values.length);
    if (index < 0) break;
    values.push(found[index]!.value);
    used.push(index);
  }
  if (values.length === 0) return null;
  const literals = pattern.literals.slice(0, values.length + 1).map(toHex);
  const whole = values.length === pattern.names.length;
  return { condition: { kind: "segments", literals, values, ...(whole && { whole }) }, used };
}
