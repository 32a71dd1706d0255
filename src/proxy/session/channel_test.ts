import assert from "node:assert/strict";
import { EtcdFdwError } from "../../base/errors.ts";
import type { ClusterHandle } from "../handle.ts";
import { SessionChannel } from "./channel.ts";

function opened() {
  const count = { closed: 0 };
  const handle = {
    staging: { maxTxnOps: 128, requireAtomic: false, maxStagedBytes: 1000 },
    call: () => Promise.resolve(new Uint8Array(0)),
    close: () => void count.closed++,
  } as Partial<ClusterHandle> as ClusterHandle;
  return { count, channel: new SessionChannel(handle) };
}

Deno.test("SessionChannel: it is CLOSING until its last request is over, and closes its handle once", () => {
  const { count, channel } = opened();
  channel.begin();
  channel.begin();
  channel.over();
  assert.equal(channel.state, "OPEN");
  channel.close();
  assert.deepEqual([channel.state, count.closed], ["CLOSING", 0]);
  channel.over();
  assert.deepEqual([channel.state, count.closed], ["CLOSED", 1]);
  channel.close();
  assert.equal(count.closed, 1);
  const idle = opened();
  idle.channel.close();
  assert.deepEqual([idle.channel.state, idle.count.closed], ["CLOSED", 1]);
});

Deno.test("SessionChannel: one transaction until it has committed or ended; what it was refused stays until then", () => {
  const { channel } = opened();
  const first = channel.transaction();
  assert.equal(channel.transaction(), first);
  channel.committed(first);
  const second = channel.transaction();
  assert.notEqual(second, first);
  channel.committed(first);
  assert.equal(channel.transaction(), second);
  channel.refuse(new EtcdFdwError("53200", "no memory"));
  channel.refuse(new EtcdFdwError("08P01", "later"));
  assert.throws(() => channel.transaction(), { sqlstate: "53200" });
  channel.endTransaction();
  assert.notEqual(channel.transaction(), second);
});
