// Random transactions while another client writes the same keys: what the transaction sees, whether it may commit, and what etcd
// holds afterwards are what a small model of the isolation levels says. PostgreSQL's twin cannot stand in here: it would lock.

import assert from "node:assert/strict";
import type pg from "pg";
import type { EtcdClient } from "../helpers/etcd_client.ts";
import { execute } from "./run.ts";
import type { Random } from "./prng.ts";

const PREFIX = "o/";
const KEYS = ["a", "b", "c", "d", "e"].map((tail) => PREFIX + tail);
const LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] as const;
type Level = typeof LEVELS[number];

/** A key as etcd has it, or had it; `change` counts the changes of all keys, and is 0 where the key is not there. */
interface State {
  value: string | null;
  change: number;
}

/** What the transaction has written to a key; `seen` is the change that the first of its writes built on. */
interface Pending {
  value: string | null;
  seen: number;
  inserted: boolean;
}

export async function createOthersTable(client: pg.Client): Promise<void> {
  await client.query(
    `CREATE FOREIGN TABLE f.oth (key text COLLATE "C", value text) SERVER etcd OPTIONS (prefix '${PREFIX}');
    GRANT ALL ON f.oth TO diff_other`,
  );
}

class Model {
  readonly etcd = new Map<string, State>(KEYS.map((key) => [key, { value: null, change: 0 }]));
  #changes = 0;
  #level: Level = "READ COMMITTED";
  #snapshot: Map<string, State> | null = null;
  #pending = new Map<string, Pending>();
  /** Keys whose state the transaction has seen, and the change that it saw. */
  #read = new Map<string, number>();
  /** A DELETE of the whole range was told by its range: a key that came since may be refused, or stay. */
  #rangeDeleted = false;

  begin(level: Level): void {
    this.#level = level;
    this.#snapshot = null;
    this.#pending = new Map();
    this.#read = new Map();
    this.#rangeDeleted = false;
  }

  otherWrites(key: string, value: string | null): void {
    this.etcd.set(key, { value, change: value === null ? 0 : ++this.#changes });
  }

  /** The statement's view of etcd. */
  #view(): Map<string, State> {
    if (this.#level === "READ COMMITTED") return this.etcd;
    return this.#snapshot ??= new Map(this.etcd);
  }

  #seen(key: string): string | null {
    const pending = this.#pending.get(key);
    return pending !== undefined ? pending.value : this.#view().get(key)!.value;
  }

  #reads(keys: string[]): void {
    const view = this.#view();
    for (const key of keys) if (!this.#read.has(key)) this.#read.set(key, view.get(key)!.change);
  }

  rows(keys: string[]): [string, string][] {
    this.#reads(keys);
    return keys.flatMap((key): [string, string][] => {
      const value = this.#seen(key);
      return value === null ? [] : [[key, value]];
    });
  }

  #write(key: string, value: string | null): void {
    const before = this.#pending.get(key);
    const inserted = before?.inserted ?? this.#view().get(key)!.value === null;
    this.#pending.set(key, { value, seen: before?.seen ?? this.#view().get(key)!.change, inserted });
  }

