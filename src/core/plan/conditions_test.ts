import assert from "node:assert/strict";
import { encodeUtf8, printable, toHex } from "../../base/bytes.ts";
import { ALL_KEYS, prefixRange, singleKey } from "../../etcd/keyrange.ts";
import {
  applyConditions,
  type Comparator,
  type Condition,
  MAX_RANGES,
  rangeBound,
  readLikePattern,
  recognize,
} from "./conditions.ts";
import type { Collation, Operand, Qual } from "../protocol.ts";
import { array, COLUMNS, compare as qual, hex, key, param, text } from "../testing_input.ts";

const NOTHING = new Uint8Array(0);
const compare = (op: string, left: Operand, right: Operand, collation?: Collation) =>
  recognize(qual(op, left, right, collation), COLUMNS);
const starts = (ranges: { start: Uint8Array }[]) => ranges.map(({ start }) => toHex(start));

Deno.test("readLikePattern tells literals, prefixes and the rest apart", () => {
  const cases: [string, string, string][] = [
    ["abc", "abc", "equal"],
    ["", "", "equal"],
    ["abc%", "abc", "prefix"],
    ["abc%%", "abc", "prefix"],
    ["%", "", "prefix"],
    ["a%c", "a", "other"],
    ["a_", "a", "other"],
    ["%x%", "", "other"],
    ["a\\_c%", "a_c", "prefix"],
    ["a\\%c", "a%c", "equal"],
    ["a\\\\%", "a\\", "prefix"],
    ["a\\", "a", "other"],
    ["a%\\", "a", "other"],
    ["é%", "é", "prefix"],
  ];
  for (const [pattern, literal, rest] of cases) {
    const read = readLikePattern(encodeUtf8(pattern));
    assert.equal(printable(read.literal), printable(encodeUtf8(literal)), pattern);
    assert.equal(read.rest, rest, pattern);
  }
});

Deno.test("recognize takes equality either way round", () => {
  const expected = { condition: { kind: "equal", value: "61" }, exact: true };
  assert.deepEqual(compare("=", key, text("a")), expected);
  assert.deepEqual(compare("=", text("a"), key), expected);
});

Deno.test("recognize does not turn prefix operators round", () => {
  assert.equal(compare("^@", text("abc"), key), null);
  assert.equal(compare("~~", text("abc"), key), null);
});

Deno.test("recognize leaves nondeterministic collations alone", () => {
  for (const op of ["=", "^@", "~~"]) assert.equal(compare(op, key, text("a"), "nondeterministic"), null);
});

Deno.test("recognize leaves other columns and operators alone", () => {
  assert.equal(compare("=", { column: "value" }, text("a")), null);
  assert.equal(compare("=", key, { column: "value" }), null);
  assert.equal(compare("<>", key, text("a")), null);
  assert.equal(compare("~~*", key, text("a%")), null);
  assert.equal(recognize(null, COLUMNS), null);
});

Deno.test("recognize takes order where it is etcd's, either way round", () => {
  const condition = (kind: string) => ({ condition: { kind, value: "61" }, exact: true });
  assert.deepEqual(compare("<", key, text("a"), "c"), condition("<"));
  assert.deepEqual(compare("<", text("a"), key, "c"), condition(">"));
  assert.deepEqual(compare(">=", text("a"), key, "c"), condition("<="));
  assert.deepEqual(compare(">=", key, { hex: "61", type: "bytea" }, "none"), condition(">="));
  for (const op of ["<", "<=", ">", ">="]) assert.equal(compare(op, key, text("a"), "deterministic"), null);
  assert.deepEqual(compare("<", key, { null: true, type: "text" }, "c"), {
    condition: { kind: "never" },
    exact: true,
  });
});

Deno.test("recognize knows that no key is NULL", () => {
  const nothing: Operand = { null: true, type: "text" };
  assert.deepEqual(compare("is not null", key, nothing, "none"), { exact: true });
  assert.equal(compare("is not null", { column: "value" }, nothing, "none"), null);
  assert.deepEqual(compare("is null", key, nothing, "none"), { condition: { kind: "never" }, exact: true });
  assert.equal(compare("is null", { column: "value" }, nothing, "none"), null);
});

