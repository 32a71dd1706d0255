import assert from "node:assert/strict";
import { GrpcStatus } from "../../base/errors.ts";
import { VirtualRuntime } from "../testing_runtime.ts";
import { Authenticator } from "./auth.ts";
import type { Channel, Outcome } from "./transport.ts";

/** A member whose logins end as the function says. */
function member(login: () => Promise<Outcome<string | null>>): Channel {
  return { endpoint: "h:1", login } as Partial<Channel> as Channel;
}
const authenticator = () => new Authenticator(new VirtualRuntime(), "u", "s3cret");

Deno.test("Authenticator: one token for all who ask", async () => {
  let fetched = 0;
  const auth = authenticator();
  const channel = member(() => Promise.resolve({ reply: `t${++fetched}` }));
  assert.equal(auth.current, null);
  const both = await Promise.all([auth.login(channel), auth.login(channel)]);
  assert.equal(both[0].reply, both[1].reply);
  assert.deepEqual(auth.current, { token: "t1" });
});

Deno.test("Authenticator: a refused token is replaced once, however many calls it was refused to", async () => {
  let fetched = 0;
  const auth = authenticator();
  const channel = member(() => Promise.resolve({ reply: `t${++fetched}` }));
  const old = (await auth.login(channel)).reply!;
  assert.equal(auth.refuse(old), true);
  const fresh = (await auth.login(channel)).reply!;
  assert.equal(auth.refuse(old), true);
  assert.equal(auth.current, fresh);
  assert.equal(fetched, 2);
});

Deno.test("Authenticator: a failure is told and not kept, and names the user, not the password", async () => {
  const failure = {
    code: GrpcStatus.INVALID_ARGUMENT,
    text: "etcdserver: authentication failed, invalid user ID",
  };
  const ends: Outcome<string | null>[] = [{ failure }, { reply: null }];
  const auth = authenticator();
  const channel = member(() => Promise.resolve(ends.shift()!));
  assert.deepEqual(await auth.login(channel), { failure });
  const error = auth.error(failure, "h:1");
  assert.deepEqual([error.sqlstate, error.message], [
    "28P01",
    'password authentication failed for etcd user "u"',
  ]);
  const other = auth.error({ code: GrpcStatus.UNAVAILABLE, text: "etcdserver: no leader" }, "h:1");
  assert.deepEqual([other.sqlstate, other.detail], ["08006", "h:1 answered: etcdserver: no leader."]);
  assert.deepEqual((await auth.login(channel)).reply, { token: null });
});

Deno.test("Authenticator: who has another member does not wait for the first one's login", async () => {
  const auth = authenticator();
  let late!: (outcome: Outcome<string | null>) => void;
  const stalled = auth.login(member(() => new Promise((resolve) => late = resolve)));
  assert.deepEqual((await auth.login(member(() => Promise.resolve({ reply: "t" })))).reply, { token: "t" });
  late({ failure: { code: GrpcStatus.DEADLINE_EXCEEDED, text: "late" } });
  await stalled;
  assert.deepEqual(auth.current, { token: "t" });
});

Deno.test("Authenticator: without a user nothing is asked for, and a refusal is final", () => {
  const auth = new Authenticator(new VirtualRuntime(), undefined, undefined);
  assert.deepEqual(auth.current, { token: null });
  assert.equal(auth.refuse(auth.current!), false);
});
