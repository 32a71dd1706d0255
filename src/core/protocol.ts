// What the C backend and core say to each other through `dispatch`: the operations, their input and their answers, as
// JSON. Numbers of 64 bits are decimal strings, bytes are hexadecimal. src/backend/core/dispatch.c and its callers are the
// other side; nothing else may call.

/** A column of the foreign table. */
export interface ColumnInput {
  attnum: number;
  name: string;
  /** As format_type() prints it, without the type modifier; a domain's base type. */
  type: string;
  /** Whether it has a type modifier, as varchar(10) has. */
  typmod: boolean;
  /** Whether the query needs it. */
  used: boolean;
  options: Record<string, string>;
}

/** An array's values, or those around all of a large one. */
export type Values = (string | null)[] | { least: string; greatest: string };

/** A side of a comparison that the backend recognized. A param is an expression that is evaluated when the scan starts. */
export type Operand =
  | { column: string }
  | { hex: string; type: string }
  | { array: Values; type: string }
  | { null: true; type: string }
  | { param: number; type: string };

/** How the comparison's collation orders and compares text; "none" for types without one. */
export type Collation = "c" | "deterministic" | "nondeterministic" | "none";

/** The value of a param: hexadecimal, null for SQL's NULL, or an array of these. */
export type ParamValue = string | null | Values;

/**
 * A condition `left op right` with a built-in operator, "= any" (right is an array), "is null" or "is not null" (right
 * counts not).
 */
export interface Comparison {
  op: string;
  collation: Collation;
  left: Operand;
  right: Operand;
}

/** A condition of the query; null where the backend did not recognize the shape. */
export type Qual = Comparison | { or: Qual[] } | { and: Qual[] } | null;

export interface PlanInput {
  table: string;
  /** Server and table options by name, booleans as "true" and "false". Never user mapping options. */
  server: Record<string, string>;
  options: Record<string, string>;
  columns: ColumnInput[];
  /** One for each condition of the scan. */
  quals: Qual[];
  /** Values are needed whether a column shows them or not: an UPDATE keeps them. */
  values?: boolean;
}

/** Fields of an etcd KeyValue, in the order in which page.c numbers them. */
export const FIELDS = ["key", "value", "create_revision", "mod_revision", "version", "lease"] as const;
export type Field = typeof FIELDS[number];

/** Further sources of a column, numbered after FIELDS: a field of the value read as JSON, and a part of the key. */
export const SOURCE_JSON = FIELDS.length;
export const SOURCE_SEGMENT = FIELDS.length + 1;
/** What is left of the lease. */
export const SOURCE_TTL = FIELDS.length + 2;

export interface PlanAnswer {
  do: "plan";
  /** Opaque to the backend; handed back in begin and explain. */
  plan: string;
  /** Indexes of the conditions that the request fulfils exactly, so that nobody need check them again. */
  exact: number[];
  /** Indexes of the conditions that narrow what is asked for, exactly or not. */
  used: number[];
  /** For each column that is filled: its attnum, its source, and the source's argument (an index, or 0). */
  columns: [number, number, number][];
  /** Arguments of SOURCE_JSON, as literals of text[]. */
  paths: string[];
  /** What stands before, between and after the placeholders of key_pattern, in hexadecimal; empty without one. */
  literals: string[];
  /** 1: the pattern's last placeholder takes slashes too. */
  rest: number;
  /** 1: a key that does not match the pattern is an error; otherwise it is skipped. */
  strict: number;
  /** Bytes cut off the front of each key. */
  strip: number;
  /** 1: the table reads what one member of etcd knows. */
  serializable: number;
  /** 1: etcd sends values with the keys; otherwise an empty value says nothing. */
  values: number;
  /** What to put into begin's `order`, followed by "" or " desc", for each of the orders in which rows can come. */
  targets: string[];
  /**
   * For each target: its column's attnum; 1 if that compares as bytes do, 0 for numbers; 1 if rows can come in this order
   * without end, 0 for the first few only, in one reply.
   */
  orders: [number, number, number][];
  /** 1: each key that etcd sends is a row, so that a LIMIT may be sent along when all conditions are exact. */
  limitable: number;
  /** 1: etcd's count is the number of rows when all conditions are exact. */
  countable: number;
  /** Keys that the request can bring at most; -1 when only etcd knows. */
  keys: number;
  /** Ranges that are asked for, at most. */
  ranges: number;
  /**
   * Where the scan is one key alone, what the backend needs to ask for it without calling core: the key in hexadecimal,
   * or "" when it is the first param; what stands in front of a param to make it a key; start and end of the table's keys
   * (end "" for open); and what follows the key in the RangeRequest. Empty for any other scan, and where the plan names
   * a revision.
   */
  lookup: string[];
}

