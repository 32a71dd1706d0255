// How many test cases ran, read from what the test runners print.

export interface Counts {
  passed: number;
  failed: number;
}

/** Deno's closing line, as in "ok | 41 passed (3 steps) | 0 failed | 2 ignored (18s)"; null when it never came. */
export function denoCounts(output: string): Counts | null {
  // deno-lint-ignore no-control-regex -- colours
  const plain = output.replace(/\x1b\[[0-9;]*m/g, "");
  const match = [...plain.matchAll(/^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed/gm)].at(-1);
  return match === undefined ? null : { passed: Number(match[1]), failed: Number(match[2]) };
}

/** pg_regress's lines, of 14 and 15 ("test basic ... ok  5 ms") or of 16 and later ("ok 1 - basic"). */
export function regressCounts(output: string): Counts {
  const count = (pattern: RegExp) => [...output.matchAll(pattern)].length;
  return {
    passed: count(/^(?:test \S+\s+\.\.\. ok\b|ok \d+)/gm),
    failed: count(/^(?:test \S+\s+\.\.\. FAILED\b|not ok \d+)/gm),
  };
}

export function add(a: Counts, b: Counts): Counts {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed };
}
