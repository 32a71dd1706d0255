// The SQL functions by name, and the operations by which the backend runs them.

import { fromHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import type { FailedInput, FunctionInput, FunctionPageInput, Outcome, ReplyInput } from "../protocol.ts";
import { AUTH } from "./auth.ts";
import { type AnyFunction, Args, cellText, frameOf, type Turn } from "./call.ts";
import { CLUSTER } from "./cluster.ts";
import { HISTORY } from "./history.ts";
import { KV } from "./kv.ts";
import { LEASES } from "./lease.ts";
import { LOCKS } from "./lock.ts";
import { MONITOR } from "./monitor.ts";
import { TXN } from "./txn.ts";
import { WATCH } from "./watch.ts";

export const FUNCTIONS: Record<string, AnyFunction> = {
  ...KV,
  ...HISTORY,
  ...TXN,
  ...LEASES,
  ...LOCKS,
  ...CLUSTER,
  ...AUTH,
  ...MONITOR,
  ...WATCH,
};

/** As FunctionCallAnswer numbers them. */
const ROWS = ["", "rows", "keys", "bytes", "revision", "deleted", "events"];

interface State {
  input: FunctionInput;
  state: unknown;
}

function functionOf({ function: name }: FunctionInput): AnyFunction {
  if (!Object.hasOwn(FUNCTIONS, name)) throw new EtcdFdwError("XX000", `etcd_fdw has no function "${name}"`);
  return FUNCTIONS[name];
}

function outcome(turn: Turn<unknown>, input: FunctionInput): Outcome {
  if (!("ask" in turn)) {
    const { rows, warning = "" } = turn;
    return { answer: { do: "result", rows: rows.map((row) => row.map(cellText)), warning } };
  }
  const { ask, state = null } = turn;
  const kept: State = { input, state };
  return {
    answer: {
      ...{ do: "call", op: "functionReply", state: JSON.stringify(kept) },
      rows: ask.rows === undefined ? 0 : ROWS.indexOf(ask.rows),
      errors: ask.errors ? 1 : 0,
      proxy: ask.proxy ? 1 : 0,
      writes: functionOf(input).writes && !ask.readonly ? 1 : 0,
      template: ask.template ?? [],
    },
    payload: frameOf(ask),
  };
}

/** Operation "function". */
export function beginFunction(input: FunctionInput): Outcome {
  return outcome(functionOf(input).begin(new Args(input)), input);
}

function resume(text: string): State & { called: AnyFunction; args: Args } {
  const kept = JSON.parse(text) as State;
  return { ...kept, called: functionOf(kept.input), args: new Args(kept.input) };
}

/** Operation "functionReply". */
export function functionReply({ state: text }: ReplyInput, reply: Uint8Array): Outcome {
  const { input, state, called, args } = resume(text);
  return outcome(called.reply!(reply, state, args), input);
}

/** Operation "functionPage", once the backend has taken the page's rows. */
export function functionPage({ state: text, ...page }: FunctionPageInput): Outcome {
  const { input, state, called, args } = resume(text);
  if (called.page === undefined) return outcome({ rows: [] }, input);
  return outcome(called.page({ ...page, lastKey: fromHex(page.lastKey) }, state, args), input);
}

/** Operation "functionFailed". */
export function functionFailed(error: FailedInput): Outcome {
  const { input, state, called, args } = resume(error.state);
  return outcome(called.failed!(error, state, args), input);
}
