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
  const [one, same, third, unknown] = [{}, {}, {}, {}];
  assert.equal(written.floorOf(unknown), 0n);
  written.note(one, reply(id, "9"));
  written.note(same, reply(id, "7"));
  written.note(third, reply("3", "100"));
  written.note(unknown, new Uint8Array(0));
  assert.deepEqual([one, same, third].map((on) => written.floorOf(on)), [9n, 9n, 100n]);
  assert.equal(written.floorOf(unknown), null, "it may be the same cluster");
  written.identify(unknown, 4n);
  assert.equal(written.floorOf(unknown), 0n);
  assert.equal(written.revisionOf(BigInt(id)), 9n);
  assert.equal(written.revisionOf(3n), 100n);
  assert.equal(written.revisionOf(4n), 0n);
});

Deno.test("Written: what is in doubt is so until something newer was shown", () => {
  const [written, one, same, other] = [new Written(), {}, {}, {}];
  written.doubt(one);
  written.identify(same, 7n);
  assert.deepEqual([one, same].map((on) => written.floorOf(on)), [null, null], "the same cluster, perhaps");
  written.identify(one, 7n);
  written.identify(other, 8n);
  assert.deepEqual([one, same, other].map((on) => written.floorOf(on)), [null, null, 0n]);
  const { doubted } = written;
  written.doubt(one);
  written.settle(same, doubted);
  assert.equal(written.floorOf(one), null, "what is in doubt since then");
  written.settle(other, written.doubted);
  assert.equal(written.floorOf(one), null, "another cluster");
  written.settle(same, written.doubted);
  assert.deepEqual([one, same].map((on) => written.floorOf(on)), [0n, 0n]);
});
