// What the benchmarks share: medians of several runs, and lines that a program or a person can read.

/** One figure. `ratio` is to the limit that was measured in the same run. */
export interface Figure {
  case: string;
  what: string;
  value: number;
  unit: "ms" | "MB";
  limit?: { what: string; value: number };
  ratio?: number;
}

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Milliseconds of one run. */
export async function time(body: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await body();
  return performance.now() - started;
}

/**
 * Runs two things in turn, A B A B …, after one turn that does not count, so that a drift of the machine hits both.
 *
 * @returns The medians in milliseconds, and the median of the ratios A/B of the turns
 */
export async function inTurn(runs: number, a: () => Promise<unknown>, b: () => Promise<unknown>) {
  const as: number[] = [];
  const bs: number[] = [];
  for (let i = 0; i <= runs; i++) {
    const ta = await time(a);
    const tb = await time(b);
    if (i > 0) {
      as.push(ta);
      bs.push(tb);
    }
  }
  return { a: median(as), b: median(bs), ratio: median(as.map((t, i) => t / bs[i])) };
}

const round = (value: number) => Math.round(value * 1000) / 1000;

export function jsonLine(figure: Figure): string {
  const { value, limit, ratio, ...rest } = figure;
  return JSON.stringify({
    ...rest,
    value: round(value),
    ...(limit && { limit: { what: limit.what, value: round(limit.value) } }),
    ...(ratio !== undefined && { ratio: round(ratio) }),
  });
}

/** The figures as a table for a terminal. */
export function table(figures: Figure[]): string {
  const rows = figures.map((f) => [
    f.case,
    f.what,
    `${f.value.toFixed(f.value < 10 ? 3 : 1)} ${f.unit}`,
    f.limit === undefined
      ? ""
      : `${f.limit.value.toFixed(f.limit.value < 10 ? 3 : 1)} ${f.unit} (${f.limit.what})`,
    f.ratio === undefined ? "" : f.ratio.toFixed(2),
  ]);
  const all = [["case", "what", "median", "limit", "ratio"], ...rows];
  const widths = all[0].map((_, column) => Math.max(...all.map((row) => row[column].length)));
  return all.map((row) => row.map((cell, i) => cell.padEnd(widths[i])).join("  ").trimEnd()).join("\n");
}
