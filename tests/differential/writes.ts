// Random writes on a foreign table and on a local twin, in and out of transactions with savepoints: after every statement both
// hold the same rows, and both have said the same.

import type pg from "pg";
import { execute, type Result, type Sessions } from "./run.ts";
import { HOSTILE } from "./generate.ts";
import type { Random } from "./prng.ts";

export const WRITE_PREFIX = "w/";
const JSON_PREFIX = "wj/";

const KEYS = ["a", "b", "c", "A", "ab", "a/b", "%", "_", "\\", "é", "日", "'", "", "zz", "0", "10", "2"].map((
  tail,
) => WRITE_PREFIX + tail);

const literal = (text: string) => `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;

/** The tables: made in schema f over etcd, in schema l with a primary key in its place. */
export async function createWriteTables(client: pg.Client): Promise<void> {
  await client.query(
    `CREATE FOREIGN TABLE f.wr (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '${WRITE_PREFIX}');
    CREATE TABLE l.wr (key text COLLATE "C" PRIMARY KEY, value text);
    CREATE TABLE f.log (key text COLLATE "C", value text); CREATE TABLE l.log (key text COLLATE "C", value text);
    CREATE FOREIGN TABLE f.wj (key text COLLATE "C", d date OPTIONS (json 'd'), long interval OPTIONS (json 'a.long'),
      x float8 OPTIONS (json 'a.x'), at timestamptz OPTIONS (json 'at')) SERVER etcd OPTIONS (prefix '${JSON_PREFIX}');
    CREATE TABLE l.wj (key text COLLATE "C" PRIMARY KEY, d date, long interval, x float8, at timestamptz);
    CREATE ROLE diff_other; CREATE ROLE diff_owner;
    GRANT USAGE ON FOREIGN SERVER etcd TO diff_other, diff_owner;
    GRANT USAGE ON SCHEMA f, l TO diff_other, diff_owner;
    GRANT ALL ON ALL TABLES IN SCHEMA f, l TO diff_other, diff_owner`,
  );
  for (const schema of ["f", "l"]) {
    await client.query(
      `CREATE FUNCTION ${schema}.definer(k text, v text) RETURNS bigint
      LANGUAGE sql SECURITY DEFINER SET search_path = ${schema}, pg_catalog AS $$
        DELETE FROM wr WHERE key = k; INSERT INTO wr VALUES (k, v); SELECT count(*) FROM wr $$;
    ALTER FUNCTION ${schema}.definer OWNER TO diff_owner`,
    );
  }
}

class Writer {
  #depth = -1;

  constructor(private readonly random: Random) {}

  #key = () => literal(this.random.pick(KEYS));
  #value = () => literal(this.random.pick(["", "1", "2", "x", "same", "é", "v".repeat(50)]));

  #where(): string {
    const random = this.random;
    return random.weighted<() => string>([
      [5, () => `key = ${this.#key()}`],
      [2, () => `key ${random.pick(["<", ">=", ">"])} ${this.#key()}`],
      [2, () => `key LIKE ${literal(`${WRITE_PREFIX}${random.pick(["a", "", "\\%", "_"])}%`)}`],
      [2, () => `key IN (${this.#key()}, ${this.#key()})`],
      [2, () => `value = ${this.#value()}`],
      [1, () => `key > ${this.#key()} AND value <> ${this.#value()}`],
      [1, () => `key = ${this.#key()} OR value = ${this.#value()}`],
      [0.5, () => "true"],
    ])();
  }

  #returning = () => this.random.chance(0.25) ? " RETURNING key, value" : "";

  #insert(): string {
    const random = this.random;
    const rows = random.list(random.between(1, 4), () => `(${this.#key()}, ${this.#value()})`).join(", ");
    const conflict = random.chance(0.4) ? " ON CONFLICT DO NOTHING" : "";
    const source = random.chance(0.2)
      ? `SELECT key || ${
        literal(random.pick(["x", "/", "é"]))
      }, value FROM wr WHERE ${this.#where()} ORDER BY key`
      : `VALUES ${rows}`;
    return `INSERT INTO wr ${source}${conflict}${this.#returning()}`;
  }

  #update(): string {
    const random = this.random;
    // One row at a time: in which order rows are renamed decides which of them collide.
    if (random.chance(0.25)) {
      return `UPDATE wr SET key = ${this.#key()} WHERE key = ${this.#key()}${this.#returning()}`;
    }
    const value = random.pick([
      this.#value(),
      "value || '+'",
      "upper(value)",
      "(SELECT count(*)::text FROM wr)",
      "left(value, 20)",
    ]);
    return `UPDATE wr SET value = ${value} WHERE ${this.#where()}${this.#returning()}`;
  }

  #control(): string {
    const random = this.random;
    if (this.#depth < 0) {
      this.#depth = 0;
      return `BEGIN ISOLATION LEVEL ${random.pick(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])}`;
    }
    const choice = random.weighted(
      [[3, "savepoint"], [2, "rollback to"], [1.5, "release"], [1.2, "commit"], [1, "rollback"]] as const,
    );
    if (choice === "savepoint" || this.#depth === 0 && (choice === "rollback to" || choice === "release")) {
      return `SAVEPOINT s${++this.#depth}`;
    }
    if (choice === "commit" || choice === "rollback") {
      this.#depth = -1;
      return choice.toUpperCase();
    }
    const level = random.between(1, this.#depth);
    this.#depth = choice === "release" ? level - 1 : level;
    return `${choice.toUpperCase()} s${level}`;
  }

  /** After an error in a transaction: how it goes on. */
  recover(): string[] {
    if (this.#depth < 0) return [];
    if (this.#depth > 0 && this.random.chance(0.7)) return [`ROLLBACK TO s${this.#depth}`];
    this.#depth = -1;
    return ["ROLLBACK"];
  }

  /** What ends the transaction that is open. */
  end(): string[] {
    if (this.#depth < 0) return [];
    this.#depth = -1;
    return ["COMMIT"];
  }

  /** A change whose rows go on to something else in the same statement. */
  #changing(): string {
    const random = this.random;
    const where = this.#where();
    const change = random.chance(0.5)
      ? `DELETE FROM wr WHERE ${where} RETURNING key, value`
      : `UPDATE wr SET value = left(value || '~', 30) WHERE ${where} RETURNING key, value`;
    return `WITH changed AS (${change}) ${
      random.pick([
        "INSERT INTO log SELECT key, value FROM changed",
        "INSERT INTO log SELECT key, value FROM changed RETURNING key, value",
        "SELECT key, value FROM changed",
        "SELECT c.key, l.value FROM changed c LEFT JOIN log l USING (key)",
        "DELETE FROM log USING changed c WHERE c.key = log.key",
      ])
    }`;
  }

  /** A change of a table whose values are documents with dates, intervals and floats. */
  #document(): string {
    const random = this.random;
    const key = () => literal(JSON_PREFIX + random.pick(["a", "b", "c", "d"]));
    const fields: Record<string, () => string> = {
      d: () => random.pick(["'2026-05-06'::date", "'1999-12-31'::date", "d + 1", "NULL"]),
      long: () => random.pick(["make_interval(months => -1, days => 2, hours => -3)", "-long", "NULL"]),
      x: () => random.pick(["0.1", "0.30000000000000004", "x / 3", "NULL"]),
      at: () =>
        random.pick([
          "'2026-05-06 07:08:09.123456+03:30'::timestamptz",
          "at + make_interval(hours => 1)",
          "NULL",
        ]),
    };
    const names = Object.keys(fields).filter(() => random.chance(0.5));
    // A new row has no columns to take values from.
    const fresh = (name: string) => {
      const value = fields[name]();
      return value === "NULL" || /^'|^make|^\d/.test(value) ? value : "NULL";
    };
    const returning = random.chance(0.3) ? " RETURNING *" : "";
    if (names.length === 0) return `DELETE FROM wj WHERE key = ${key()}${returning}`;
    return random.chance(0.5)
      ? `INSERT INTO wj (key, ${names.join(", ")}) VALUES (${key()}, ${names.map(fresh).join(", ")})${
        random.chance(0.5) ? " ON CONFLICT DO NOTHING" : ""
      }${returning}`
      : `UPDATE wj SET ${names.map((name) => `${name} = ${fields[name]()}`).join(", ")} WHERE key ${
        random.pick(["=", ">="])
      } ${key()}${returning}`;
  }

  statement(): string {
    return this.random.weighted<() => string>([
      [1.5, () => this.#changing()],
      [2, () => this.#document()],
      [0.7, () => `SET ${this.random.pick(HOSTILE)}`],
      [0.2, () => "RESET ALL"],
      [0.6, () => "SET ROLE diff_other"],
      [0.6, () => "RESET ROLE"],
      [0.8, () => `SELECT definer(${this.#key()}, ${this.#value()})`],
      [4, () => this.#insert()],
      [4, () => this.#update()],
      [2, () => `DELETE FROM wr WHERE ${this.#where()}${this.#returning()}`],
      [0.1, () => "TRUNCATE wr"],
      [3, () => this.#control()],
    ])();
  }
}

const CONTENT = "SELECT key, value FROM wr ORDER BY key";
const CHECKS = [
  "SELECT key FROM wr ORDER BY key DESC LIMIT 3",
  "SELECT count(*), min(key), max(key) FROM wr",
  "SELECT key, value FROM wr ORDER BY value, key LIMIT 4 OFFSET 1",
  "SELECT count(*) FROM wr a JOIN wr b USING (value)",
  "SELECT key, value FROM log ORDER BY key, value",
  "SELECT key, d, long, x, at FROM wj ORDER BY key",
  "SELECT key, (SELECT string_agg(b.key, ',') FROM (SELECT key FROM wr ORDER BY key LIMIT length(a.value)) b) FROM wr a",
];

function shown(result: Result): string {
  if ("sqlstate" in result) return result.sqlstate;
  return `${result.count} ${JSON.stringify(result.rows.map((row) => JSON.stringify(row)).sort())}`;
}

/** Runs so many statements; throws with all of the present transaction's when the two differ. */
export async function runWrites(
  sessions: Sessions,
  random: Random,
  seed: number,
  count: number,
): Promise<void> {
  const writer = new Writer(random);
  let done: string[] = [];
  const both = async (statement: string): Promise<Result> => {
    done.push(statement);
    const foreign = await execute(sessions.foreign, statement);
    const local = await execute(sessions.local, statement);
    if (shown(foreign) !== shown(local)) {
      throw new Error(
        `seed ${seed}: ${shown(foreign)} instead of ${shown(local)} from the last of\n${done.join(";\n")}`,
      );
    }
    return local;
  };
  const compare = async () => {
    await both(CONTENT);
    if (random.chance(0.5)) await both(random.pick(CHECKS));
    done = done.filter((statement) => statement !== CONTENT && !CHECKS.includes(statement));
  };
  for (let i = 0; i < count; i++) {
    const statement = writer.statement();
    const result = await both(statement);
    if ("sqlstate" in result) { for (const one of writer.recover()) await both(one); }
    await compare();
    if (/^(COMMIT|ROLLBACK)$/.test(statement)) done = [];
  }
  for (const one of writer.end()) await both(one);
  await compare();
}
