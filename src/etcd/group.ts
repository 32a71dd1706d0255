// Several writes as one TxnRequest, each with its own comparisons, and what its answer says of each.

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { concatBytes, encodeUtf8 } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import { eachField } from "./ranges.ts";
import { type Rights, rightsSize, writeRights } from "./rights.ts";
import { withHeader } from "./txn.ts";
import { fieldSize, Out } from "./wire.ts";

/** A request that writes. */
export interface GroupedWrite {
  kind: "put" | "delete" | "txn";
  /** A PutRequest, a DeleteRangeRequest, or a TxnRequest. */
  payload: Uint8Array;
}

const SUCCESS = 2 << 3 | 2;
/** Fields of RequestOp, and of ResponseOp. */
const OPERATION = { put: 2, delete: 3, txn: 4 };

/** What a write takes in the request. */
export const sizeInGroup = ({ payload }: GroupedWrite) => fieldSize(fieldSize(payload.length));

/** The rights that etcd does not look at by itself: those of the Txns in the group. Null: there are no users. */
export function encodeGroup(writes: GroupedWrite[], rights: Rights | null): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8);
  for (const { kind, payload } of writes) {
    writer.uint32(SUCCESS).fork().uint32(OPERATION[kind] << 3 | 2).bytes(payload).join();
  }
  const group = writer.finish();
  if (rights === null) return group;
  const out = new Out(rightsSize(rights));
  writeRights(out, rights);
  return concatBytes(group, out.bytes);
}

/** The answers to these writes, as if each had come by itself. Throws EtcdFdwError 08P01 for damaged bytes. */
export function decodeGroup(reply: Uint8Array, writes: GroupedWrite[]): Uint8Array[] {
  let header: Uint8Array = new Uint8Array(0);
  const answers: Uint8Array[] = [];
  eachField(reply, (field, reader) => {
    if (field === 1) header = reader.bytes();
    else if (field === 3) {
      const wanted = OPERATION[writes[answers.length]?.kind];
      const before = answers.length;
      eachField(reader.bytes(), (operation, inner) => {
        if (operation !== wanted) return false;
        answers.push(inner.bytes());
        return true;
      });
      if (answers.length === before) throw damaged();
    } else return false;
    return true;
  });
  if (answers.length !== writes.length) throw damaged();
  return answers.map((answer) => withHeader(answer, header));
}

const damaged = () => new EtcdFdwError("08P01", "etcd's answer to several writes is not what was asked for");
