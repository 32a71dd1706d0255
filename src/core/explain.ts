// What EXPLAIN shows of a scan: the request as it would be sent.

import { fromHex, printable } from "../ipc/bytes.ts";
import { isSingleKey, type KeyRange } from "../ipc/keyrange.ts";
import { applyConditions, type Condition, type ConditionKind } from "./conditions.ts";
import { decodeRange, type ScanPlan } from "./plan.ts";
import { decimal, revisionFilters } from "./revisions.ts";
import type { ExplainInput, Outcome } from "./protocol.ts";

const quote = (bytes: Uint8Array) => `"${printable(bytes)}"`;

/** So many keys are named one by one. */
const NAMED_KEYS = 5;

function rangeLine(ranges: KeyRange[]): [string, string] {
  if (ranges.length === 0) return ["Etcd Request", "none, no key can match"];
  if (ranges.length > 1) {
    const named = ranges.slice(0, NAMED_KEYS).map(({ start }) => quote(start)).join(", ");
    return [
      "Etcd Keys",
      ranges.length > NAMED_KEYS ? `${named} and ${ranges.length - NAMED_KEYS} more` : named,
    ];
  }
  const [range] = ranges;
  if (isSingleKey(range)) return ["Etcd Key", quote(range.start)];
  if (range.start.length === 0 && range.end === null) return ["Etcd Range", "all keys"];
  return ["Etcd Range", `[${quote(range.start)}, ${range.end === null ? "end" : quote(range.end)})`];
}

const OPERATORS: Partial<Record<ConditionKind, string>> = { equal: "=", prefix: "^@", like: "~~" };

/** Operation "explain". */
export function explainScan(input: ExplainInput): Outcome {
  const plan = JSON.parse(input.plan) as ScanPlan;
  const strip = fromHex(plan.strip);
  const ranges = plan.never ? [] : applyConditions(decodeRange(plan), plan.conditions, strip, []);
  const revisions = plan.revisions ?? [];
  const possible = revisionFilters(revisions, []) !== null;
  const lines: [string, string][] = [rangeLine(possible ? ranges : [])];
  const late = plan.conditions.filter((c): c is Condition & { value: number } => typeof c.value === "number");
  if (ranges.length > 0 && late.length > 0) {
    const text = late.map(({ kind, value }) => `key ${OPERATORS[kind] ?? kind} ${input.params[value]}`).join(
      " AND ",
    );
    lines.push(["Etcd Condition", text]);
  }
  if (ranges.length > 0 && possible && revisions.length > 0) {
    const text = revisions.map(({ column, op, value }) =>
      `${column} ${op} ${typeof value === "string" ? decimal(value) : input.params[value]}`
    );
    lines.push(["Etcd Filter", text.join(" AND ")]);
  }
  if (ranges.length > 0 && possible) {
    if (plan.revision !== "0") lines.push(["Etcd Revision", plan.revision]);
    if (plan.serializable) lines.push(["Etcd Consistency", "serializable"]);
    if (plan.keysOnly && input.verbose) lines.push(["Etcd Keys Only", "true"]);
  }
  return { answer: { do: "explain", lines } };
}
