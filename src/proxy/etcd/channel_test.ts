import assert from "node:assert/strict";
import { GrpcStatus } from "../../base/errors.ts";
import { freePort, silentServer } from "../testing_etcd.ts";
import { Channel, Metadata, State } from "./channel.ts";

Deno.test("Channel: a call's end is a value, also when there is no connection", async () => {
  const channel = new Channel(`127.0.0.1:${freePort()}`);
  const { failure } = await channel.call("/x/y", new Uint8Array(0), {
    metadata: new Metadata(),
    deadline: Date.now() + 5_000,
  });
  assert.equal(failure?.code, GrpcStatus.UNAVAILABLE);
  assert.equal(channel.lastAnswer, 0);
  assert.match(await channel.connectError(), /^connect ECONNREFUSED [\d.:]+$/);
  channel.close();
});

Deno.test("Channel: an abort ends the call, before and after it has begun", async () => {
  const silent = silentServer();
  const channel = new Channel(silent.endpoint);
  const controller = new AbortController();
  const options = { metadata: new Metadata(), deadline: Date.now() + 5_000, signal: controller.signal };
  const call = channel.call("/x/y", new Uint8Array(0), options);
  controller.abort();
  assert.equal((await call).failure?.code, GrpcStatus.CANCELLED);
  assert.equal((await channel.call("/x/y", new Uint8Array(0), options)).failure?.code, GrpcStatus.CANCELLED);
  channel.close();
  silent.stop();
});

Deno.test("Channel: onChange tells of a refused connection", async () => {
  const channel = new Channel(`127.0.0.1:${freePort()}`);
  const state = await new Promise<State>((resolve) => {
    const follow = (state: State) =>
      state === State.TRANSIENT_FAILURE ? resolve(state) : channel.onChange(state, follow);
    follow(channel.connect());
  });
  assert.equal(state, State.TRANSIENT_FAILURE);
  channel.close();
});
