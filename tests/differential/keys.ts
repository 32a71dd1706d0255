// The keys and values that stand in etcd, and the order in which they are written.
//
// Strings of bytes are written as text with one character for each byte ("binary"), so that text and bytea are made,
// cut and changed by the same code.

import type { Random } from "./prng.ts";

const encoder = new TextEncoder();

/** Both hold the characters that LIKE and JSON treat specially, so that a prefix that is not quoted shows. */
export const TEXT_PREFIX = "d_%\\t/";
export const BINARY_PREFIX = "d_%\\b/";

export function toBinary(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

export function fromBinary(binary: string): Uint8Array {
  return Uint8Array.from(binary, (ch) => ch.charCodeAt(0));
}

/** UTF-8, as binary. */
export function utf8(text: string): string {
  return toBinary(encoder.encode(text));
}

const CONTROL = Array.from({ length: 31 }, (_, i) => String.fromCharCode(i + 1));
/** The ends of UTF-8's lengths, and letters that linguistic collations order otherwise. */
const WIDE = [..."éÄößñ日本語漢", "\u{80}", "\u{7ff}", "\u{800}", "\u{d7ff}", "\u{e000}", "\u{fffd}"];
const WIDEST = ["😀", "🎉", "\u{10000}", "\u{10ffff}"];
const ALPHABET = [
  ...["a", "b", "A", "B", "z", "0", "1", "9", "%", "_", "\\", "'", '"', " ", "-", ".", "/", "\x7f"],
  ...CONTROL,
  ...WIDE,
  ...WIDEST,
];

const WORDS = [
  "",
  "a",
  "A",
  "ab",
  "aB",
  "AB",
  "abc",
  "b",
  "B",
  "key",
  "Key",
  "KEY",
  "kEy",
  "1",
  "2",
  "10",
  "02",
];
const SPECIAL = [
  "%",
  "%%",
  "_",
  "__",
  "\\",
  "\\\\",
  "\\%",
  "\\_",
  "'",
  "''",
  '"',
  " ",
  "  ",
  "a%",
  "a_",
  "a\\",
];
const NESTED = ["a/", "a/b", "a/b/c", "a0", "a!", "a b", "é", "e", "E", "É", "f", "e\u{301}", "ss", "ß"];

/** Remainders of keys that are text: each once. */
export function textKeys(random: Random, count: number): string[] {
  const long = "service/production/eu-central-1/".repeat(6);
  const huge = "x".repeat(4000);
  const keys = new Set([...WORDS, ...SPECIAL, ...NESTED, ...CONTROL, ...WIDE, ...WIDEST, "\x7f"]);
  for (const tail of ["", "a", "é", "\x01"]) keys.add(huge + tail);
  keys.add("日".repeat(2500));
  // What strips the prefix twice, or looks for it in the wrong place.
  for (const tail of ["", "a"]) keys.add(TEXT_PREFIX + tail).add(BINARY_PREFIX + tail);
  for (let i = 0; i < 40; i++) keys.add(`${long}node-${String(i).padStart(2, "0")}`);
  for (let i = 0; i < 15; i++) keys.add(`${long}NODE-${i}`);
  while (keys.size < count) {
    const stem = random.chance(0.3) ? random.pick(["a", "ab", "key", "a/b/", long]) : "";
    keys.add(stem + random.list(random.between(1, 5), () => random.pick(ALPHABET)).join(""));
  }
  return [...keys];
}

/** Remainders of keys that are any bytes, as binary: each once. */
export function binaryKeys(random: Random, count: number): string[] {
  const keys = new Set([
    "",
    "\0",
    "\0\0",
    "\xff",
    "\xff\xff",
    "\xff".repeat(8),
    "\xff\xfe",
    "\xff\0",
    "\xfe\xff",
  ]);
  // A cut character, a wrong one, a surrogate, and one behind the last.
  for (const bad of ["\xc3", "\xc3(", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80", "\xbf"]) keys.add(bad);
  for (const stem of ["a", "ab", "key", "%", "_", "\\"]) {
    for (const tail of ["", "\0", "\0\0", "\xff", "\xff\xff", "\0\xff", "a"]) keys.add(stem + tail);
  }
  for (const tail of ["", "\0", "\xff"]) keys.add("\xff".repeat(3000) + tail);
  for (const text of textKeys(random, 0)) if (random.chance(0.4)) keys.add(utf8(text));
  while (keys.size < count) {
    const byte = () => random.chance(0.4) ? random.pick([0, 0xff, 0x25, 0x5f, 0x5c]) : random.below(256);
    keys.add(random.list(random.between(1, 5), () => String.fromCharCode(byte())).join(""));
  }
  return [...keys];
}

const SHARED = ["", "same", "Same", "dup", "1", "2", "10", "é", "NULL", "%", "\\"];

/** Many keys have the same value, so that sorting by it leaves ties. */
export function textValue(random: Random): string {
  return random.weighted<() => string>([
    [5, () => random.pick(SHARED)],
    [2, () => String(random.between(-5, 300))],
    [3, () => random.list(random.between(1, 6), () => random.pick(ALPHABET)).join("")],
    [0.2, () => "v".repeat(3000)],
  ])();
}

export function binaryValue(random: Random): string {
  if (random.chance(0.7)) return utf8(textValue(random));
  return random.list(random.between(0, 4), () => String.fromCharCode(random.below(256))).join("");
}

/** Keys that no table may show: beside the prefixes, before and behind them, and such that differ in one place. */
export function neighbours(): string[] {
  return [
    ...["d_%\\", "d_%\\a", "d_%\\b", "d_%\\b.", "d_%\\b.\xff\xff", "d_%\\b0", "d_%\\b0a", "d_%\\c"],
    ...[
      "d_%\\s\xff",
      "d_%\\t",
      "d_%\\t.",
      "d_%\\t.~",
      "d_%\\t0",
      "d_%\\t0/",
      "d_%\\u/a",
      "d",
      "e",
      "\0",
      "\xff",
    ],
    ...["dX%\\t/a", "d_XX\\t/a", "d_%t/a", "D_%\\T/a", "d_%\\T/a", "a", "key", "d_%\\\\t/a"],
  ];
}

/** One step of what is written: several puts are one Txn, and so share a revision. */
export type Step =
  | { puts: { key: string; value: string; leased: boolean }[] }
  | { drop: string };

/**
 * Writes all keys, so that revisions and versions differ from the order of the keys and from each other: one by one and
 * in Txns, some again, some deleted and made anew, a few deleted for good.
 */
export function history(random: Random, keys: readonly string[], value: () => string): Step[] {
  const put = (key: string) => ({ key, value: value(), leased: random.chance(0.08) });
  const steps: Step[] = [];
  const shuffled = random.shuffled(keys);
  for (let at = 0; at < shuffled.length;) {
    const size = random.chance(0.5) ? 1 : random.between(2, 25);
    steps.push({ puts: shuffled.slice(at, at + size).map(put) });
    at += size;
  }
  for (let i = 0; i < keys.length / 4; i++) {
    const size = random.chance(0.7) ? 1 : random.between(2, 8);
    steps.push({ puts: random.shuffled(keys).slice(0, size).map(put) });
  }
  const dropped = random.shuffled(keys).slice(0, keys.length / 10);
  for (const key of dropped) steps.push({ drop: key });
  for (const key of dropped.slice(0, -5)) steps.push({ puts: [put(key)] });
  // Some keys must be as new as can be, and one by one, whatever the above has done.
  for (const key of random.shuffled(keys).slice(0, 5)) {
    if (!dropped.slice(-5).includes(key)) steps.push({ puts: [put(key)] });
  }
  return steps;
}
