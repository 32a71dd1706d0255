import assert from "node:assert/strict";
import { EtcdFdwError } from "../../base/errors.ts";
import type { ClusterHandle } from "../handle.ts";
import { Budget } from "../memory.ts";
import { REAL_PACE, STAGING } from "../testing_txn.ts";
import { SessionChannel } from "./channel.ts";

function opened() {
  const count = { closed: 0 };
  const handle = {
    staging: STAGING,
    call: () => Promise.resolve(new Uint8Array(0)),
    close: () => void count.closed++,
  } as Partial<ClusterHandle> as ClusterHandle;
  return { count, channel: new SessionChannel(handle, null, { budget: new Budget(1000), pace: REAL_PACE }) };
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

Deno.test("SessionChannel: what its transaction was refused stays until the transaction ends", () => {
  const { channel } = opened();
  channel.transactions();
  channel.refuse(new EtcdFdwError("53200", "no memory"));
  channel.refuse(new EtcdFdwError("08P01", "later"));
  assert.throws(() => channel.transactions(), { sqlstate: "53200" });
  channel.endTransaction();
  channel.transactions();
});
