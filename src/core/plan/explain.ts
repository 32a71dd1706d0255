// What EXPLAIN shows of a scan: the request as it would be sent.

import { fromHex, printable } from "../../base/bytes.ts";
import { type CacheTerms, decodeCacheTerms } from "../../etcd/cached.ts";
import { isSingleKey, type KeyRange } from "../../etcd/keyrange.ts";
import { applyConditions, type Comparator, type Condition } from "./conditions.ts";
import { decodeRange, type ScanPlan } from "./plan.ts";
import { decimal, revisionFilters } from "./revisions.ts";
import { readOrder } from "../scan/scan.ts";
import type { ExplainInput, Outcome } from "../protocol.ts";

const quote = (bytes: Uint8Array) => `"${printable(bytes)}"`;

/** So many keys, or ranges, are named one by one. */
const NAMED = 5;

function list(items: string[]): string {
  const named = items.slice(0, NAMED).join(", ");
  return items.length > NAMED ? `${named} and ${items.length - NAMED} more` : named;
}

function rangeText({ start, end }: KeyRange): string {
  if (start.length === 0 && end === null) return "all keys";
  return `[${quote(start)}, ${end === null ? "end" : quote(end)})`;
}

function rangeLine(ranges: KeyRange[]): [string, string] {
  if (ranges.length === 0) return ["Etcd Request", "none, no key can match"];
  const [first] = ranges;
  if (ranges.length === 1) {
    return isSingleKey(first) ? ["Etcd Key", quote(first.start)] : ["Etcd Range", rangeText(first)];
  }
  if (ranges.every(isSingleKey)) return ["Etcd Keys", list(ranges.map(({ start }) => quote(start)))];
  return [
    "Etcd Ranges",
    list(ranges.map((range) => isSingleKey(range) ? quote(range.start) : rangeText(range))),
  ];
}

const OPERATORS: Partial<Record<Comparator, string>> = { equal: "=", prefix: "^@", like: "~~" };

/** A condition that is known only when the scan starts, as SQL; null for one that is known. */
function lateText(condition: Condition, params: string[]): string | null {
  switch (condition.kind) {
    case "never":
      return null;
    case "segments": {
      const parts = condition.literals.flatMap((literal, i) => {
        const value = condition.values[i];
        const shown = value === undefined
          ? []
          : [typeof value === "number" ? params[value] : quote(fromHex(value))];
        return literal === "" ? shown : [quote(fromHex(literal)), ...shown];
      });
      const late = condition.values.some((value) => typeof value === "number");
      return late ? `key ${condition.whole ? "=" : "^@"} ${parts.join(" || ")}` : null;
    }
    case "or": {
      const arms = condition.arms.map((arm) => arm.map((part) => lateText(part, params)));
      if (!arms.flat().some((text) => text !== null)) return null;
      return arms.map((arm) => arm.map((text) => text ?? "...").join(" AND ")).join(" OR ");
    }
    case "any":
      return typeof condition.value === "number" ? `key = ANY (${params[condition.value]})` : null;
    default: {
      const { kind, value } = condition;
      return typeof value === "number" ? `key ${OPERATORS[kind] ?? kind} ${params[value]}` : null;
    }
  }
}

/** Which keys the cache holds that may answer, and how old it may be. */
function cacheText({ start, end, maxStaleness }: CacheTerms): string {
  const range = { start, end };
  const keys = start.length > 0 && isSingleKey(range) ? quote(start) : rangeText(range);
  return maxStaleness === 0 ? keys : `${keys}, at most ${maxStaleness} ms old`;
}

/** What is asked for beside the keys. */
function requestLines(plan: ScanPlan, input: ExplainInput): [string, string][] {
  const lines: [string, string][] = [];
  const order = readOrder(input.order);
  if (input.aggregates.length > 0) {
    lines.push([
      "Etcd Aggregates",
      input.aggregates.map((name) => name === "count" ? name : `${name}(key)`).join(", "),
    ]);
    if (input.aggregates.every((name) => name === "count")) lines.push(["Etcd Count Only", "true"]);
  }
  if (order !== undefined) {
    lines.push(["Etcd Order", `${order.target} ${order.descending ? "descending" : "ascending"}`]);
  }
  if (input.limit !== "") lines.push(["Etcd Limit", input.limit]);
  if (input.offset !== "") lines.push(["Etcd Offset", input.offset]);
  const revision = plan.revision !== "0" ? plan.revision : input.revision;
  if (revision !== "0") lines.push(["Etcd Revision", revision]);
  if (plan.serializable) lines.push(["Etcd Consistency", "serializable"]);
  if (plan.cache !== undefined) lines.push(["Etcd Cache", cacheText(decodeCacheTerms(fromHex(plan.cache)))]);
  if (plan.keysOnly && input.verbose && input.aggregates.length === 0) lines.push(["Etcd Keys Only", "true"]);
  return lines;
}

/** Operation "explain". */
export function explainScan(input: ExplainInput): Outcome {
  const plan = JSON.parse(input.plan) as ScanPlan;
  const revisions = plan.revisions ?? [];
  const possible = revisionFilters(revisions, []) !== null;
  const ranges = possible ? applyConditions(decodeRange(plan), plan.conditions, fromHex(plan.strip), []) : [];
  const lines: [string, string][] = [rangeLine(ranges)];
  if (ranges.length > 0) {
    const late = plan.conditions.map((condition) => lateText(condition, input.params)).filter((t) =>
      t !== null
    );
    if (late.length > 0) lines.push(["Etcd Condition", late.join(" AND ")]);
    if (revisions.length > 0) {
      const text = revisions.map(({ column, op, value }) =>
        `${column} ${op} ${typeof value === "string" ? decimal(value) : input.params[value]}`
      );
      lines.push(["Etcd Filter", text.join(" AND ")]);
    }
    lines.push(...requestLines(plan, input));
  }
  return { answer: { do: "explain", lines } };
}
