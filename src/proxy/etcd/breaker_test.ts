import assert from "node:assert/strict";
import { avoidance, type Breaker, type BreakerEvent, CLOSED, step } from "./breaker.ts";

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
  const leaderless = after(["leaderless", 0]);
  assert.deepEqual(leaderless, { state: "LEADERLESS", until: 2_000, forMs: 2_000 });
  assert.equal(step(leaderless, "leaderless", 1_999), leaderless);
  assert.equal(step(leaderless, "tried", 1_999), leaderless);
  assert.deepEqual(step(leaderless, "tried", 2_000), half);
  assert.equal(step(leaderless, "proved", 1), CLOSED);
  // That it lets calls wait counts more than that it misses its leader, which is not news any more after its time.
  assert.deepEqual(step(leaderless, "failed", 1), open);
  assert.equal(step(open, "leaderless", 1), open);
  const long = { state: "OPEN", until: 7_000, forMs: 4_000 };
  for (const breaker of [leaderless, half]) assert.deepEqual(step(breaker, "leaderless", 3_000), long);
});

Deno.test("Breaker: it is avoided until its time is over, which is never longer than a minute", () => {
  let breaker = CLOSED;
  let now = 0;
  for (let i = 0; i < 20; i++) {
    breaker = step(breaker, "failed", now);
    assert.ok(breaker.state === "OPEN" && breaker.until - now <= 60_000);
    assert.equal(avoidance(breaker, breaker.until - 1), 2);
    now = breaker.until;
    assert.equal(avoidance(breaker, now), 0);
    breaker = step(breaker, "tried", now);
    assert.equal(avoidance(breaker, now), 0);
  }
});

Deno.test("Breaker: who only misses a leader comes before who lets calls wait, while an election may last", () => {
  const leaderless = after(["leaderless", 0]);
  assert.deepEqual([0, 1_999, 2_000].map((now) => avoidance(leaderless, now)), [1, 1, 0]);
  assert.equal(avoidance(step(leaderless, "leaderless", 2_000), 2_001), 2);
  assert.equal(avoidance(CLOSED, 0), 0);
});
