// The keys in etcd, foreign tables over them in schema f, and local twins of these in schema l. The twins are filled from
// what etcd says to another client, never through the foreign tables.

import type pg from "pg";
import type { KeyValue } from "../helpers/etcd_client.ts";
import type { EtcdCluster } from "../helpers/etcd.ts";
import {
  BINARY_PREFIX,
  binaryKeys,
  binaryValue,
  fromBinary,
  history,
  neighbours,
  TEXT_PREFIX,
  textKeys,
  textValue,
  toBinary,
  utf8,
} from "./keys.ts";
import type { Random } from "./prng.ts";

export const PATTERN_PREFIX = "p/";
export const JSON_PREFIX = "j/";

export interface TableInfo {
  name: string;
  /** Of the key column. */
  keyType: "text" | "bytea" | null;
  valueType: "text" | "bytea" | null;
  /** Further columns of type text and int. */
  texts: string[];
  numbers: string[];
  /** Further columns, with literals to compare them with that mean the same in every session. */
  typed: Record<string, string[]>;
  /** As the key column shows them: text, or hexadecimal. */
  keys: string[];
}

export interface World {
  tables: TableInfo[];
  /** Of the last write. */
  revision: number;
}

const hex = (binary: string) =>
  Array.from(binary, (ch) => ch.charCodeAt(0).toString(16).padStart(2, "0")).join("");
const decoder = new TextDecoder("utf-8", { fatal: true });
const textOf = (binary: string) => decoder.decode(fromBinary(binary));

function patternKeys(random: Random): string[] {
  const word = () => random.pick(["a", "b", "A", "ab", "é", "%", "a-b", "x_y", ""]);
  const keys = new Set<string>(["p/a", "p/a/b", "p//x-y", "p/a/-", "p/a/b-", "p/a/b-c/d", "p/a/b-c-d"]);
  while (keys.size < 60) keys.add(`p/${word()}/${word()}-${word()}${random.chance(0.2) ? "/" + word() : ""}`);
  return [...keys];
}

const DAYS = ["2026-05-06", "2026-06-05", "1999-12-31", "2024-02-29", "0099-01-02"];
const LONGS = ["1 day", "-1 mons +2 days -03:00:00", "1 year 2 mons", "-00:00:01.5", "01:02:03"];

function jsonValue(random: Random): string {
  const value: Record<string, unknown> = {};
  if (random.chance(0.8)) value.n = random.pick([0, 1, -5, 42, null, 100]);
  if (random.chance(0.8)) value.s = random.pick([{ t: "a" }, { t: "é" }, { t: null }, {}, "none", [1]]);
  if (random.chance(0.3)) value.b = random.chance(0.5);
  if (random.chance(0.7)) value.day = random.pick(DAYS);
  if (random.chance(0.7)) {
    value.at = random.pick(DAYS) + random.pick([" 01:02:03.456+00", " 23:59:59-07", "T00:00:00Z"]);
  }
  if (random.chance(0.7)) value.long = random.pick(LONGS);
  if (random.chance(0.7)) value.x = random.pick([0.1, -1.5, 0.30000000000000004, 1e-7, 1234567.123456789]);
  return JSON.stringify(value);
}

async function write(etcd: EtcdCluster, random: Random): Promise<void> {
  const text = textKeys(random, 260).map((key) => utf8(TEXT_PREFIX + key));
  const binary = binaryKeys(random, 120).map((key) => utf8(BINARY_PREFIX) + key);
  const pattern = patternKeys(random).map(utf8);
  const json = Array.from({ length: 30 }, (_, i) => `${JSON_PREFIX}${i}`);
  for (const key of neighbours()) await etcd.put(fromBinary(key), "neighbour");
  const lease = (await etcd.ctl("lease", "grant", "86400")).split(" ")[1];
  const values: [string[], () => string][] = [
    [text, () => utf8(textValue(random))],
    [binary, () => binaryValue(random)],
    [pattern, () => utf8(textValue(random))],
    [json, () => utf8(jsonValue(random))],
  ];
  for (const [keys, value] of values) {
    for (const step of history(random, keys, value)) {
      if ("drop" in step) await etcd.delete(fromBinary(step.drop));
      else await etcd.putMany(step.puts.map((put) => [fromBinary(put.key), fromBinary(put.value)] as const));
    }
  }
  // etcdctl cannot be given every byte; the leases of some plain keys will do.
  for (const key of ["a", "b", "key", "Key"]) {
    await etcd.ctl("put", `--lease=${lease}`, "--", TEXT_PREFIX + key, "leased");
  }
}