  /** How many rows the statement changes; null where it is 23505. */
  insert(key: string, value: string): number | null {
    // The key's presence is asked of etcd as it is now; the snapshot begins with the first read.
    if (!this.#read.has(key)) this.#read.set(key, this.etcd.get(key)!.change);
    const pending = this.#pending.get(key);
    const there = pending !== undefined ? pending.value !== null : this.etcd.get(key)!.value !== null;
    if (there) return null;
    if (pending === undefined) {
      this.#pending.set(key, { value, seen: this.etcd.get(key)!.change, inserted: true });
    } else pending.value = value;
    return 1;
  }

  update(keys: string[], value: string): number {
    const rows = this.rows(keys);
    for (const [key] of rows) this.#write(key, value);
    return rows.length;
  }

  delete(keys: string[]): number {
    const rows = this.rows(keys);
    for (const [key] of rows) this.#write(key, null);
    if (keys.length > 1) this.#rangeDeleted = true;
    return rows.length;
  }

  /** What COMMIT must say: "ok", "refused", or either. */
  verdict(): "ok" | "refused" | "either" {
    let verdict: "ok" | "either" = "ok";
    for (const [key, { value, seen, inserted }] of this.#pending) {
      const now = this.etcd.get(key)!;
      if (inserted && value === null) {
        // Never there for anybody, unless what was read must hold.
        if (this.#level === "SERIALIZABLE" && now.change !== seen) return "refused";
        continue;
      }
      // An inserted key must not be there; that it was there for a while meanwhile is no conflict of the key.
      if (inserted ? now.value !== null : now.change !== seen) return "refused";
    }
    const wrote = [...this.#pending.values()].some(({ value, inserted }) => !inserted || value !== null);
    for (const [key, change] of this.#read) {
      const now = this.etcd.get(key)!;
      if (now.change === change) continue;
      if (this.#level === "SERIALIZABLE" && wrote) return "refused";
      // A statement that would have written, had there been rows, may count as writing.
      if (this.#level === "SERIALIZABLE" || this.#rangeDeleted) verdict = "either";
    }
    return verdict;
  }

  commit(): void {
    for (const [key, { value, inserted }] of this.#pending) {
      if (inserted && value === null) continue;
      this.otherWrites(key, value);
    }
  }
}

const literal = (text: string) => `'${text}'`;

/** Runs so many transactions; throws with the statements of the first that the model contradicts. */
export async function runOthers(
  session: pg.Client,
  other: EtcdClient,
  random: Random,
  seed: number,
  count: number,
): Promise<void> {
  const model = new Model();
  for (let number = 0; number < count; number++) {
    const level = random.pick(LEVELS);
    const done: string[] = [];
    const fail = (message: string): never => {
      throw new Error(`seed ${seed}, transaction ${number}: ${message}\n${done.join(";\n")}`);
    };
    const run = (statement: string) => {
      done.push(statement);
      return execute(session, statement);
    };
    const disturb = async () => {
      if (!random.chance(0.35)) return;
      const key = random.pick(KEYS);
      const value = random.chance(0.7) ? `other ${number}` : null;
      done.push(`-- another client: ${key} = ${value}`);
      if (value === null) await other.delete(key);
      else await other.put(key, value);
      model.otherWrites(key, value);
    };
    await run(`BEGIN ISOLATION LEVEL ${level}`);
    model.begin(level);
    let failed = false;
    for (let i = random.between(1, 6); i > 0 && !failed; i--) {
      if (random.chance(0.2)) await run(random.pick(["SET LOCAL ROLE diff_other", "RESET ROLE"]));
      const whole = random.chance(0.25);
      const keys = whole ? KEYS : [random.pick(KEYS)];
      const where = whole ? "" : ` WHERE key = ${literal(keys[0])}`;
      const value = `mine ${number} ${i}`;
      const kind = random.pick(["insert", "update", "delete", "select"]);
      let expected: unknown;
      let result;
      if (kind === "select") {
        expected = model.rows(keys);
        result = await run(`SELECT key, value FROM oth${where} ORDER BY key`);
      } else if (kind === "insert") {
        expected = model.insert(keys[0], value);
        result = await run(`INSERT INTO oth VALUES (${literal(keys[0])}, ${literal(value)})`);
      } else if (kind === "update") {
        expected = model.update(keys, value);
        result = await run(`UPDATE oth SET value = ${literal(value)}${where}`);
      } else {
        expected = model.delete(keys);
        result = await run(`DELETE FROM oth${where}`);
      }
      if ("sqlstate" in result) {
        // At the higher levels a conflict may be told by the statement.
        const allowed = expected === null ? ["23505", "40001"] : level === "READ COMMITTED" ? [] : ["40001"];
        if (!allowed.includes(result.sqlstate)) fail(`${result.sqlstate} ${result.message}`);
        failed = true;
      } else {
        const got = kind === "select" ? result.rows : result.count;
        if (JSON.stringify(got) !== JSON.stringify(expected)) {
          fail(`${JSON.stringify(got)} instead of ${JSON.stringify(expected)}`);
        }
        await disturb();
      }
    }
    if (failed || random.chance(0.1)) await run("ROLLBACK");
    else {
      const verdict = model.verdict();
      const result = await run("COMMIT");
      const refused = "sqlstate" in result;
      if (refused && !["40001", "23505"].includes(result.sqlstate)) {
        fail(`${result.sqlstate} ${result.message}`);
      }
      if (verdict !== "either" && refused !== (verdict === "refused")) {
        fail(`the commit was ${refused ? "refused" : "accepted"}`);
      }
      if (!refused) model.commit();
    }
    const held = await Promise.all(KEYS.map(async (key) => {
      const found = await other.get(key);
      return [key, found === null ? null : new TextDecoder().decode(found.value)];
    }));
    const expected = KEYS.map((key) => [key, model.etcd.get(key)!.value]);
    try {
      assert.deepEqual(held, expected);
    } catch {
      fail(`etcd holds ${JSON.stringify(held)} instead of ${JSON.stringify(expected)}`);
    }
  }
}
