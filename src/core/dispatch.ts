// The one door into core: an operation and its input in, what to do next out. No state is kept between two calls.

import { EtcdFdwError } from "../base/errors.ts";
import { PROTOCOL_VERSION } from "../ipc/frame.ts";
import { readAggregates } from "./plan/aggregates.ts";
import { explainScan } from "./plan/explain.ts";
import { beginFunction, functionFailed, functionPage, functionReply } from "./functions/index.ts";
import { beginImport, importPage } from "./import.ts";
import { beginFollow, followKeys, followTable } from "./follow.ts";
import { planModify } from "./modify.ts";
import { planScan } from "./plan/plan.ts";
import type { Answer, ErrorAnswer, Outcome } from "./protocol.ts";
import { beginScan, nextPage, pageFailed, removeRanges } from "./scan/scan.ts";

// The input of each operation is JSON that only the backend writes; protocol.ts states its shape.
// deno-lint-ignore no-explicit-any -- the one place where parsed JSON gets its type
type Operation = (input: any, bytes: Uint8Array) => Outcome;

const OPERATIONS: Record<string, Operation> = {
  plan: planScan,
  begin: beginScan,
  page: nextPage,
  failed: pageFailed,
  aggregate: readAggregates,
  explain: explainScan,
  modify: planModify,
  follow: beginFollow,
  followKeys,
  followTable,
  remove: removeRanges,
  import: beginImport,
  importPage,
  function: beginFunction,
  functionReply,
  functionPage,
  functionFailed,
  about: () => ({ answer: { do: "about", protocol: PROTOCOL_VERSION } }),
};

const NOTHING = new Uint8Array(0);

/** Both engines turn this into the SQL function's row (control text, payload bytea). */
export interface Dispatched {
  control: string;
  payload: Uint8Array;
}

function errorAnswer(thrown: unknown): ErrorAnswer {
  const { sqlstate, message, detail, hint } = EtcdFdwError.from(thrown);
  return { do: "error", sqlstate, message, detail, hint };
}

/**
 * Runs one operation. Never throws: an error is an answer, so that the backend raises it outside of the engine.
 *
 * @param op One of the names in protocol.ts
 * @param text The input as JSON
 * @param bytes What goes with the input: etcd's reply for "aggregate", "importPage" and "functionReply"
 */
export function dispatch(op: string, text: string, bytes: Uint8Array): Dispatched {
  let answer: Answer;
  let payload: Uint8Array = NOTHING;
  try {
    const operation = Object.hasOwn(OPERATIONS, op) ? OPERATIONS[op] : undefined;
    if (operation === undefined) throw new EtcdFdwError("XX000", `unknown operation "${op}"`);
    const outcome = operation(JSON.parse(text), bytes);
    answer = outcome.answer;
    payload = outcome.payload ?? NOTHING;
  } catch (thrown) {
    answer = errorAnswer(thrown);
  }
  return { control: JSON.stringify(answer), payload };
}