interface TwinColumn {
  name: string;
  /** Its declaration in both tables. */
  type: string;
  options?: string;
  /** Of the twin's row, as a parameter of this type takes it. */
  from: (kv: KeyValue) => unknown;
}

const bytes = (value: Uint8Array) => "\\x" + hex(toBinary(value));
const REVISIONS: TwinColumn[] = [
  { name: "create_revision", type: "bigint", from: (kv) => String(kv.createRevision) },
  { name: "mod_revision", type: "bigint", from: (kv) => String(kv.modRevision) },
  { name: "version", type: "bigint", from: (kv) => String(kv.version) },
  { name: "lease", type: "bigint", from: (kv) => String(kv.lease) },
];

async function createPair(
  client: pg.Client,
  name: string,
  options: string,
  columns: TwinColumn[],
  kvs: KeyValue[],
): Promise<void> {
  const declared = (withOptions: boolean) =>
    columns.map((column) => `${column.name} ${withOptions ? declare(column) : column.type}`).join(", ");
  await client.query(`CREATE FOREIGN TABLE f.${name} (${declared(true)}) SERVER etcd OPTIONS (${options});
    CREATE TABLE l.${name} (${declared(false)})`);
  const places = columns.map((_, i) => `$${i + 1}`).join(", ");
  for (const kv of kvs) {
    await client.query(`INSERT INTO l.${name} VALUES (${places})`, columns.map(({ from }) => from(kv)));
  }
  await client.query(`ANALYZE f.${name}; ANALYZE l.${name}`);
}

/** A column's options stand between its type and its collation. */
function declare({ type, options }: TwinColumn): string {
  if (!options) return type;
  const [base, collation] = type.split(" COLLATE ");
  return `${base} OPTIONS (${options})${collation ? ` COLLATE ${collation}` : ""}`;
}

/** Writes everything. The schemas f and l, a server `etcd` and the collation `ci` are made too. */
export async function createWorld(client: pg.Client, etcd: EtcdCluster, random: Random): Promise<World> {
  await write(etcd, random);
  await client.query(`CREATE SCHEMA f; CREATE SCHEMA l;
    CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr '${etcd.endpoints[0]}');
    CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`);
  const text = await etcd.client.list(TEXT_PREFIX);
  const binary = await etcd.client.list(BINARY_PREFIX);
  const quoted = (prefix: string) => `prefix E'${prefix.replaceAll("\\", "\\\\")}'`;
  const whole = (kv: KeyValue) => textOf(toBinary(kv.key));
  const value: TwinColumn = { name: "value", type: "text", from: (kv) => textOf(toBinary(kv.value)) };
  const stripped = (kv: KeyValue) => whole(kv).slice(TEXT_PREFIX.length);
  const key = (collation: string, from: (kv: KeyValue) => unknown): TwinColumn => ({
    name: "key",
    type: `text COLLATE "${collation}"`,
    from,
  });
  const textTable = async (name: string, options: string, column: TwinColumn): Promise<TableInfo> => {
    await createPair(client, name, quoted(TEXT_PREFIX) + options, [column, value, ...REVISIONS], text);
    return {
      name,
      keyType: "text",
      valueType: "text",
      texts: [],
      numbers: [],
      typed: {},
      keys: text.map((kv) => column.from(kv) as string),
    };
  };
  const tables = [
    await textTable("c", "", key("C", whole)),
    await textTable("s", ", strip_prefix 'true'", key("C", stripped)),
    await textTable("u", ", strip_prefix 'true'", key("und-x-icu", stripped)),
    await textTable("d", "", key("default", whole)),
  ];
  const cut = (kv: KeyValue) => bytes(kv.key.slice(BINARY_PREFIX.length));
  await createPair(client, "b", quoted(BINARY_PREFIX) + ", strip_prefix 'true'", [
    { name: "key", type: "bytea", from: cut },
    { name: "value", type: "bytea", from: (kv) => bytes(kv.value) },
    ...REVISIONS,
  ], binary);
  tables.push({
    ...{ name: "b", keyType: "bytea", valueType: "bytea", texts: [], numbers: [], typed: {} },
    keys: binary.map((kv) => cut(kv).slice(2)),
  });
  tables.push(await patternTable(client, etcd, value), await jsonTable(client, etcd, value));
  await outerTable(client, random, tables);
  return { tables, revision: Number(await etcd.revision()) };
}

