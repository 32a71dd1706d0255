import assert from "node:assert/strict";
import { nextState, type RequestEvent, type RequestState } from "./request.ts";

Deno.test("Request: the table of transitions; what is final stays", () => {
  const events: RequestEvent[] = ["start", "park", "ready", "answer", "cancel", "late", "lose"];
  const table: Record<RequestState, (RequestState | null)[]> = {
    QUEUED: ["RUNNING", "PARKED", null, "ANSWERED", "CANCELLED", "LATE", "LOST"],
    PARKED: [null, null, "READY", "ANSWERED", "CANCELLED", "LATE", "LOST"],
    READY: ["RUNNING", null, null, "ANSWERED", "CANCELLED", "LATE", "LOST"],
    RUNNING: [null, null, null, "ANSWERED", "CANCELLED", "LATE", "LOST"],
    ANSWERED: [null, null, null, null, null, null, null],
    CANCELLED: [null, null, null, null, null, null, null],
    LATE: [null, null, null, null, null, null, null],
    LOST: [null, null, null, null, null, null, null],
  };
  for (const [state, next] of Object.entries(table)) {
    assert.deepEqual(events.map((event) => nextState(state as RequestState, event)), next, state);
  }
});
