// IMPORT FOREIGN SCHEMA: which directories are there? Keys have no directories for etcd, only slashes; a directory is found
// by its first key, and the next one behind its end.
//
// Where directories are large, a page of one key each would find them fastest; where they are small, large pages do. So
// pages grow, and each begins behind the last directory that was seen.

import { compareBytes, decodeUtf8, encodeUtf8, fromHex, printable, toHex } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import { decodeKeys } from "../etcd/messages.ts";
import { prefixRange, successor } from "../etcd/keyrange.ts";
import { LISTING_KEYS, PAGE_GROWTH } from "../ipc/limits.ts";
import { rangeFrame } from "./scan/requests.ts";
import type { ImportInput, Outcome, ReplyInput } from "./protocol.ts";

const SLASH = 0x2f;

interface ImportState {
  /** The server's prefix and the directory, in hexadecimal. */
  base: string;
  /** Where the next page begins, in hexadecimal. */
  from: string;
  page: number;
  revision: string;
  depth: number;
  server: string;
  /** The directory, as the tables' prefix option begins. */
  directory: string;
  strip: boolean;
  value: string;
  /** Below the directory, without the last slash. */
  found: string[];
  skipped: string[];
}

const VALUE_TYPES = ["text", "bytea", "json", "jsonb"];

function wrongOption(name: string, value: string, hint: string): never {
  throw new EtcdFdwError("22023", `invalid value for option "${name}": "${value}"`, { hint });
}

function readOptions(options: Record<string, string>): Pick<ImportState, "depth" | "strip" | "value"> {
  const valid = ["depth", "strip_prefix", "value_type"];
  const unknown = Object.keys(options).find((name) => !valid.includes(name));
  if (unknown !== undefined) {
    throw new EtcdFdwError("HV00D", `invalid option "${unknown}"`, {
      hint: `Valid options in this context are: ${valid.join(", ")}.`,
    });
  }
  const { depth = "1", strip_prefix: strip = "false", value_type: value = "text" } = options;
  if (!/^[1-9]\d?$/.test(depth)) wrongOption("depth", depth, "Give a number of levels, from 1 to 99.");
  if (strip !== "true" && strip !== "false") wrongOption("strip_prefix", strip, "Give true or false.");
  if (!VALUE_TYPES.includes(value)) {
    wrongOption("value_type", value, `Give one of ${VALUE_TYPES.join(", ")}.`);
  }
  return { depth: Number(depth), strip: strip === "true", value };
}

function ask(state: ImportState): Outcome {
  const end = prefixRange(fromHex(state.base)).end;
  const rest: [string, string | null] = [state.from, end === null ? null : toHex(end)];
  if (end !== null && compareBytes(fromHex(state.from), end) >= 0) return finish(state);
  return {
    answer: { do: "call", op: "importPage", state: JSON.stringify(state) },
    payload: rangeFrame(rest, { revision: state.revision, keysOnly: true }, state.page),
  };
}

/** Operation "import". Throws EtcdFdwError HV00D or 22023 for an option. */
export function beginImport({ directory, name, server, options }: ImportInput): Outcome {
  const path = directory.endsWith("/") ? directory : directory + "/";
  const base = toHex(encodeUtf8((server.prefix ?? "") + path));
  return ask({
    base,
    from: base,
    page: 1,
    revision: "0",
    server: name,
    directory: path,
    found: [],
    skipped: [],
    ...readOptions(options),
  });
}

/** The end of the key's first `depth` segments behind `base`, with their last slash; -1 when there are fewer. */
function directoryEnd(key: Uint8Array, base: number, depth: number): number {
  let at = base;
  for (let level = 0; level < depth; level++) {
    const slash = key.indexOf(SLASH, at);
    if (slash < 0) return -1;
    at = slash + 1;
  }
  return at;
}

/** Operation "importPage". */
export function importPage({ state: text }: ReplyInput, reply: Uint8Array): Outcome {
  const state = JSON.parse(text) as ImportState;
  const { keys, more, revision } = decodeKeys(reply);
  const base = state.base.length / 2;
  let from = fromHex(state.from);
  for (const key of keys) {
    if (compareBytes(key, from) < 0) continue;
    const end = directoryEnd(key, base, state.depth);
    from = end < 0 ? successor(key) : prefixRange(key.subarray(0, end)).end!;
    if (end < 0 || end - base <= 1) continue;
    const name = key.subarray(base, end - 1);
    const asText = decodeUtf8(name);
    if (compareBytes(encodeUtf8(asText), name) !== 0 || asText.includes("\0")) {
      state.skipped.push(printable(name));
    } else state.found.push(asText);
  }
  if (!more) return finish(state);
  if (keys.length === 0) throw new EtcdFdwError("08P01", "etcd announced more keys but sent none");
  return ask({
    ...state,
    from: toHex(from),
    page: Math.min(state.page * PAGE_GROWTH, LISTING_KEYS),
    revision: state.revision === "0" ? revision : state.revision,
  });
}

const identifier = (name: string) => `"${name.replaceAll('"', '""')}"`;

/** Right whatever standard_conforming_strings says. */
function literal(text: string): string {
  const quoted = text.replaceAll("'", "''");
  return text.includes("\\") ? `E'${quoted.replaceAll("\\", "\\\\")}'` : `'${quoted}'`;
}

/** Bytes of a name that PostgreSQL keeps. */
const NAME_BYTES = 63;

/** As much of the name as fits. */
function clipped(name: string, bytes = NAME_BYTES): string {
  let [shown, size] = ["", 0];
  for (const char of name) {
    size += encodeUtf8(char).length;
    if (size > bytes) break;
    shown += char;
  }
  return shown;
}

/** A table's name for each directory: its own, unless PostgreSQL would cut it to one that is taken; then with a number. */
function tableNames(directories: string[]): string[] {
  const taken = new Set(directories.map((name) => clipped(name)));
  const used = new Set<string>();
  return directories.map((directory) => {
    let name = clipped(directory);
    for (let number = 1; used.has(name) || name !== clipped(directory) && taken.has(name); number++) {
      name = clipped(directory, NAME_BYTES - `_${number}`.length) + `_${number}`;
    }
    used.add(name);
    // Cut, PostgreSQL tells itself.
    return name === clipped(directory) ? directory : name;
  });
}

function createTable(table: string, name: string, { server, directory, strip, value }: ImportState): string {
  return `CREATE FOREIGN TABLE ${identifier(table)} (key text COLLATE "C", value ${value}, ` +
    "create_revision bigint, mod_revision bigint, version bigint, lease bigint) " +
    `SERVER ${identifier(server)} OPTIONS (prefix ${literal(`${directory}${name}/`)}` +
    `${strip ? ", strip_prefix 'true'" : ""})`;
}

function finish(state: ImportState): Outcome {
  const tables = tableNames(state.found);
  const statements = state.found.map((name, i) => createTable(tables[i], name, state));
  const renamed = state.found.flatMap((name, i) => tables[i] === name ? [] : [[name, tables[i]]]);
  return { answer: { do: "imported", statements, skipped: state.skipped, renamed } };
}