async function patternTable(client: pg.Client, etcd: EtcdCluster, value: TwinColumn): Promise<TableInfo> {
  // As docs/options.md says: no slash in a placeholder but the starred one, as few characters as will do.
  const pattern = /^p\/([^/]+?)\/([^/]+?)-(.+)$/s;
  const part = (index: number) => (kv: KeyValue) => pattern.exec(textOf(toBinary(kv.key)))![index];
  const kvs = (await etcd.client.list(PATTERN_PREFIX)).filter((kv) => pattern.test(textOf(toBinary(kv.key))));
  await createPair(client, "p", "key_pattern 'p/{x}/{y}-{z*}'", [
    ...["x", "y", "z"].map((name, i) => ({
      name,
      type: i === 1 ? "text" : 'text COLLATE "C"',
      from: part(i + 1),
    })),
    value,
    { name: "key", type: 'text COLLATE "C"', from: (kv) => textOf(toBinary(kv.key)) },
    ...REVISIONS,
  ], kvs);
  return {
    ...{ name: "p", keyType: "text", valueType: "text", texts: ["x", "y", "z"], numbers: [], typed: {} },
    keys: kvs.map((kv) => textOf(toBinary(kv.key))),
  };
}

async function jsonTable(client: pg.Client, etcd: EtcdCluster, value: TwinColumn): Promise<TableInfo> {
  const field = (...path: string[]) => (kv: KeyValue) => {
    let at = JSON.parse(textOf(toBinary(kv.value)));
    for (const name of path) {
      at = at !== null && typeof at === "object" && !Array.isArray(at) ? at[name] : undefined;
    }
    return at === undefined || at === null ? null : typeof at === "object" ? JSON.stringify(at) : String(at);
  };
  const kvs = await etcd.client.list(JSON_PREFIX);
  await createPair(client, "j", `prefix '${JSON_PREFIX}'`, [
    { name: "key", type: 'text COLLATE "C"', from: (kv) => textOf(toBinary(kv.key)) },
    { name: "n", type: "int", options: "json 'n'", from: field("n") },
    { name: "t", type: 'text COLLATE "C"', options: "json 's.t'", from: field("s", "t") },
    { name: "day", type: "date", options: "json 'day'", from: field("day") },
    { name: "at", type: "timestamptz", options: "json 'at'", from: field("at") },
    { name: "long", type: "interval", options: "json 'long'", from: field("long") },
    { name: "x", type: "float8", options: "json 'x'", from: field("x") },
    value,
    ...REVISIONS,
  ], kvs);
  return {
    ...{ name: "j", keyType: "text", valueType: "text", texts: ["t"], numbers: ["n"] },
    typed: {
      day: DAYS.map((day) => `'${day}'::date`),
      at: DAYS.map((day) => `'${day} 01:02:03.456+00'::timestamptz`),
      long: ["make_interval(days => 1)", "make_interval(months => -1, days => 2, hours => -3)"],
      x: ["0.1", "0.30000000000000004", "-1.5"],
    },
    keys: kvs.map((kv) => textOf(toBinary(kv.key))),
  };
}

/** A small local table to join with: keys of each table, some twice, some missing, NULL. */
async function outerTable(client: pg.Client, random: Random, tables: TableInfo[]): Promise<void> {
  await client.query("CREATE TABLE few (k text, kb bytea, n int)");
  let n = 0;
  for (const { keys, keyType } of tables) {
    const picked = random.list(6, () => random.pick(keys));
    for (const key of [...picked, picked[0], null]) {
      const text = key === null || keyType === "bytea" ? null : key;
      const binary = key === null ? null : keyType === "bytea" ? `\\x${key}` : bytes(fromBinary(utf8(key)));
      await client.query("INSERT INTO few VALUES ($1, $2, $3)", [text, binary, n++ % 9 === 0 ? null : n]);
    }
  }
  await client.query("INSERT INTO few VALUES ('', '', -1), ('missing', 'missing', -2); ANALYZE few");
}
