// Waiting with a deadline. A test never sleeps for a fixed time: it probes until what it waits for is true, and when
// that does not happen in time the failure says what was seen last, which is most often the whole explanation.

/** How long to wait and how often to look; milliseconds. */
export interface WaitOptions {
  /** Default 10,000. */
  timeoutMs?: number;
  /** Pause between two probes; default 25. */
  intervalMs?: number;
}

/**
 * Calls `probe` until it answers with something truthy, which is returned. A probe that throws or that has not
 * answered yet counts as "not yet". Throws an Error that names `what`, the time and the last value or error.
 * A probe still running at the deadline is left to itself, so it needs a bound of its own.
 */
export async function waitFor<T>(
  what: string,
  probe: () => T | Promise<T>,
  options: WaitOptions = {},
): Promise<NonNullable<T>> {
  const timeoutMs = options.timeoutMs ?? 10_000;
  const deadline = performance.now() + timeoutMs;
  let last = "the probe has not answered";
  let cause: unknown;
  for (;;) {
    try {
      const seen = await withTimeout(Promise.resolve(probe()), deadline - performance.now());
      if (seen === TIMED_OUT) break;
      if (seen) return seen as NonNullable<T>;
      last = Deno.inspect(seen);
      cause = undefined;
    } catch (error) {
      last = error instanceof Error ? `error: ${error.message}` : `error: ${String(error)}`;
      cause = error;
    }
    if (performance.now() >= deadline) break;
    await delay(options.intervalMs ?? 25);
  }
  throw new Error(`${what} not seen within ${timeoutMs} ms; last: ${last}`, { cause });
}

/** Resolves after `ms` milliseconds. */
export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** What {@linkcode withTimeout} resolves to when time is up. */
export const TIMED_OUT = Symbol("timed out");

/** The promise's value, or TIMED_OUT after `ms` milliseconds. The promise itself goes on. */
export async function withTimeout<T>(promise: Promise<T>, ms: number): Promise<T | typeof TIMED_OUT> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<typeof TIMED_OUT>((resolve) => {
    timer = setTimeout(() => resolve(TIMED_OUT), Math.max(0, ms));
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
