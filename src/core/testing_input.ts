// What the tests of core hand to its operations: short forms of the inputs that the backend would write.

import { BinaryReader } from "@bufbuild/protobuf/wire";
import { decodeUtf8, encodeUtf8, toHex } from "../base/bytes.ts";
import { FrameDecoder } from "../ipc/frame.ts";
import type { Column } from "./plan/columns.ts";
import { planScan } from "./plan/plan.ts";
import type {
  BeginInput,
  Collation,
  ColumnInput,
  Comparison,
  Operand,
  Outcome,
  PlanAnswer,
  PlanInput,
  Qual,
} from "./protocol.ts";

export const hex = (text: string) => toHex(encodeUtf8(text));

export const column = (
  attnum: number,
  name: string,
  type = "text",
  more: Partial<ColumnInput> = {},
): ColumnInput => ({ attnum, name, type, typmod: false, used: true, options: {}, ...more });

/** key and value as text. */
export const KEY_VALUE = [column(1, "key"), column(2, "value")];

/** All fields, as readColumn() reads them. */
export const COLUMNS: Column[] = [
  { ...column(1, "key"), field: "key" },
  { ...column(2, "value"), field: "value" },
  { ...column(3, "mod_revision", "bigint"), field: "mod_revision" },
  { ...column(4, "create_revision", "bigint"), field: "create_revision" },
];

export const key: Operand = { column: "key" };
export const text = (value: string): Operand => ({ hex: hex(value), type: "text" });
export const param = (number: number): Operand => ({ param: number, type: "text" });
export const array = (...values: string[]): Operand => ({ array: values.map(hex), type: "text[]" });

export const compare = (
  op: string,
  left: Operand,
  right: Operand,
  collation: Collation = "deterministic",
): Comparison => ({ op, left, right, collation });

export function plan(more: Partial<PlanInput> = {}): PlanAnswer {
  const input = { table: "t", server: {}, options: {}, columns: KEY_VALUE, quals: [] as Qual[] };
  return planScan({ ...input, ...more }).answer as PlanAnswer;
}

export const beginInput = (planText: string, more: Partial<BeginInput> = {}): BeginInput => ({
  plan: planText,
  params: [],
  revision: "0",
  order: "",
  limit: null,
  aggregates: [],
  ...more,
});

export type Fields = Record<number, string | bigint>;

/** A protobuf message by field number: bytes as text, numbers as bigint. Fields that repeat are in arrays. */
export function fieldsOf(message: Uint8Array): Fields {
  const reader = new BinaryReader(message);
  const fields: Fields = {};
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    fields[field] = wire === 2 ? decodeUtf8(reader.bytes()) : BigInt(reader.int64());
  }
  return fields;
}

function frameOf(outcome: Outcome) {
  if (outcome.answer.do !== "send" && outcome.answer.do !== "call") {
    throw new Error(`the answer is ${JSON.stringify(outcome.answer)}`);
  }
  const [frame] = [...new FrameDecoder().push(outcome.payload!)];
  return frame;
}

/** The RangeRequest inside the frame of a "send" answer. */
export const rangeOf = (outcome: Outcome): Fields => fieldsOf(frameOf(outcome).payload);

/** The RangeRequests inside the Txn of a "send" answer. */
export function txnOf(outcome: Outcome): Fields[] {
  const reader = new BinaryReader(frameOf(outcome).payload);
  const requests: Fields[] = [];
  while (reader.pos < reader.len) {
    reader.tag();
    const op = new BinaryReader(reader.bytes());
    op.tag();
    requests.push(fieldsOf(op.bytes()));
  }
  return requests;
}

export const payloadOf = (outcome: Outcome): Uint8Array => frameOf(outcome).payload;

export const methodOf = (outcome: Outcome): number => frameOf(outcome).code;
