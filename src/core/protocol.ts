// What the C backend and core say to each other through `dispatch`: the operations, their input and their answers, as
// JSON. Numbers of 64 bits are decimal strings, bytes are hexadecimal. src/backend/dispatch.c and its callers are the
// other side; nothing else may call.

/** A column of the foreign table. */
export interface ColumnInput {
  attnum: number;
  name: string;
  /** As format_type() prints it, without the type modifier. */
  type: string;
  /** Whether the query needs it. */
  used: boolean;
}

/** A side of a comparison that the backend recognized. A param is an expression that is evaluated when the scan starts. */
export type Operand =
  | { column: string }
  | { hex: string; type: string }
  | { array: (string | null)[]; type: string }
  | { null: true; type: string }
  | { param: number; type: string };

/** How the comparison's collation orders and compares text; "none" for types without one. */
export type Collation = "c" | "deterministic" | "nondeterministic" | "none";

/** The value of a param: hexadecimal, null for SQL's NULL, or an array of these. */
export type ParamValue = string | null | (string | null)[];

/** A condition `left op right` with a built-in operator, "= any" (right is an array) or "is not null" (right counts not). */
export interface Comparison {
  op: string;
  collation: Collation;
  left: Operand;
  right: Operand;
}

export interface PlanInput {
  table: string;
  /** Server and table options by name, booleans as "true" and "false". Never user mapping options. */
  server: Record<string, string>;
  options: Record<string, string>;
  columns: ColumnInput[];
  /** One for each condition of the scan; null where the backend did not recognize the shape. */
  quals: (Comparison | null)[];
}

/** Fields of an etcd KeyValue, in the order in which page.c numbers them. */
export const FIELDS = ["key", "value", "create_revision", "mod_revision", "version", "lease"] as const;
export type Field = typeof FIELDS[number];

export interface PlanAnswer {
  do: "plan";
  /** Opaque to the backend; handed back in begin and explain. */
  plan: string;
  /** Indexes of the conditions that the request fulfils exactly, so that nobody need check them again. */
  exact: number[];
  /** For each column that is filled: its attnum and the index into FIELDS. */
  columns: [number, number][];
  /** Bytes cut off the front of each key. */
  strip: number;
  /** The attnum of the key column, by whose bytes the rows ascend; 0 without one. */
  ordered: number;
  /** Estimates, in rows and in PostgreSQL's cost units. */
  rows: number;
  startup: number;
  total: number;
}

export interface BeginInput {
  plan: string;
  params: ParamValue[];
  /** The revision that an earlier run of this scan node read, or "0". */
  revision: string;
}

/** Send the payload (a frame) and come back with op "page" or "failed" and this state. */
export interface SendAnswer {
  do: "send";
  /** What follows a page that does not say `more`: nothing, or a further request after "page" all the same. */
  then: "done" | "page";
  state: string;
}

/** There are no (more) rows. */
export interface DoneAnswer {
  do: "done";
}

/** What the backend read from a RangeResponse. One that does not say `more`, sent with `then` "done", ends the scan by itself. */
export interface PageInput {
  state: string;
  revision: string;
  /** Keys in the whole range, as etcd counted them. */
  count: string;
  more: boolean;
  kvs: number;
  bytes: number;
  /** Empty when the page holds no key. */
  lastKey: string;
}

export interface FailedInput {
  state: string;
  sqlstate: string;
  message: string;
  detail: string;
  hint: string;
}

export interface ExplainInput {
  plan: string;
  /** The params' expressions as SQL text. */
  params: string[];
  verbose: boolean;
}

export interface ExplainAnswer {
  do: "explain";
  lines: [string, string][];
}

export interface AboutAnswer {
  do: "about";
  protocol: number;
}

export interface ErrorAnswer {
  do: "error";
  sqlstate: string;
  message: string;
  detail: string;
  hint: string;
}

export type Answer =
  | PlanAnswer
  | SendAnswer
  | DoneAnswer
  | ExplainAnswer
  | AboutAnswer
  | ErrorAnswer;

/** What an operation returns: the answer and the bytes that go with it (a frame for "send"). */
export interface Outcome {
  answer: Answer;
  payload?: Uint8Array;
}
