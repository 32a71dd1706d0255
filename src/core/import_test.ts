import assert from "node:assert/strict";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { compareBytes, encodeUtf8 } from "../base/bytes.ts";
import { beginImport, importPage } from "./import.ts";
import type { ImportAnswer, Outcome } from "./protocol.ts";
import { rangeOf } from "./testing_input.ts";

/** A RangeResponse. */
function page(keys: Uint8Array[], more: boolean): Uint8Array {
  const writer = new BinaryWriter();
  writer.uint32(1 << 3 | 2).fork().uint32(3 << 3).int64(77).join();
  for (const key of keys) writer.uint32(2 << 3 | 2).fork().uint32(1 << 3 | 2).bytes(key).join();
  return writer.uint32(3 << 3).bool(more).finish();
}

/** Runs the import against these keys; what came of it, and how many requests it took. */
function run(
  keys: (string | Uint8Array)[],
  options: Record<string, string> = {},
  directory = "/d/",
  prefix = "",
) {
  const stored = keys.map((key) => typeof key === "string" ? encodeUtf8(key) : key).sort(compareBytes);
  const server: Record<string, string> = prefix === "" ? {} : { prefix };
  let outcome: Outcome = beginImport({ directory, name: 'a "server"', server, options });
  let requests = 0;
  while (outcome.answer.do === "call") {
    const { 1: start, 2: end, 3: limit, 4: revision, 8: keysOnly } = rangeOf(outcome);
    assert.equal(keysOnly, 1n);
    assert.equal(revision, requests === 0 ? undefined : 77n);
    requests++;
    // Test keys are ASCII up to here or compare alike.
    const inside = stored.filter((key) =>
      compareBytes(key, encodeUtf8(start as string)) >= 0 && compareBytes(key, encodeUtf8(end as string)) < 0
    );
    const sent = inside.slice(0, Number(limit));
    assert.equal(outcome.answer.op, "importPage");
    outcome = importPage({ state: outcome.answer.state }, page(sent, sent.length < inside.length));
  }
  const { statements, skipped, renamed } = outcome.answer as ImportAnswer;
  return {
    renamed,
    requests,
    statements,
    skipped,
    prefixes: statements.map((text) => /prefix (.*?)[,)]/.exec(text)![1]),
  };
}

Deno.test("import: one table for each directory that holds keys, however deep these are", () => {
  const { statements, prefixes } = run([
    "/d",
    "/d/file",
    "/d/a/1",
    "/d/a/2/3",
    "/d/b/x",
    "/d0/a/1",
    "/c/a/1",
    "/d//x",
  ]);
  assert.deepEqual(prefixes, ["'/d/a/'", "'/d/b/'"]);
  assert.equal(
    statements[0],
    'CREATE FOREIGN TABLE "a" (key text COLLATE "C", value text, create_revision bigint, mod_revision bigint,' +
      ` version bigint, lease bigint) SERVER "a ""server""" OPTIONS (prefix '/d/a/')`,
  );
  assert.deepEqual(run([]).statements, []);
});

Deno.test("import: options", () => {
  const keys = ["/d/a/b/1", "/d/a/c/2", "/d/x/1"];
  assert.deepEqual(run(keys, { depth: "2" }).prefixes, ["'/d/a/b/'", "'/d/a/c/'"]);
  const [statement] = run(keys, { strip_prefix: "true", value_type: "jsonb" }).statements;
  assert.match(statement, /value jsonb,.*OPTIONS \(prefix '\/d\/a\/', strip_prefix 'true'\)$/);
  const wrong: Record<string, string>[] = [{ depth: "0" }, { depth: "x" }, { strip_prefix: "perhaps" }, {
    value_type: "int); DROP",
  }];
  for (const options of wrong) {
    assert.throws(() => run(keys, options), { sqlstate: "22023" });
  }
  assert.throws(() => run(keys, { deep: "1" }), { sqlstate: "HV00D" });
});

Deno.test("import: names are quoted, and those that are no text are left out and told", () => {
  const { statements, skipped } = run([
    '/d/it\'s "x"\\/1',
    encodeUtf8("/d/é/1"),
    Uint8Array.of(...encodeUtf8("/d/"), 0xff, ...encodeUtf8("/1")),
  ]);
  assert.deepEqual(skipped, ["\\xff"]);
  assert.match(statements[0], /TABLE "it's ""x""\\" .*prefix E'\/d\/it''s "x"\\\\\/'/);
  assert.match(statements[1], /TABLE "é"/);
});

Deno.test("import: no two tables have one name, and each shows its own directory", () => {
  const long = "a".repeat(62);
  const tables = (keys: string[]) =>
    run(keys.map((name) => `/d/${name}/1`)).statements.map((
      text,
    ) => [/TABLE "(.*?)"/.exec(text)![1], /prefix '\/d\/(.*)\/'/.exec(text)![1]]);
  const short = (bytes: number, tail: string) => long.slice(0, bytes) + tail;
  assert.deepEqual(tables([`${long}x`, `${long}xy`, `${long}xz`, short(61, "_1"), "b".repeat(80)]), [
    // That name was a directory's before it could be another's.
    [short(61, "_1"), short(61, "_1")],
    [`${long}x`, `${long}x`],
    [short(61, "_2"), `${long}xy`],
    [short(61, "_3"), `${long}xz`],
    ["b".repeat(80), "b".repeat(80)],
  ]);
  const { renamed } = run([`/d/${long}ä/1`, `/d/${long}ö/1`]);
  assert.deepEqual(renamed, [[`${long}ö`, short(61, "_1")]]);
  assert.deepEqual(run(["/d/a/1", "/d/b/1"]).renamed, []);
});

Deno.test("import: a directory without its slash, and under a server's prefix", () => {
  assert.deepEqual(run(["/d/a/1"], {}, "/d").prefixes, ["'/d/a/'"]);
  assert.deepEqual(run(["/s/d/a/1", "/d/b/1"], {}, "/d", "/s").prefixes, ["'/d/a/'"]);
});

Deno.test("import: large directories are jumped over, small ones read in pages", () => {
  const large = [1, 2, 3].flatMap((dir) => Array.from({ length: 5000 }, (_, i) => `/d/${dir}/${i}`));
  const few = run(large);
  assert.equal(few.prefixes.length, 3);
  assert.ok(few.requests <= 6, `${few.requests} requests`);
  const many = run(Array.from({ length: 5000 }, (_, i) => `/d/${i}/x`));
  assert.equal(many.prefixes.length, 5000);
  assert.ok(many.requests <= 20, `${many.requests} requests`);
  assert.ok(run(Array.from({ length: 5000 }, (_, i) => `/d/${i}`)).requests <= 20);
});
