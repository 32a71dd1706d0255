// What each column shows: a field of the etcd key, by the column's name; a part of the key, by the name of a placeholder
// in key_pattern; or a field of the value read as JSON, by the column's option `json`.

import { EtcdFdwError } from "../../base/errors.ts";
import type { KeyPattern } from "./pattern.ts";
import {
  type ColumnInput,
  type Field,
  FIELDS,
  SOURCE_JSON,
  SOURCE_SEGMENT,
  SOURCE_TTL,
} from "../protocol.ts";

export interface Column extends ColumnInput {
  /** Of the etcd key; absent when the column shows something else. */
  field?: Field;
  /** Where in the JSON value. */
  path?: string[];
  /** Which placeholder of the key pattern. */
  segment?: number;
  /** What is left of the lease, in seconds. */
  ttl?: true;
}

/** Types whose values are the bytes that etcd holds, so that what equals in SQL equals in etcd. */
const BYTE_TYPES = ["text", "bytea", "character varying"];

/** Whether the column shows its bytes as they are. */
export function showsBytes(column: Column): boolean {
  return BYTE_TYPES.includes(column.type) && !column.typmod;
}

/**
 * The steps of a path such as `spec.containers.0.image`; a backslash takes the meaning from a dot. Throws EtcdFdwError
 * 22023 for an empty step.
 */
export function readJsonPath(table: string, column: string, text: string): string[] {
  const steps = [""];
  for (let i = 0; i < text.length; i++) {
    if (text[i] === ".") steps.push("");
    else steps[steps.length - 1] += text[i] === "\\" && i + 1 < text.length ? text[++i] : text[i];
  }
  if (steps.some((step) => step === "")) {
    throw new EtcdFdwError(
      "22023",
      `invalid json path "${text}" of column "${column}" of foreign table "${table}"`,
      {
        hint: "A path is names or array indexes with dots between them, as in spec.replicas.",
      },
    );
  }
  return steps;
}

/**
 * What one column shows. Throws EtcdFdwError HV007 for a name that stands for nothing; it names the column.
 */
export function readColumn(table: string, column: ColumnInput, pattern: KeyPattern | null): Column {
  const { name, options } = column;
  if (options.json !== undefined) return { ...column, path: readJsonPath(table, name, options.json) };
  const segment = pattern === null ? -1 : pattern.names.indexOf(name);
  if (segment >= 0) return { ...column, segment };
  const field = FIELDS.find((field) => field === name);
  if (field !== undefined) return { ...column, field };
  if (name === "ttl") return { ...column, ttl: true };
  throw new EtcdFdwError(
    "HV007",
    `column "${name}" of foreign table "${table}" is not a field of an etcd key`,
    {
      hint: `Columns are matched by name; the fields are ${FIELDS.join(", ")} and ttl. ` +
        "A column of another name needs its option json, or a placeholder in the table's key_pattern.",
    },
  );
}

/** Whether showing the column needs the value. */
export function needsValue(column: Column): boolean {
  return column.used && (column.field === "value" || column.path !== undefined);
}

/** A literal of PostgreSQL's text[]. */
export function arrayLiteral(steps: string[]): string {
  return `{${steps.map((step) => `"${step.replace(/["\\]/g, "\\$&")}"`).join(",")}}`;
}

/** The columns to fill: attnum, source and argument of each, and the paths that the arguments of SOURCE_JSON point at. */
export function columnMap(
  columns: Column[],
  keysOnly: boolean,
): { columns: [number, number, number][]; paths: string[] } {
  const map: [number, number, number][] = [];
  const paths: string[] = [];
  for (const column of columns) {
    // With keys_only no value is fetched: the column stays NULL, which says so better than an empty string.
    if (!column.used || keysOnly && needsValue(column)) continue;
    if (column.path !== undefined) {
      map.push([column.attnum, SOURCE_JSON, paths.length]);
      paths.push(arrayLiteral(column.path));
    } else if (column.segment !== undefined) map.push([column.attnum, SOURCE_SEGMENT, column.segment]);
    else if (column.ttl) map.push([column.attnum, SOURCE_TTL, 0]);
    else map.push([column.attnum, FIELDS.indexOf(column.field!), 0]);
  }
  return { columns: map, paths };
}
