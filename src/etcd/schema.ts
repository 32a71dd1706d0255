// Protobuf messages by description: a table of fields is enough to write a message and to read it. For etcd's many small
// messages; what comes by the megabyte has code of its own (etcd_messages.ts, etcd_ranges.ts).

import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import { decodeUtf8, encodeUtf8 } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";

/** 64-bit numbers are decimal strings, since JavaScript's numbers cannot hold them. */
interface Kinds {
  bytes: Uint8Array;
  string: string;
  bool: boolean;
  /** Also for enums and uint32. */
  int32: number;
  int64: string;
  uint64: string;
}

type Kind = keyof Kinds | Message<Fields>;
/** Number, kind, and whether it is repeated. */
export type Field = readonly [number, Kind, "repeated"?];
type Fields = Record<string, Field>;

type ValueOf<K> = K extends keyof Kinds ? Kinds[K] : K extends Message<infer F> ? Decoded<F> : never;
/** A message that was read: what was absent is the kind's zero; a message that was absent is null. */
export type Decoded<F extends Fields> = {
  [N in keyof F]: F[N] extends readonly [number, infer K, "repeated"] ? ValueOf<K>[]
    : F[N][1] extends keyof Kinds ? ValueOf<F[N][1]>
    : ValueOf<F[N][1]> | null;
};
type InputOf<K> = K extends keyof Kinds ? Kinds[K] : K extends Message<infer F> ? Input<F> : never;
/** A message to be written: what is absent or undefined is not sent, anything else is, even a zero. */
export type Input<F extends Fields> = {
  [N in keyof F]?: F[N] extends readonly [number, infer K, "repeated"] ? InputOf<K>[] : InputOf<F[N][1]>;
};

export interface Message<F extends Fields> {
  readonly fields: F;
  encode(value: Input<F>): Uint8Array;
  /** Throws EtcdFdwError 08P01 for bytes that are no such message. */
  decode(bytes: Uint8Array): Decoded<F>;
}

const ZERO: Kinds = { bytes: new Uint8Array(0), string: "", bool: false, int32: 0, int64: "0", uint64: "0" };
const LENGTH_DELIMITED = 2;

function writeField(writer: BinaryWriter, [number, kind]: Field, value: unknown): void {
  const tag = (wire: number) => writer.uint32((number << 3 | wire) >>> 0);
  if (typeof kind === "object") tag(LENGTH_DELIMITED).bytes(kind.encode(value as Input<Fields>));
  else if (kind === "bytes") tag(LENGTH_DELIMITED).bytes(value as Uint8Array);
  else if (kind === "string") tag(LENGTH_DELIMITED).string(value as string);
  else if (kind === "bool") tag(0).bool(value as boolean);
  else if (kind === "int32") tag(0).int32(value as number);
  else if (kind === "int64") tag(0).int64(value as string);
  else tag(0).uint64(value as string);
}

function readField(reader: BinaryReader, kind: Kind): unknown {
  if (typeof kind === "object") return kind.decode(reader.bytes());
  if (kind === "int64" || kind === "uint64") return String(reader[kind]());
  return reader[kind]();
}

/** The message with these fields. */
export function message<const F extends Fields>(fields: F): Message<F> {
  const entries = Object.entries(fields) as [string, Field][];
  const byNumber = new Map(entries.map(([name, field]) => [field[0], { name, field }]));
  return {
    fields,
    encode(value) {
      const writer = new BinaryWriter(encodeUtf8);
      for (const [name, field] of entries) {
        const given = (value as Record<string, unknown>)[name];
        if (given === undefined) continue;
        for (const one of field[2] === "repeated" ? given as unknown[] : [given]) {
          writeField(writer, field, one);
        }
      }
      return writer.finish();
    },
    decode(bytes) {
      const value: Record<string, unknown> = {};
      for (const [name, [, kind, repeated]] of entries) {
        value[name] = repeated ? [] : typeof kind === "object" ? null : ZERO[kind];
      }
      const reader = new BinaryReader(bytes, decodeUtf8);
      try {
        while (reader.pos < reader.len) {
          const [number, wire] = reader.tag();
          const known = byNumber.get(number);
          if (known === undefined) {
            reader.skip(wire, number);
            continue;
          }
          const read = readField(reader, known.field[1]);
          if (known.field[2] === "repeated") (value[known.name] as unknown[]).push(read);
          else value[known.name] = read;
        }
      } catch (cause) {
        if (cause instanceof EtcdFdwError) throw cause;
        throw new EtcdFdwError("08P01", "invalid message of etcd's protocol", { cause });
      }
      return value as Decoded<F>;
    },
  };
}
