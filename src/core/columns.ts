// Which field of an etcd key each column shows: by name, in any order and subset.

import { EtcdFdwError } from "../ipc/errors.ts";
import { type ColumnInput, type Field, FIELDS } from "./protocol.ts";

const TYPES: Record<Field, string[]> = {
  key: ["text", "bytea"],
  value: ["text", "bytea"],
  create_revision: ["bigint"],
  mod_revision: ["bigint"],
  version: ["bigint"],
  lease: ["bigint"],
};

/**
 * The field of one column. Throws EtcdFdwError HV007 for a name that etcd has no field for, HV004 for a type that the
 * field cannot have; both name the column.
 */
export function fieldOf(table: string, column: ColumnInput): Field {
  const field = FIELDS.find((name) => name === column.name);
  if (field === undefined) {
    throw new EtcdFdwError(
      "HV007",
      `column "${column.name}" of foreign table "${table}" is not a field of an etcd key`,
      {
        hint: `Columns are matched by name; the fields are ${FIELDS.join(", ")}.`,
      },
    );
  }
  if (!TYPES[field].includes(column.type)) {
    throw new EtcdFdwError(
      "HV004",
      `column "${column.name}" of foreign table "${table}" cannot have type ${column.type}`,
      {
        hint: `Declare it as ${TYPES[field].join(" or ")}.`,
      },
    );
  }
  return field;
}

/** The columns to fill, as pairs of attnum and index into FIELDS. Checks every column, asked for or not. */
export function columnMap(table: string, columns: ColumnInput[], keysOnly: boolean): [number, number][] {
  const map: [number, number][] = [];
  for (const column of columns) {
    const field = fieldOf(table, column);
    // With keys_only no value is fetched: the column stays NULL, which says so better than an empty string.
    if (column.used && !(keysOnly && field === "value")) map.push([column.attnum, FIELDS.indexOf(field)]);
  }
  return map;
}
