import assert from "node:assert/strict";
import { GrpcStatus } from "../../base/errors.ts";
import { Deadline } from "../deadline.ts";
import { freePort, silentServer } from "../testing_etcd.ts";
import { REAL } from "../testing_runtime.ts";
import { reasonsOf } from "./channel.ts";
import { State } from "./transport.ts";

const dial = (endpoint: string) => REAL.etcd.dial(endpoint);
const within = (ms: number) => ({ login: { token: null }, deadline: Deadline.after(REAL, ms) });

Deno.test("Channel: a call's end is a value, also when there is no connection", async () => {
  const channel = dial(`127.0.0.1:${freePort()}`);
  const { failure } = await channel.call("/x/y", new Uint8Array(0), within(5_000));
  assert.equal(failure?.code, GrpcStatus.UNAVAILABLE);
  assert.match(await channel.connectError(), /^connect ECONNREFUSED [\d.:]+$/);
  channel.close();
});

Deno.test("Channel: an abort ends the call, before and after it has begun, and so does the deadline", async () => {
  const silent = silentServer();
  const channel = dial(silent.endpoint);
  const controller = new AbortController();
  const options = { ...within(5_000), signal: controller.signal };
  const call = channel.call("/x/y", new Uint8Array(0), options);
  controller.abort();
  assert.equal((await call).failure?.code, GrpcStatus.CANCELLED);
  assert.equal((await channel.call("/x/y", new Uint8Array(0), options)).failure?.code, GrpcStatus.CANCELLED);
  assert.equal(
    (await channel.call("/x/y", new Uint8Array(0), within(50))).failure?.code,
    GrpcStatus.DEADLINE_EXCEEDED,
  );
  // No deadline, and one beyond what a timer takes, are none that is over at once.
  for (const ms of [Infinity, 80 * 86_400_000]) {
    const patient = new AbortController();
    const waiting = channel.call("/x/y", new Uint8Array(0), { ...within(ms), signal: patient.signal });
    assert.equal(
      await Promise.race([waiting, new Promise((resolve) => setTimeout(resolve, 100, "waits"))]),
      "waits",
    );
    patient.abort();
    assert.equal((await waiting).failure?.code, GrpcStatus.CANCELLED);
  }
  channel.close();
  silent.stop();
});

Deno.test("Channel: onChange tells of a refused connection", async () => {
  const channel = dial(`127.0.0.1:${freePort()}`);
  const state = await new Promise<State>((resolve) => {
    const follow = (state: State) =>
      state === State.TRANSIENT_FAILURE ? resolve(state) : channel.onChange(state, follow);
    follow(channel.connect());
  });
  assert.equal(state, State.TRANSIENT_FAILURE);
  channel.close();
});

Deno.test("Channel: a host with several addresses tells what each of them said", async () => {
  const server = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const hangingUp = (async () => {
    for await (const connection of server) connection.close();
  })();
  const reason = await reasonsOf(["::1", "127.0.0.1"], server.addr.port, {
    verify: true,
    servername: "localhost",
  });
  server.close();
  await hangingUp.catch(() => {});
  // Refused at one, no TLS at the other.
  assert.match(reason, /^\[::1\]: connect E\w+ .*; 127\.0\.0\.1: (?!connect)\w+/);
});

Deno.test("Channel: a login that fails is a value too, without the password", async () => {
  const channel = dial(`127.0.0.1:${freePort()}`);
  const outcome = await channel.login("u", "s3cret", Deadline.after(REAL, 1_000));
  channel.close();
  assert.equal(outcome.failure?.code, GrpcStatus.UNAVAILABLE);
  assert.doesNotMatch(JSON.stringify(outcome), /s3cret/);
});
