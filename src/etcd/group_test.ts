import assert from "node:assert/strict";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { decodeUtf8, encodeUtf8 } from "../base/bytes.ts";
import { decodeGroup, encodeGroup, type GroupedWrite, sizeInGroup } from "./group.ts";
import { answerHeader } from "./ranges.ts";

const write = (kind: GroupedWrite["kind"], text: string) => ({ kind, payload: encodeUtf8(text) });
const WRITES = [write("put", "one"), write("txn", "two"), write("delete", "three")];

/** ResponseHeader: cluster_id, revision. */
const header = (cluster: number, revision: number) =>
  new BinaryWriter(encodeUtf8).uint32(1 << 3).uint64(cluster).uint32(3 << 3).int64(revision).finish();

function reply(operations: number[]): Uint8Array {
  const writer = new BinaryWriter(encodeUtf8).uint32(1 << 3 | 2).bytes(header(5, 9)).uint32(2 << 3).bool(
    true,
  );
  for (const operation of operations) {
    const inner = new BinaryWriter(encodeUtf8).uint32(1 << 3 | 2).bytes(header(0, operation)).finish();
    writer.uint32(3 << 3 | 2).fork().uint32(operation << 3 | 2).bytes(inner).join();
  }
  return writer.finish();
}

Deno.test("a group is a Txn of its writes, as long as was said", () => {
  const request = encodeGroup(WRITES, null);
  assert.equal(request.length, WRITES.reduce((sum, one) => sum + sizeInGroup(one), 0));
  for (const text of ["one", "two", "three"]) assert.ok(decodeUtf8(request).includes(text));
});

Deno.test("each gets its own answer, with the header of the whole", () => {
  const answers = decodeGroup(reply([2, 4, 3]), WRITES);
  assert.equal(answers.length, 3);
  for (const answer of answers) {
    const { cluster, revision } = answerHeader(answer);
    assert.deepEqual([cluster, revision], [5n, 9n]);
  }
});

Deno.test("an answer to something else is damaged", () => {
  for (const operations of [[2, 4], [2, 4, 3, 3], [2, 3, 4], []]) {
    assert.throws(() => decodeGroup(reply(operations), WRITES), { sqlstate: "08P01" });
  }
});
