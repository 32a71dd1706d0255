// What is remembered of an endpoint that failed: for how long others come first.
//
//   state       failed                   leaderless               tried           proved
//   CLOSED      OPEN                     LEADERLESS               CLOSED          CLOSED
//   LEADERLESS  OPEN (*)                 LEADERLESS (*)           LEADERLESS (*)  CLOSED
//   OPEN        OPEN (*)                 OPEN (*)                 OPEN (*)        CLOSED
//   HALF_OPEN   OPEN, for twice as long  OPEN, for twice as long  HALF_OPEN       CLOSED
//
//   (*) until its time is over; then as HALF_OPEN
//
// "proved" is an answer for which the member had to ask its cluster: that it takes connections says nothing. "leaderless" is a
// refusal because there is no leader, or another one all at once, as all members give it while they elect one: they come before
// the one that lets calls wait, which may be the leader that they have lost and that does not know it yet. Who has none for
// longer than most elections take is no better than others.

/** How long the first failure counts, in milliseconds; each further one doubles it, up to the longest. */
const FIRST_MS = 2_000;
const LONGEST_MS = 60_000;

export type Breaker =
  | { readonly state: "CLOSED" }
  | { readonly state: "LEADERLESS" | "OPEN"; readonly until: number; readonly forMs: number }
  | { readonly state: "HALF_OPEN"; readonly forMs: number };

/** What speaks against an endpoint. */
export type Fault = "failed" | "leaderless";
export type BreakerEvent = Fault | "tried" | "proved";

export const CLOSED: Breaker = { state: "CLOSED" };

/** The state after the event; `now` in milliseconds. */
export function step(breaker: Breaker, event: BreakerEvent, now: number): Breaker {
  if (event === "proved" || breaker.state === "CLOSED" && event === "tried") return CLOSED;
  if (breaker.state === "CLOSED") {
    const state = event === "leaderless" ? "LEADERLESS" : "OPEN";
    return { state, until: now + FIRST_MS, forMs: FIRST_MS };
  }
  if (breaker.state !== "HALF_OPEN" && now < breaker.until) {
    return breaker.state === "LEADERLESS" && event === "failed" ? { ...breaker, state: "OPEN" } : breaker;
  }
  if (event === "tried") {
    return breaker.state === "HALF_OPEN" ? breaker : { state: "HALF_OPEN", forMs: breaker.forMs };
  }
  const forMs = Math.min(2 * breaker.forMs, LONGEST_MS);
  return { state: "OPEN", until: now + forMs, forMs };
}

/** Those with less come first; 0 for an endpoint that nothing speaks against. */
export function avoidance(breaker: Breaker, now: number): number {
  if (breaker.state === "CLOSED" || breaker.state === "HALF_OPEN" || now >= breaker.until) return 0;
  return breaker.state === "LEADERLESS" ? 1 : 2;
}