Deno.test("applyConditions makes ranges of order", () => {
  const range = (...conditions: [Comparator, string][]) =>
    applyConditions(
      ALL_KEYS,
      conditions.map(([kind, value]) => ({ kind, value: toHex(encodeUtf8(value)) })),
      new Uint8Array(0),
      [],
    );
  const bytes = (start: string, end: string | null) => ({
    start: encodeUtf8(start),
    end: end === null ? null : encodeUtf8(end),
  });
  assert.deepEqual(range([">=", "b"], ["<", "d"]), [bytes("b", "d")]);
  assert.deepEqual(range([">", "b"], ["<=", "d"]), [bytes("b\0", "d\0")]);
  assert.deepEqual(range([">=", "b"], ["<=", "b"]), [bytes("b", "b\0")]);
  assert.deepEqual(range([">", "b"], ["<=", "b"]), []);
  assert.deepEqual(range(["<", ""]), []);
  assert.deepEqual(range(["<=", ""]), []);
  assert.deepEqual(range([">=", ""]), [ALL_KEYS]);
});

Deno.test("recognize takes a list of keys, exactly while it is short", () => {
  const list = (array: (string | null)[]): Operand => ({ array, type: "text[]" });
  assert.deepEqual(compare("= any", key, list(["62", null, "61"])), {
    condition: { kind: "any", value: ["62", "61"] },
    exact: true,
  });
  const many = Array.from({ length: MAX_RANGES + 1 }, (_, i) => toHex(encodeUtf8(String(i))));
  assert.equal(compare("= any", key, list(many))?.exact, false);
  assert.deepEqual(compare("= any", key, { param: 0, type: "text[]" })?.exact, false);
  assert.deepEqual(compare("= any", key, { null: true, type: "text[]" }), {
    condition: { kind: "never" },
    exact: true,
  });
  assert.equal(compare("= any", { column: "value" }, list(["61"])), null);
  assert.equal(compare("= any", key, list(["61"]), "nondeterministic"), null);
});

Deno.test("applyConditions makes one range of each key of a list, in order and once", () => {
  const nothing = NOTHING;
  const any = (value: string[] | number) => ({ kind: "any" as const, value });
  assert.deepEqual(starts(applyConditions(ALL_KEYS, [any(["62", "61", "62"])], nothing, [])), ["61", "62"]);
  assert.deepEqual(starts(applyConditions(ALL_KEYS, [any(["62", "61"]), any(["62", "63"])], nothing, [])), [
    "62",
  ]);
  const narrowed = applyConditions(ALL_KEYS, [any(["61", "62"]), { kind: ">", value: "61" }], nothing, []);
  assert.deepEqual(starts(narrowed), ["62"]);
  assert.deepEqual(applyConditions(ALL_KEYS, [any([])], nothing, []), []);
  assert.deepEqual(starts(applyConditions(ALL_KEYS, [any(0)], nothing, [["62", null]])), ["62"]);
  assert.deepEqual(applyConditions(ALL_KEYS, [any(0)], nothing, [null]), []);
  const many = Array.from({ length: MAX_RANGES + 1 }, (_, i) => toHex(encodeUtf8(String(1000 + i))));
  const around = applyConditions(ALL_KEYS, [any(many)], nothing, []);
  assert.deepEqual(around, [{ start: encodeUtf8("1000"), end: encodeUtf8("1128\0") }]);
});

Deno.test("recognize knows that a comparison with NULL holds for no row", () => {
  assert.deepEqual(compare("=", key, { null: true, type: "text" }), {
    condition: { kind: "never" },
    exact: true,
  });
});

Deno.test("recognize checks a LIKE with a param again", () => {
  assert.deepEqual(compare("~~", key, { param: 0, type: "text" }), {
    condition: { kind: "like", value: 0 },
    exact: false,
  });
  assert.deepEqual(compare("~~", key, text("a_c%"))?.exact, false);
  assert.deepEqual(compare("~~", key, text("a%"))?.exact, true);
});

Deno.test("applyConditions narrows the range and puts the stripped prefix in front", () => {
  const table = prefixRange(encodeUtf8("/app/"));
  const range = applyConditions(table, [{ kind: "prefix", value: "61" }], encodeUtf8("/app/"), []);
  assert.deepEqual(range, [prefixRange(encodeUtf8("/app/a"))]);
});

Deno.test("applyConditions finds contradictions and NULL params", () => {
  const two = [{ kind: "equal", value: "61" }, { kind: "equal", value: "62" }] as const;
  assert.deepEqual(applyConditions(ALL_KEYS, [...two], new Uint8Array(0), []), []);
  assert.deepEqual(applyConditions(ALL_KEYS, [{ kind: "equal", value: 0 }], new Uint8Array(0), [null]), []);
  assert.deepEqual(applyConditions(null, [{ kind: "equal", value: "61" }], new Uint8Array(0), []), []);
});

Deno.test("applyConditions knows that no key is empty", () => {
  assert.deepEqual(applyConditions(ALL_KEYS, [{ kind: "equal", value: "" }], new Uint8Array(0), []), []);
});

