// What was done for each foreign server and role since the proxy has started, for monitoring.

import type { Label } from "./handle.ts";

export interface Counters {
  calls: number;
  rows: number;
  bytes_sent: number;
  bytes_received: number;
  errors: number;
  /** Milliseconds. */
  latency_sum: number;
  latency_max: number;
  coalesced: number;
  grouped: number;
  retries: number;
  failovers: number;
  transactions: number;
  /** Reads that a cache has answered, those that it should have, and the bytes of the former. */
  cache_hits: number;
  cache_misses: number;
  cache_bytes: number;
}

export interface StatRow extends Counters, Label {}

function zero(): Counters {
  return {
    ...{ calls: 0, rows: 0, bytes_sent: 0, bytes_received: 0, errors: 0, latency_sum: 0, latency_max: 0 },
    ...{ coalesced: 0, grouped: 0, retries: 0, failovers: 0, transactions: 0 },
    ...{ cache_hits: 0, cache_misses: 0, cache_bytes: 0 },
  };
}

export class Stats {
  readonly #counters = new Map<string, StatRow>();
  readonly #wallClock: () => number;
  /** Milliseconds since the epoch. */
  resetAt: number;

  constructor(wallClock: () => number) {
    this.#wallClock = wallClock;
    this.resetAt = wallClock();
  }

  of({ database, server, role }: Label): Counters {
    const key = JSON.stringify([database, server, role]);
    let row = this.#counters.get(key);
    if (row === undefined) this.#counters.set(key, row = { database, server, role, ...zero() });
    return row;
  }

  rows(): StatRow[] {
    return [...this.#counters.values()];
  }

  /** Rows that are in use stay, with zeros. */
  reset(): void {
    for (const row of this.#counters.values()) Object.assign(row, zero());
    this.resetAt = this.#wallClock();
  }
}
