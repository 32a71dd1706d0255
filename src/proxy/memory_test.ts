import assert from "node:assert/strict";
import { EtcdFdwError } from "../base/errors.ts";
import { Budget, Expectations } from "./memory.ts";

Deno.test("Budget: each level refuses by its own limit, and a refusal takes nothing", () => {
  const proxy = new Budget(100);
  const session = new Budget(80, proxy, "a session");
  const other = new Budget(80, proxy, "a session");
  const transaction = new Budget(50, session, "a transaction");
  const refused = (budget: Budget, bytes: number, hint: RegExp) =>
    assert.throws(() => budget.take(bytes), (error: EtcdFdwError) => {
      assert.equal(error.sqlstate, "53200");
      assert.match(error.hint, hint);
      return true;
    });
  transaction.take(50);
  refused(transaction, 1, /max_staged_mb/);
  refused(new Budget(50, session, "a transaction"), 31, /Commit more often/);
  refused(other, 51, /proxy's limit/);
  assert.deepEqual([proxy.used, session.used, other.used, transaction.used], [50, 50, 0, 50]);
  transaction.give(50);
  other.take(80);
  assert.deepEqual([proxy.used, session.used, other.used], [80, 0, 80]);
});

Deno.test("Budget: a part leaves the rest to others", () => {
  const proxy = new Budget(100);
  const part = proxy.part(0.75, "all transactions together");
  part.take(75);
  assert.throws(() => part.take(1), { sqlstate: "53200", hint: /other sessions/ });
  proxy.take(25);
  part.give(75);
  assert.equal(proxy.used, 25);
});

Deno.test("Expectations: what has no room waits until something is given back, the first first", async () => {
  const proxy = new Budget(100);
  const expectations = new Expectations(proxy);
  const retried: number[] = [];
  const take = (bytes: number) => expectations.take(bytes, () => retried.push(bytes));
  assert.equal(take(60), 60);
  assert.equal(take(50), null);
  assert.equal(take(45), null);
  assert.equal(take(40), 40);
  assert.deepEqual([proxy.used, retried], [100, []]);
  expectations.give(40, 40);
  assert.deepEqual(retried, [], "not in the middle of giving");
  await Promise.resolve();
  assert.deepEqual(retried, [50, 45]);
  assert.equal(take(0), 0, "what brings nothing is never held back");
});

Deno.test("Expectations: one at a time goes on past what transactions hold, however large", async () => {
  const proxy = new Budget(100);
  const expectations = new Expectations(proxy);
  let retries = 0;
  const retry = () => void retries++;
  proxy.take(90);
  assert.equal(expectations.take(1_000, retry), null, "somebody has to take his replies first");
  proxy.give(10);
  await Promise.resolve();
  assert.equal(retries, 1);
  assert.equal(expectations.take(1_000, retry), 20);
  assert.equal(expectations.take(1, retry), null);
  expectations.give(1_000, 20);
  await Promise.resolve();
  assert.deepEqual([retries, proxy.used], [2, 80]);
});

Deno.test("Expectations: what arrives counts where it is more than was expected, and waits for room", async () => {
  const proxy = new Budget(100);
  const expectations = new Expectations(proxy);
  const paused = new Set<string>();
  const arrive = (name: string, bytes: number) =>
    expectations.arrive(bytes, { pause: () => paused.add(name), resume: () => paused.delete(name) });
  const expected = [10, 10, 10].map((bytes) => expectations.take(bytes, () => {})!);
  const first = arrive("first", 60);
  assert.deepEqual([proxy.used, paused.size], [60, 0]);
  const second = arrive("second", 60);
  const third = arrive("third", 50);
  assert.deepEqual([proxy.used, [...paused]], [60, ["second", "third"]]);
  assert.equal(expectations.take(50, () => {}), null, "nothing else is begun in its place");
  first();
  first();
  assert.deepEqual([proxy.used, [...paused]], [60, ["third"]]);
  third();
  second();
  assert.equal(proxy.used, 30, "what is expected");

  // Nobody waits for these any more, and they still come.
  const late = arrive("late", 80);
  for (const taken of expected) expectations.give(10, taken);
  assert.equal(proxy.used, 80);
  proxy.take(20);
  const next = arrive("next", 10);
  assert.ok(paused.has("next"));
  proxy.give(20);
  await Promise.resolve();
  assert.ok(!paused.has("next"), "room came from elsewhere");
  late();
  next();
  assert.equal(proxy.used, 0);
});

Deno.test("Expectations: one reply at a time comes whatever its size", () => {
  const proxy = new Budget(100);
  const expectations = new Expectations(proxy);
  proxy.take(90);
  let pauses = 0;
  const flow = { pause: () => pauses++, resume: () => {} };
  const here = expectations.arrive(500, flow);
  assert.deepEqual([pauses, proxy.used], [0, 590]);
  assert.throws(() => proxy.take(1), { sqlstate: "53200" });
  assert.equal(expectations.take(0, () => {}), 0, "what brings nothing is never held back");
  here();
  assert.equal(proxy.used, 90);
});
