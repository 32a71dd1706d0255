// A foreign table and a local twin: the same query must give the same rows on both.

import assert from "node:assert/strict";
import type { Database, Row } from "./database.ts";

/** The lines of EXPLAIN (COSTS OFF), trimmed; more options in front. */
export async function explain(db: Database, query: string, options = ""): Promise<string[]> {
  const rows = await db.sql(`EXPLAIN (${options}COSTS OFF, TIMING OFF, SUMMARY OFF) ${query}`);
  return rows.map((row) => (row["QUERY PLAN"] as string).trim());
}

/** One property of EXPLAIN's text, such as "Etcd Limit"; undefined when it is not there. */
export function property(lines: string[], name: string): string | undefined {
  return lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
}

/**
 * Runs the query on `table` and on `table`_twin: `$t` in it stands for the table. The rows must be equal, in order when
 * the query sorts them, otherwise as a bag. Returns those of the foreign table.
 */
export async function sameRows(db: Database, table: string, query: string): Promise<Row[]> {
  const [foreign, local] = [
    await db.sql(query.replaceAll("$t", table)),
    await db.sql(query.replaceAll("$t", `${table}_twin`)),
  ];
  const bag = (rows: Row[]) => /order by/i.test(query) ? rows : rows.map((row) => JSON.stringify(row)).sort();
  assert.deepEqual(bag(foreign), bag(local), query);
  return foreign;
}
