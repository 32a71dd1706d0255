// Runs queries on the foreign tables and on their twins, compares, and makes a query that differs smaller.

import type pg from "pg";
import { Generator } from "./generate.ts";
import { Random } from "./prng.ts";
import { isFolded, type Query, type Script, script, smaller } from "./query.ts";
import type { World } from "./world.ts";

/** What an execution ended in: its rows, each a list of texts, or an SQLSTATE. */
export type Result = { rows: (string | null)[][]; count: number | null } | {
  sqlstate: string;
  message: string;
};

const asText = { getTypeParser: () => (text: string) => text };

export async function execute(client: pg.Client, text: string): Promise<Result> {
  try {
    const { rows, rowCount } = await client.query({ text, rowMode: "array", types: asText });
    return { rows, count: rowCount };
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (code === undefined) throw error;
    return { sqlstate: code, message };
  }
}

/** What all executions ended in. An error of the setup stands for all of them. */
async function runScript(client: pg.Client, { setup, executions, teardown }: Script): Promise<Result[]> {
  const results: Result[] = [];
  for (const statement of setup) {
    const result = await execute(client, statement);
    if ("sqlstate" in result) {
      await client.query("RESET ALL; DEALLOCATE ALL");
      return [result];
    }
  }
  for (const statement of executions) results.push(await execute(client, statement));
  for (const statement of teardown) await client.query(statement);
  return results;
}

/**
 * LIKE with a nondeterministic collation, a pattern that ends in its escape character, columns of different collations:
 * errors that PostgreSQL raises when it looks at a row, so that which rows are looked at decides.
 */
const BY_CHANCE = ["0A000", "22025", "42P22"];

/** Why the two differ; null when they do not. */
function difference(query: Query, foreign: Result, local: Result): string | null {
  if ([foreign, local].some((one) => "sqlstate" in one && BY_CHANCE.includes(one.sqlstate))) return null;
  if ("sqlstate" in foreign || "sqlstate" in local) {
    const [a, b] = [foreign, local].map((one) =>
      "sqlstate" in one ? `${one.sqlstate} ${one.message}` : `${one.rows.length} rows`
    );
    return "sqlstate" in foreign && "sqlstate" in local && foreign.sqlstate === local.sqlstate
      ? null
      : `${a} instead of ${b}`;
  }
  if (foreign.rows.length !== local.rows.length) {
    return `${foreign.rows.length} rows instead of ${local.rows.length}`;
  }
  const sorted = isFolded(query) ? 0 : query.order.length;
  const key = (row: (string | null)[]) => JSON.stringify(row);
  for (let i = 0; i < local.rows.length; i++) {
    const [a, b] = [foreign.rows[i], local.rows[i]].map((row) => key(row.slice(0, sorted)));
    if (a !== b) return `row ${i + 1} has ${a} in its order instead of ${b}`;
  }
  const [a, b] = [foreign.rows, local.rows].map((rows) => rows.map(key).sort());
  const at = a.findIndex((row, i) => row !== b[i]);
  return at < 0 ? null : `row ${a[at].slice(0, 300)} instead of ${b[at].slice(0, 300)}`;
}

export interface Sessions {
  foreign: pg.Client;
  local: pg.Client;
}

/** Why the query differs between the two; null when it does not. `seed` decides on further executions' values. */
async function check(
  sessions: Sessions,
  query: Query,
  other: Parameters<typeof script>[1],
): Promise<string | null> {
  const text = script(query, other);
  const foreign = await runScript(sessions.foreign, text);
  const local = await runScript(sessions.local, text);
  if (foreign.length !== local.length) {
    return difference(query, foreign[0], local[0]) ?? `${foreign.length} results instead of ${local.length}`;
  }
  for (let i = 0; i < local.length; i++) {
    const found = difference(query, foreign[i], local[i]);
    if (found !== null) return foreign.length === 1 ? found : `execution ${i + 1}: ${found}`;
  }
  return null;
}

const MAX_ATTEMPTS = 400;

/** The smallest query near this one that still differs, as a person can run it. */
async function shrink(sessions: Sessions, query: Query, world: World, seed: number): Promise<string> {
  // The same further values for each attempt.
  const other = () => {
    const generator = new Generator(new Random(seed), world);
    return (value: Parameters<Generator["other"]>[0]) => generator.other(value);
  };
  let reason = "it differs once only";
  let attempts = 0;
  for (let progress = true; progress && attempts < MAX_ATTEMPTS;) {
    progress = false;
    for (const candidate of smaller(query)) {
      if (++attempts > MAX_ATTEMPTS) break;
      const found = await check(sessions, candidate, other());
      // What no longer runs at all is another fault.
      if (found === null || /42\w{3}/.test(found)) continue;
      [query, reason, progress] = [candidate, found, true];
      break;
    }
  }
  const last = await check(sessions, query, other());
  const { setup, executions } = script(query, other());
  const statements = [...setup, ...executions].map((statement) => `${statement};`).join("\n");
  const plan = query.prepared
    ? null
    : await execute(sessions.foreign, `EXPLAIN (VERBOSE, COSTS OFF) ${executions[0]}`);
  const lines = plan !== null && "rows" in plan ? plan.rows.map((row) => `  ${row[0]}`).join("\n") : "";
  return `${last ?? reason}\n${statements}\n${lines}`;
}

/** Runs queries `first` to `first + count - 1` of the seed. The first one that differs is thrown, made small. */
export async function runQueries(
  sessions: Sessions,
  world: World,
  seed: number,
  first: number,
  count: number,
  progress: (done: number) => void = () => {},
): Promise<void> {
  for (let number = first; number < first + count; number++) {
    const generator = new Generator(Random.of(seed, number), world);
    const query = generator.query();
    const found = await check(sessions, query, (value) => generator.other(value));
    if (found !== null) {
      const small = await shrink(sessions, query, world, seed ^ number);
      throw new Error(`seed ${seed}, query ${number}: ${found}\nmade smaller: ${small}`);
    }
    if ((number - first + 1) % 1000 === 0) progress(number - first + 1);
  }
}
