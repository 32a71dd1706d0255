import assert from "node:assert/strict";
import { encodeUtf8 } from "../base/bytes.ts";
import { eachField } from "./ranges.ts";
import { encodeSteps, groupingBytes, levelsFor, mostSteps, type Step, stepSize } from "./nested.ts";

/** The generator's result. */
function encode(steps: Step[], fanOuts: number[]): Uint8Array {
  const work = encodeSteps(0, steps.length, fanOuts, (i) => steps[i], false);
  for (;;) {
    const { done, value } = work.next();
    if (done) return value as Uint8Array;
  }
}

/** What etcd counts: false when a level has more than its parent left it. */
function isAllowed(txn: Uint8Array, budget: number, seen: { ops: number; compares: number }): boolean {
  const lists: Record<number, Uint8Array[]> = { 1: [], 2: [], 3: [] };
  eachField(txn, (field, reader) => {
    lists[field].push(reader.bytes());
    return true;
  });
  const most = Math.max(...Object.values(lists).map((list) => list.length));
  seen.compares += lists[1].length;
  let allowed = most <= budget;
  for (const op of [...lists[2], ...lists[3]]) {
    eachField(op, (field, reader) => {
      const body = reader.bytes();
      if (field === 4) allowed = isAllowed(body, budget - most, seen) && allowed;
      else if (field === 2) seen.ops++;
      return true;
    });
  }
  return allowed;
}

const key = (i: number) => encodeUtf8(`/k/${i}`);
const steps = (count: number): Step[] =>
  Array.from({ length: count }, (_, i): Step => ({
    guard: i % 7 === 0 ? null : { key: key(i), mod: BigInt(i) * 12345678901n },
    op: i % 5 === 0
      ? null
      : { put: { key: key(i), value: encodeUtf8("x".repeat(i % 300)), lease: 2n ** 62n } },
  }));

Deno.test("encodeSteps: no level has more than etcd's limit leaves it, and every step is there once", () => {
  for (const limit of [1, 2, 3, 8, 16, 128, 1000]) {
    for (const count of [1, 2, limit, limit + 1, 100, 129, 4096, 4097, 10_000]) {
      const fanOuts = levelsFor(count, limit, true);
      assert.equal(fanOuts === null, count > mostSteps(limit, true), `${count} of ${limit}`);
      if (fanOuts === null) continue;
      const seen = { ops: 0, compares: 0 };
      const all = steps(count);
      assert.ok(isAllowed(encode(all, fanOuts), limit, seen), `${count} of ${limit}`);
      assert.deepEqual(seen, {
        ops: all.filter(({ op }) => op !== null).length,
        compares: all.filter(({ guard }) => guard !== null).length,
      });
    }
  }
  assert.ok(mostSteps(128, true) > 70_000);
  assert.equal(mostSteps(128, false), 128);
  assert.deepEqual(levelsFor(128, 128, true), [128]);
});

Deno.test("stepSize: what a flat Txn of one step takes", () => {
  for (const mod of [0n, 127n, 128n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 62n]) {
    for (const length of [1, 100, 127, 128, 20_000]) {
      const bytes = encodeUtf8("k".repeat(length));
      const all: Step[] = [
        { guard: { key: bytes, mod }, op: { put: { key: bytes, value: bytes, lease: mod } } },
        { guard: { key: bytes, rangeEnd: bytes, mod }, op: { delete: { key: bytes, rangeEnd: bytes } } },
        { guard: null, op: { delete: { key: bytes } } },
      ];
      for (const step of all) assert.equal(encode([step], [1]).length, stepSize(step));
    }
  }
});

Deno.test("groupingBytes: never less than what grouping adds, and not much more", () => {
  // From one to the next: small enough to repeat.
  let seed = 1;
  const below = (end: number) => (seed = seed * 48271 % 0x7fffffff) % end;
  for (const limit of [2, 8, 16, 128, 1000]) {
    for (let round = 0; round < 40; round++) {
      const count = 1 + below(Math.min(mostSteps(limit, true), 6000));
      const longest = [10, 150, 3000][below(3)];
      const unguarded = below(3) * 45;
      const all = Array.from({ length: count }, (): Step => ({
        guard: below(100) < unguarded ? null : { key: new Uint8Array(1 + below(longest)), mod: 5n },
        op: { put: { key: new Uint8Array(1), value: new Uint8Array(below(100)), lease: 0n } },
      }));
      const lengths = all.flatMap(({ guard }) => guard === null ? [] : [guard.key.length]);
      const shortest = lengths.length === 0 ? null : Math.min(...lengths);
      const own = all.reduce((sum, step) => sum + stepSize(step), 0);
      const fanOuts = levelsFor(count, limit, true)!;
      const added = encode(all, fanOuts).length - own;
      const bound = groupingBytes(count, shortest, { maxTxnOps: limit, nested: true, rights: false });
      const what = `${count} of ${limit}: ${added}, at most ${bound}`;
      assert.ok(added <= bound, what);
      if (unguarded === 0) assert.ok(bound <= 2 * added + 100, what);
      if (fanOuts.length === 1) assert.equal(bound, 0);
    }
  }
});
