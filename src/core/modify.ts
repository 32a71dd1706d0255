// Writing: which column becomes the key, the value, or a part of either. The backend makes the bytes of each row by this
// plan; rows do not pass through here.

import { toHex } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import { arrayLiteral, type Column, readColumn } from "./plan/columns.ts";
import { readTableOptions } from "./plan/options.ts";
import type { Field, ModifyAnswer, ModifyInput, Outcome } from "./protocol.ts";

const MAINTAINED: Field[] = ["create_revision", "mod_revision", "version"];

function checkAssigned(table: string, operation: string, columns: Column[]): void {
  const wrong = columns.find(({ used, field }) => used && field !== undefined && MAINTAINED.includes(field));
  if (wrong === undefined || operation !== "update") return;
  throw new EtcdFdwError("428C9", `column "${wrong.name}" of foreign table "${table}" can not be updated`, {
    detail: "etcd maintains it.",
  });
}

function checkKey(table: string, key: number, segments: number[]): void {
  const whole = key > 0 || segments.length > 0 && segments.every((attnum) => attnum > 0);
  if (whole) return;
  throw new EtcdFdwError(
    "55000",
    `foreign table "${table}" has no column that says under which key to insert`,
    {
      hint: segments.length > 0
        ? "Give it a column for each placeholder of its key_pattern, or a column named key."
        : "Give it a column named key.",
    },
  );
}

/** Whether the one path leads into what the other shows. */
function liesWithin(inner: Column, outer: Column): boolean {
  const [path, start] = [inner.path!, outer.path!];
  return path.length > start.length && start.every((step, i) => path[i] === step);
}

/** A field cannot be a number, say, and have fields of its own: written so, the table could not be read any more. */
function checkNested(table: string, operation: string, withPath: Column[]): void {
  if (operation === "delete") return;
  const written = ({ used }: Column) => operation === "insert" || used;
  for (const outer of withPath.filter(({ type }) => type !== "json" && type !== "jsonb")) {
    const inner = withPath.find((column) => liesWithin(column, outer) && (written(column) || written(outer)));
    if (inner === undefined) continue;
    throw new EtcdFdwError(
      "55000",
      `column "${inner.name}" of foreign table "${table}" cannot be written into the field of column "${outer.name}"`,
      {
        detail: `Its json path lies within the other's, whose type is ${outer.type}.`,
        hint: `Declare column "${outer.name}" as jsonb.`,
      },
    );
  }
}

/** Operation "modify". Throws EtcdFdwError 55000 or 428C9 for what the table's columns do not allow. */
export function planModify(input: ModifyInput): Outcome {
  const options = readTableOptions(input);
  const { pattern, range } = options;
  const columns = input.columns.map((column) => readColumn(input.table, column, pattern));
  const attnumOf = (wanted: (column: Column) => boolean) => columns.find(wanted)?.attnum ?? 0;
  const field = (name: Field) => attnumOf((column) => column.field === name);
  const segments = pattern?.names.map((_, i) => attnumOf((column) => column.segment === i)) ?? [];
  // Fields of fields come last, so that they are put into what is there; columns of one field follow each other.
  const withPath = columns.filter(({ path }) => path !== undefined)
    .map((column) => ({ ...column, literal: arrayLiteral(column.path!) }))
    .sort((a, b) =>
      a.path!.length - b.path!.length || Number(a.literal > b.literal) - Number(a.literal < b.literal)
    );
  checkAssigned(input.table, input.operation, columns);
  checkNested(input.table, input.operation, withPath);
  if (input.operation === "insert") checkKey(input.table, field("key"), segments);
  const answer: ModifyAnswer = {
    do: "modify",
    key: field("key"),
    value: field("value"),
    lease: field("lease"),
    ttl: attnumOf(({ ttl }) => ttl === true),
    create_revision: field("create_revision"),
    mod_revision: field("mod_revision"),
    version: field("version"),
    segments,
    literals: pattern?.literals.map(toHex) ?? [],
    rest: Number(pattern?.rest ?? false),
    fields: withPath.map(({ attnum }, i) => [attnum, i]),
    paths: withPath.map(({ literal }) => literal),
    strip: toHex(options.strip),
    // Nothing is at or behind 1 and before 0.
    start: range === null ? "01" : toHex(range.start),
    end: range === null ? "00" : range.end === null ? "" : toHex(range.end),
  };
  return { answer };
}
