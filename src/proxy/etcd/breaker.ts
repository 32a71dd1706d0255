// What is remembered of an endpoint that failed: for how long others come first.
//
//   state      failed                  tried              proved
//   CLOSED     OPEN                    CLOSED             CLOSED
//   OPEN       OPEN (*)                OPEN (*)           CLOSED
//   HALF_OPEN  OPEN, for twice as long HALF_OPEN          CLOSED
//
//   (*) until its time is over; then as HALF_OPEN
//
// "proved" is an answer for which the member had to ask its cluster: that it takes connections says nothing.

/** How long the first failure counts, in milliseconds; each further one doubles it, up to the longest. */
const FIRST_MS = 2_000;
const LONGEST_MS = 60_000;

export type Breaker =
  | { readonly state: "CLOSED" }
  | { readonly state: "OPEN"; readonly until: number; readonly forMs: number }
  | { readonly state: "HALF_OPEN"; readonly forMs: number };

export type BreakerEvent = "failed" | "tried" | "proved";

export const CLOSED: Breaker = { state: "CLOSED" };

/** The state after the event; `now` in milliseconds. */
export function step(breaker: Breaker, event: BreakerEvent, now: number): Breaker {
  if (event === "proved" || breaker.state === "CLOSED" && event === "tried") return CLOSED;
  if (isAvoided(breaker, now)) return breaker;
  if (breaker.state === "CLOSED") return { state: "OPEN", until: now + FIRST_MS, forMs: FIRST_MS };
  if (event === "tried") {
    return breaker.state === "HALF_OPEN" ? breaker : { state: "HALF_OPEN", forMs: breaker.forMs };
  }
  const forMs = Math.min(2 * breaker.forMs, LONGEST_MS);
  return { state: "OPEN", until: now + forMs, forMs };
}

/** Whether another endpoint comes first. */
export function isAvoided(breaker: Breaker, now: number): boolean {
  return breaker.state === "OPEN" && now < breaker.until;
}
