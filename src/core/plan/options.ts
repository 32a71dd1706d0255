// The table's options as core needs them. The backend has validated each by itself (src/backend/server/option.c); here they get
// their meaning.

import { encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { ALL_KEYS, intersect, type KeyRange, prefixRange, singleKey } from "../../etcd/keyrange.ts";
import { MAX_REQUEST_BYTES, MAX_TXN_OPS } from "../../ipc/limits.ts";
import type { Limits } from "../../etcd/batches.ts";
import type { CacheTerms } from "../../etcd/cached.ts";
import type { PlanInput } from "../protocol.ts";
import { type KeyPattern, readKeyPattern } from "./pattern.ts";

export interface TableOptions {
  /** The keys that the table shows; null when the options leave none. */
  range: KeyRange | null;
  /** What the key column leaves out, and what a key in a condition gets in front; empty without strip_prefix. */
  strip: Uint8Array;
  pattern: KeyPattern | null;
  /** A key that does not match the pattern is an error. */
  strict: boolean;
  keysOnly: boolean;
  /** Decimal; "0" reads the latest. */
  revision: string;
  serializable: boolean;
  /** The cache that may answer; null for none. */
  cache: CacheTerms | null;
  limits: Limits;
}

/** In the options `key` and `range_end`, `\0` stands for the byte 0, which SQL text cannot hold. */
function keyBytes(text: string): Uint8Array {
  return text === "\\0" ? Uint8Array.of(0) : encodeUtf8(text);
}

function keyRangeOption(options: Record<string, string>): KeyRange {
  if (options.key === undefined) return ALL_KEYS;
  const start = keyBytes(options.key);
  if (options.range_end === undefined) return singleKey(start);
  const end = keyBytes(options.range_end);
  return { start, end: end.length === 1 && end[0] === 0 ? null : end };
}

/** How often a cache is compared with etcd unless an option says otherwise, in seconds. */
const CACHE_VERIFY = 600;

/** What a table shows is cached as a whole, unless that is a state of the past. */
function readCacheTerms(
  range: KeyRange | null,
  server: Record<string, string>,
  options: Record<string, string>,
): CacheTerms | null {
  const isPast = (options.revision ?? "0") !== "0";
  if (range === null || isPast || (options.cache ?? server.cache) !== "true") return null;
  return {
    ...range,
    maxStaleness: options.consistency === "s"
      ? Number(options.max_staleness ?? server.max_staleness ?? 0)
      : 0,
    verify: Number(options.cache_verify ?? server.cache_verify ?? CACHE_VERIFY),
  };
}

/** Throws EtcdFdwError 22023 for a combination that has no meaning. */
export function readTableOptions(
  { table, server, options }: Pick<PlanInput, "table" | "server" | "options">,
): TableOptions {
  const prefix = encodeUtf8((server.prefix ?? "") + (options.prefix ?? ""));
  const byKey = keyRangeOption(options);
  if (byKey.end !== null && intersect(byKey, ALL_KEYS) === null) {
    throw new EtcdFdwError("22023", `range_end of foreign table "${table}" does not sort after its key`, {
      hint: "A range holds the keys from key up to, but not including, range_end.",
    });
  }
  const pattern = options.key_pattern === undefined ? null : readKeyPattern(table, options.key_pattern);
  const range = intersect(prefixRange(prefix), byKey);
  const shown = range === null || pattern === null
    ? range
    : intersect(range, prefixRange(pattern.literals[0]));
  return {
    range: shown,
    strip: options.strip_prefix === "true" ? prefix : new Uint8Array(0),
    pattern,
    strict: options.key_mismatch === "error",
    keysOnly: options.keys_only === "true",
    revision: options.revision ?? "0",
    serializable: options.consistency === "s",
    cache: readCacheTerms(shown, server, options),
    limits: {
      maxTxnOps: Number(server.max_txn_ops ?? MAX_TXN_OPS),
      maxRequestBytes: Number(server.max_request_bytes ?? MAX_REQUEST_BYTES),
    },
  };
}