Deno.test("recognize takes a key only from a column that shows its bytes", () => {
  const typed = (type: string, typmod = false) =>
    recognize(qual("=", key, text("a")), [{ ...COLUMNS[0], type, typmod }]);
  assert.notEqual(typed("character varying"), null);
  assert.equal(typed("character varying", true), null);
  assert.equal(typed("integer"), null);
});

Deno.test("recognize takes OR when every arm narrows the key", () => {
  const a = qual("=", key, text("a"));
  const b = qual("^@", key, text("b"));
  const other = qual("=", { column: "value" }, text("x"));
  const ranges = (of: Qual) => {
    const recognized = recognize(of, COLUMNS)!;
    return [starts(applyConditions(ALL_KEYS, [recognized.condition!], NOTHING, [])), recognized.exact];
  };
  assert.deepEqual(ranges({ or: [b, a] }), [["61", "62"], true]);
  assert.deepEqual(ranges({ or: [a, { and: [b, other] }] }), [["61", "62"], false]);
  assert.equal(recognize({ or: [a, other] }, COLUMNS), null);
  assert.equal(recognize({ or: [a, null] }, COLUMNS), null);
  const overlapping = recognize({ or: [qual("^@", key, text("b")), qual("=", key, text("bc"))] }, COLUMNS)!;
  assert.deepEqual(applyConditions(ALL_KEYS, [overlapping.condition!], NOTHING, []), [
    prefixRange(encodeUtf8("b")),
  ]);
});

Deno.test("of a large list, its ends are asked for", () => {
  const span = { least: "61", greatest: "63" };
  const recognized = compare("= any", key, { array: span, type: "text[]" });
  assert.deepEqual(recognized, { condition: { kind: "any", value: span }, exact: false });
  const strip = encodeUtf8("/");
  const expected = [{ start: encodeUtf8("/a"), end: encodeUtf8("/c\0") }];
  for (const value of [span, 0]) {
    assert.deepEqual(applyConditions(ALL_KEYS, [{ kind: "any", value }], strip, [span]), expected);
  }
  assert.equal(rangeBound({ kind: "any", value: span }), 1);
  const one = { least: "61", greatest: "61" };
  assert.deepEqual(applyConditions(ALL_KEYS, [{ kind: "any", value: one }], strip, []), [
    singleKey(encodeUtf8("/a")),
  ]);
});

Deno.test("recognize makes one range of an OR with too many arms", () => {
  const arms = Array.from({ length: 3 }, (_, i) => qual("= any", key, array(...keysFrom(i * 100, 100))));
  const recognized = recognize({ or: arms }, COLUMNS)!;
  assert.equal(recognized.exact, false);
  assert.equal(rangeBound(recognized.condition!), 1);
  assert.equal(applyConditions(ALL_KEYS, [recognized.condition!], NOTHING, []).length, 1);
});

const keysFrom = (start: number, count: number) =>
  Array.from({ length: count }, (_, i) => `k${1000 + start + i}`);

Deno.test("an OR with a param that is not given allows everything", () => {
  const { condition } = recognize({ or: [qual("=", key, param(0)), qual("=", key, text("b"))] }, COLUMNS)!;
  assert.deepEqual(applyConditions(ALL_KEYS, [condition!], NOTHING, []), [ALL_KEYS]);
  assert.deepEqual(starts(applyConditions(ALL_KEYS, [condition!], NOTHING, [hex("a")])), ["61", "62"]);
  assert.deepEqual(starts(applyConditions(ALL_KEYS, [condition!], NOTHING, [null])), ["62"]);
});

Deno.test("applyConditions narrows by the parts of a key pattern", () => {
  const segments = (values: (string | number)[], whole?: true): Condition => ({
    kind: "segments",
    literals: ["/r/", "/", ""].slice(0, values.length + 1).map(hex),
    values,
    whole,
  });
  const ranges = (condition: Condition, params: (string | null)[] = []) =>
    applyConditions(ALL_KEYS, [condition], NOTHING, params);
  assert.deepEqual(ranges(segments([hex("pods")])), [prefixRange(encodeUtf8("/r/pods/"))]);
  assert.deepEqual(ranges(segments([hex("pods"), 0], true), [hex("x")]), [
    singleKey(encodeUtf8("/r/pods/x")),
  ]);
  assert.deepEqual(ranges(segments([hex("pods"), 0], true)), [prefixRange(encodeUtf8("/r/pods/"))]);
  assert.deepEqual(ranges(segments([0]), [null]), []);
});
