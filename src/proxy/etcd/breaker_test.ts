import assert from "node:assert/strict";
import { type Breaker, type BreakerEvent, CLOSED, isAvoided, step } from "./breaker.ts";

/** The state after these events, each at its time. */
function after(...events: [BreakerEvent, number][]): Breaker {
  return events.reduce((breaker, [event, now]) => step(breaker, event, now), CLOSED);
}

Deno.test("Breaker: the table of transitions", () => {
  const open = after(["failed", 0]);
  assert.deepEqual(open, { state: "OPEN", until: 2_000, forMs: 2_000 });
  const half = step(open, "tried", 2_000);
  assert.deepEqual(half, { state: "HALF_OPEN", forMs: 2_000 });
  assert.equal(step(CLOSED, "tried", 0), CLOSED);
  assert.equal(step(CLOSED, "proved", 0), CLOSED);
  // Until its time is over, neither a try nor a further failure changes it; an answer does.
  assert.equal(step(open, "tried", 1_999), open);
  assert.equal(step(open, "failed", 1_999), open);
  assert.equal(step(open, "proved", 1), CLOSED);
  assert.equal(step(half, "tried", 3_000), half);
  assert.equal(step(half, "proved", 3_000), CLOSED);
  assert.deepEqual(step(half, "failed", 3_000), { state: "OPEN", until: 7_000, forMs: 4_000 });
  assert.deepEqual(step(open, "failed", 3_000), { state: "OPEN", until: 7_000, forMs: 4_000 });
});

Deno.test("Breaker: it is avoided until its time is over, which is never longer than a minute", () => {
  let breaker = CLOSED;
  let now = 0;
  for (let i = 0; i < 20; i++) {
    breaker = step(breaker, "failed", now);
    assert.ok(breaker.state === "OPEN" && breaker.until - now <= 60_000);
    assert.ok(isAvoided(breaker, breaker.until - 1));
    now = breaker.until;
    assert.ok(!isAvoided(breaker, now));
    breaker = step(breaker, "tried", now);
    assert.ok(!isAvoided(breaker, now));
  }
});
