// What tests of mirrors look at.

import type { Database } from "./database.ts";
import { waitFor } from "./wait.ts";

export function mirrorsOf(db: Database) {
  const seen = async (name: string) =>
    (await db.sql("SELECT * FROM etcd_fdw_mirrors WHERE name = $1", [name]))[0];
  const inState = (name: string, wanted: string, timeoutMs = 10_000) =>
    waitFor(`${name} to be ${wanted}`, async () => {
      const row = await seen(name);
      return row?.state === wanted ? row : Promise.reject(new Error(JSON.stringify(row)));
    }, { timeoutMs });
  /** Waits until both queries show the same rows. */
  const same = (one: string, other: string, timeoutMs = 10_000) =>
    waitFor(`${one} to be ${other}`, async () => {
      const [{ differ }] = await db.sql(`SELECT count(*)::int AS differ FROM (
      (TABLE (${one}) EXCEPT ALL TABLE (${other})) UNION ALL (TABLE (${other}) EXCEPT ALL TABLE (${one}))) d`
        .replaceAll("TABLE (", "("));
      return differ === 0;
    }, { timeoutMs });
  const rowsOf = (query: string, wanted: unknown[][], timeoutMs = 10_000) =>
    waitFor(`${query} to show ${JSON.stringify(wanted)}`, async () => {
      const rows = (await db.sql(query)).map((row) => Object.values(row));
      if (JSON.stringify(rows) === JSON.stringify(wanted)) return true;
      throw new Error(
        `${JSON.stringify(rows)}; ${
          JSON.stringify(await db.sql("SELECT state, error FROM etcd_fdw_mirrors"))
        }`,
      );
    }, { timeoutMs });
  const endAll = () => db.sql("SELECT etcd_unmirror(name) FROM etcd_fdw_mirrors");
  return { seen, inState, same, rowsOf, endAll };
}
