import assert from "node:assert/strict";
import { decodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { readKeyPattern } from "./pattern.ts";

const read = (pattern: string) => {
  const { literals, names, rest } = readKeyPattern("t", pattern);
  return { literals: literals.map((literal) => decodeUtf8(literal)), names, rest };
};

Deno.test("readKeyPattern takes a pattern apart", () => {
  assert.deepEqual(read("/registry/{kind}/{ns}/{name}"), {
    literals: ["/registry/", "/", "/", ""],
    names: ["kind", "ns", "name"],
    rest: false,
  });
  assert.deepEqual(read("{a}-é/{path*}.json"), {
    literals: ["", "-é/", ".json"],
    names: ["a", "path"],
    rest: true,
  });
});

Deno.test("readKeyPattern says what is wrong with a pattern", () => {
  const cases: [string, RegExp][] = [
    ["/a/", /no placeholder/],
    ["/{a}{b}", /text between/],
    ["/{a}/{a}", /"a" stands there twice/],
    ["/{}", /no name/],
    ["/{*}", /no name/],
    ["/{a*}/{b}", /must be the last/],
    ["/{a}/{b", /brace/],
    ["/a}/{b}", /brace/],
  ];
  for (const [pattern, detail] of cases) {
    const fits = (error: unknown) =>
      error instanceof EtcdFdwError && error.sqlstate === "22023" && detail.test(error.detail) &&
      error.message.includes(`"t"`) && error.hint !== "";
    assert.throws(() => read(pattern), fits, pattern);
  }
});