/** What the plan node adds to the plan. */
export interface Shape {
  /** "" or one of the orders' targets with its direction. */
  order: string;
  /** Rows that are wanted at most, those that OFFSET leaves out included; null for all. Decimal. */
  limit: string | null;
  /** "count", "min" and "max" (of the key): one row of these instead of rows; empty without. */
  aggregates: string[];
}

export interface BeginInput extends Shape {
  plan: string;
  params: ParamValue[];
  /** The revision that the statement reads, or "0". */
  revision: string;
}

/**
 * Send the payload (a frame). After "done" and "page" come back with op "page" or "failed" and this state, after "row" with
 * op "aggregate" and the reply.
 */
export interface SendAnswer {
  do: "send";
  /** What follows a page that does not say `more`: nothing, or a further request after "page" all the same. */
  then: "done" | "page" | "row";
  /** 1: the latest revision is asked for, and the reply says which that is. */
  latest: number;
  state: string;
}

/** There are no (more) rows. */
export interface DoneAnswer {
  do: "done";
}

/** The one row of aggregates: numbers as decimal digits, all in hexadecimal; null for NULL. */
export interface RowAnswer {
  do: "row";
  cells: (string | null)[];
}

/** What the backend read from a page. One that does not say `more`, sent with `then` "done", ends the scan by itself. */
export interface PageInput {
  state: string;
  revision: string;
  more: boolean;
  kvs: number;
  bytes: number;
  /** Empty when the page holds no key. */
  lastKey: string;
}

/** A page of a function's. */
export interface FunctionPageInput extends PageInput {
  /** Of a WatchedPage (src/etcd/watch.ts), as decimal strings. */
  left: string;
  upto: string;
}

export interface FailedInput {
  state: string;
  sqlstate: string;
  message: string;
  detail: string;
  hint: string;
}

/** Comes with etcd's reply as bytes. */
export interface AggregateInput {
  state: string;
}

export interface ExplainInput {
  plan: string;
  /** The params' expressions as SQL text. */
  params: string[];
  order: string;
  /** As SQL text; empty without. */
  limit: string;
  offset: string;
  aggregates: string[];
  /** The session's etcd_fdw.revision, or "0". */
  revision: string;
  verbose: boolean;
}

export interface ExplainAnswer {
  do: "explain";
  lines: [string, string][];
}

/** Send the payload (a frame) and come back with op `op`, this state and etcd's reply as bytes. */
export interface CallAnswer {
  do: "call";
  op: string;
  state: string;
}

export interface ReplyInput {
  state: string;
}

/** A call of one of the SQL functions: its name and its arguments by name; NULLs are absent. */
export interface FunctionInput {
  function: string;
  /** text and bytea in hexadecimal, arrays of text as arrays of that, intervals in milliseconds, json as it is. */
  args: Record<string, string | boolean | string[]>;
}

/** Send the payload (a frame) for an SQL function. */
export interface FunctionCallAnswer extends CallAnswer {
  /**
   * 0: come back with the reply. 1: it is a RangeResponse whose keys are the function's rows; come back with op
   * "functionPage" unless this was all. 2: the same, without values. 3: unless it is empty it is one row, the bytes that
   * came before it and its bytes; come back with op "functionPage". 4: the revision in its header is the result, and that is all.
   * 5: it is a DeleteRangeResponse whose previous keys are the rows, and that is all. 6: it is a WatchedPage whose events
   * are the rows; come back with op "functionPage" unless nothing is left of it.
   */
  rows: number;
  /** 1: come back with op "functionFailed" when the reply is an error. */
  errors: number;
  /** 1: the frame is for the proxy, not for a server. */
  proxy: number;
  /** 1: changes something in etcd, which a read-only transaction may not. */
  writes: number;
  /**
   * Arguments whose bytes are the payload's first fields, numbered from 1 in this order: another call that differs in these
   * alone makes the same frame with its own bytes in their place, and does the same with the reply. Empty: core is asked
   * each time.
   */
  template: string[];
}

