import assert from "node:assert/strict";
import {
  binaryKeys,
  fromBinary,
  history,
  neighbours,
  TEXT_PREFIX,
  textKeys,
  toBinary,
  utf8,
} from "./keys.ts";
import { Random } from "./prng.ts";

Deno.test("binary strings are bytes", () => {
  const all = Uint8Array.from({ length: 256 }, (_, i) => i);
  assert.deepEqual(fromBinary(toBinary(all)), all);
  assert.equal(utf8("é"), "\xc3\xa9");
});

Deno.test("text keys have what is hard: nothing, long ones, wildcards, quotes, control bytes, wide characters", () => {
  const keys = textKeys(new Random(1), 300);
  assert.ok(keys.length >= 300 && new Set(keys).size === keys.length);
  for (
    const key of ["", "%", "_", "\\", "'", '"', "\x01", "\x1f", "\x7f", " ", "é", "日", "😀", "Key", "10"]
  ) {
    assert.ok(keys.includes(key), JSON.stringify(key));
  }
  assert.ok(keys.filter((key) => key.length > 2000).length >= 4);
  // PostgreSQL's text holds neither NUL nor half of a surrogate pair.
  assert.ok(keys.every((key) => !key.includes("\0") && key.isWellFormed()));
});

Deno.test("binary keys hold NUL, 0xff and what is no UTF-8", () => {
  const keys = binaryKeys(new Random(1), 300);
  assert.ok(keys.length >= 300 && new Set(keys).size === keys.length);
  for (const key of ["", "\0", "\xff", "\xff\xff", "a\0", "a\xff", "\xc3"]) assert.ok(keys.includes(key));
});

Deno.test("neighbours stand outside the prefix, on both sides", () => {
  const outside = neighbours();
  assert.ok(outside.every((key) => !key.startsWith(TEXT_PREFIX)));
  assert.ok(outside.some((key) => key < TEXT_PREFIX) && outside.some((key) => key > TEXT_PREFIX));
  assert.ok(outside.includes("d_%\\t0"), "the first key behind the prefix");
});

Deno.test("a history writes every key, with shared revisions, new versions and deletions", () => {
  const keys = textKeys(new Random(1), 300);
  const steps = history(new Random(2), keys, () => "");
  const puts = steps.flatMap((step) => "puts" in step ? [step.puts] : []);
  assert.equal(new Set(puts.flat().map(({ key }) => key)).size, keys.length);
  assert.ok(puts.some((txn) => txn.length > 1) && puts.some((txn) => txn.length === 1));
  assert.ok(puts.every((txn) => new Set(txn.map(({ key }) => key)).size === txn.length));
  assert.ok(puts.flat().length > keys.length + 50);
  const drops = steps.flatMap((step) => "drop" in step ? [step.drop] : []);
  const last = steps.slice(steps.findLastIndex((step) => "drop" in step));
  const anew = last.flatMap((step) => "puts" in step ? step.puts.map(({ key }) => key) : []);
  const gone = drops.filter((key) => !anew.includes(key));
  assert.ok(drops.length > gone.length && gone.length > 0);
});
