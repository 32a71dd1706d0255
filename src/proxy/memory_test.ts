import assert from "node:assert/strict";
import { EtcdFdwError } from "../base/errors.ts";
import { Budget } from "./memory.ts";

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
