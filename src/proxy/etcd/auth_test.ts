import assert from "node:assert/strict";
import { EtcdFdwError } from "../../base/errors.ts";
import { freePort } from "../testing_etcd.ts";
import { errorFrom } from "../testing_requests.ts";
import { Channel } from "./channel.ts";
import { Authenticator, fetchToken } from "./auth.ts";

const CHANNEL = new Channel("127.0.0.1:1");
const inASecond = () => Date.now() + 1000;

Deno.test("Authenticator: one token for all who ask, and no promise once it is there", async () => {
  let fetched = 0;
  const auth = new Authenticator("u", "p", () => Promise.resolve(`t${++fetched}`));
  const both = await Promise.all([auth.metadata(CHANNEL, inASecond()), auth.metadata(CHANNEL, inASecond())]);
  assert.equal(both[0], both[1]);
  assert.deepEqual(both[0].get("token"), ["t1"]);
  assert.equal(auth.metadata(CHANNEL, inASecond()), both[0]);
});

Deno.test("Authenticator: a refused token is replaced once, however many calls it was refused to", async () => {
  let fetched = 0;
  const auth = new Authenticator("u", "p", () => Promise.resolve(`t${++fetched}`));
  const old = await auth.metadata(CHANNEL, inASecond());
  assert.equal(auth.refuse(old), true);
  const fresh = await auth.metadata(CHANNEL, inASecond());
  assert.equal(auth.refuse(old), true);
  assert.equal(auth.metadata(CHANNEL, inASecond()), fresh);
  assert.equal(fetched, 2);
});

Deno.test("Authenticator: a failure is told and not kept", async () => {
  let fetched = 0;
  const auth = new Authenticator(
    "u",
    "p",
    () => ++fetched === 1 ? Promise.reject(new EtcdFdwError("28P01", "no")) : Promise.resolve(null),
  );
  assert.equal((await errorFrom(Promise.resolve(auth.metadata(CHANNEL, inASecond())))).sqlstate, "28P01");
  assert.deepEqual((await auth.metadata(CHANNEL, inASecond())).get("token"), []);
});

Deno.test("Authenticator: without a user nothing is fetched, and a refusal is final", () => {
  const auth = new Authenticator(undefined, undefined, () => Promise.reject(new Error("unexpected")));
  const metadata = auth.metadata(CHANNEL, 0);
  assert.ok(!(metadata instanceof Promise));
  assert.equal(auth.refuse(metadata), false);
});

Deno.test("fetchToken: an endpoint that is gone is an error of class 08, without the password", async () => {
  const channel = new Channel(`127.0.0.1:${freePort()}`);
  const error = await errorFrom(fetchToken(channel, "u", "s3cret", inASecond()));
  channel.close();
  assert.equal(error.sqlstate, "08006");
  assert.equal(error.message, 'could not authenticate etcd user "u"');
  assert.doesNotMatch(error.detail, /s3cret/);
});
