import assert from "node:assert/strict";
import { Header } from "../../etcd/api.ts";
import { fieldSize, Out } from "../../etcd/wire.ts";
import { Written } from "./written.ts";

function reply(cluster: string, revision: string): Uint8Array {
  const header = Header.encode({ cluster_id: cluster, revision });
  const out = new Out(fieldSize(header.length));
  out.field(1 << 3 | 2, header);
  return out.bytes;
}

Deno.test("Written: the latest revision of each cluster, whatever order the answers come in", () => {
  const written = new Written();
  const id = "14841639068965178418";
  written.note(reply(id, "9"));
  written.note(reply(id, "7"));
  written.note(reply("3", "100"));
  written.note(new Uint8Array(0));
  assert.equal(written.revisionOf(BigInt(id)), 9n);
  assert.equal(written.revisionOf(3n), 100n);
  assert.equal(written.revisionOf(4n), 0n);
});

Deno.test("Written: what is in doubt is so until something newer was shown", () => {
  const [written, cluster, other] = [new Written(), {}, {}];
  written.doubt(cluster);
  assert.deepEqual([cluster, other].map((one) => written.isDoubtful(one)), [true, false]);
  written.settle(cluster);
  assert.equal(written.isDoubtful(cluster), false);
});