/** What a subscription or a mirror waits for. */
export interface FollowInput {
  /** etcd's key and range_end, in hexadecimal; null for the key alone. */
  key: string;
  end: string | null;
  prev: boolean;
  /** The revision up to which it knows everything. */
  after: string;
  /** Milliseconds. */
  wait: number;
  /** Events of one answer. */
  count: number;
}

/** The keys that a user names: one, a range, or those with a prefix. Hexadecimal. */
export interface FollowedInput {
  key: string;
  end: string | null;
  prefix: boolean;
}

/** Which keys are followed, as etcd has them. */
export interface FollowedAnswer {
  do: "followed";
  key: string;
  /** range_end. */
  end: string;
  /** 1: the key alone, without a range_end. */
  single: number;
  /** Attnums of the table's columns that tell its keys apart. */
  columns: number[];
  /** Of those that show how long a key has left: they change without an event. */
  ttl: number[];
}

/** Send the payload (a frame); the reply is a WatchedPage. */
export interface FollowAnswer {
  do: "follow";
}

/** The rows of an SQL function, after those that pages have brought: cells of text and bytea are hexadecimal. */
export interface ResultAnswer {
  do: "result";
  rows: (string | null)[][];
  /** What to say as a WARNING; empty without. */
  warning: string;
}

/** INSERT, UPDATE or DELETE on a table: what its columns are for. `used` marks those that the statement sets. */
export interface ModifyInput extends Omit<PlanInput, "quals"> {
  operation: "insert" | "update" | "delete";
}

/** How the backend makes keys and values of rows. Attnums are 0 for what the table has no column for. */
export interface ModifyAnswer {
  do: "modify";
  key: number;
  value: number;
  lease: number;
  ttl: number;
  create_revision: number;
  mod_revision: number;
  version: number;
  /** Attnums of the key pattern's placeholders, in their order, and the pattern's literals as in PlanAnswer. */
  segments: number[];
  literals: string[];
  rest: number;
  /** Attnum and path's index of each column that is a field of a JSON value, and the paths as in PlanAnswer. */
  fields: [number, number][];
  paths: string[];
  /** In front of the key column's bytes, in hexadecimal. */
  strip: string;
  /** The table's keys, in hexadecimal: a start, and an end or "" for open. */
  start: string;
  end: string;
}

/** DELETE of all that a plan finds: answered by "remove" with a Txn of these reads. */
export interface RemoveAnswer {
  do: "remove";
  /** 0: no key can match, and the Txn is empty. */
  ranges: number;
}

/** IMPORT FOREIGN SCHEMA. */
export interface ImportInput {
  /** The remote schema. */
  directory: string;
  /** Of the foreign server. */
  name: string;
  server: Record<string, string>;
  options: Record<string, string>;
}

export interface ImportAnswer {
  do: "imported";
  /** CREATE FOREIGN TABLE, one for each directory. */
  statements: string[];
  /** Directories whose names are not text, as a person reads them. */
  skipped: string[];
  /** Directories whose tables have other names, and these. */
  renamed: string[][];
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
  | RowAnswer
  | ExplainAnswer
  | CallAnswer
  | ModifyAnswer
  | RemoveAnswer
  | ImportAnswer
  | FunctionCallAnswer
  | FollowAnswer
  | FollowedAnswer
  | ResultAnswer
  | AboutAnswer
  | ErrorAnswer;

/** What an operation returns: the answer and the bytes that go with it (a frame for "send"). */
export interface Outcome {
  answer: Answer;
  payload?: Uint8Array;
}
