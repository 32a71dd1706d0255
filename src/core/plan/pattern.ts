// The table option key_pattern: parts of the key as columns, as in '/registry/{kind}/{namespace}/{name}'.
//
// A placeholder stands for one or more bytes without a slash, as few as the text behind it allows; the last one, written
// {name*}, may hold slashes too. The backend matches keys (src/backend/scan/cell.c); here the pattern is read.

import { encodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";

export interface KeyPattern {
  /** What stands before, between and after the placeholders: one more than there are names. */
  literals: Uint8Array[];
  names: string[];
  rest: boolean;
}

function wrong(table: string, pattern: string, detail: string): never {
  throw new EtcdFdwError("22023", `invalid key_pattern "${pattern}" of foreign table "${table}"`, {
    detail,
    hint: "A pattern is a key with placeholders, as in /registry/{kind}/{namespace}/{name}.",
  });
}

/** Throws EtcdFdwError 22023 for a pattern that no key could be matched with unambiguously. */
export function readKeyPattern(table: string, pattern: string): KeyPattern {
  const literals: string[] = [];
  const names: string[] = [];
  let rest = false;
  let at = 0;
  for (const match of pattern.matchAll(/\{([^{}]*)\}/g)) {
    if (rest) wrong(table, pattern, "A placeholder with * must be the last one.");
    literals.push(pattern.slice(at, match.index));
    if (match.index === at && names.length > 0) {
      wrong(table, pattern, "Two placeholders need text between them.");
    }
    rest = match[1].endsWith("*");
    const name = rest ? match[1].slice(0, -1) : match[1];
    if (name === "" || names.includes(name)) {
      wrong(table, pattern, name === "" ? "A placeholder has no name." : `"${name}" stands there twice.`);
    }
    names.push(name);
    at = match.index + match[0].length;
  }
  literals.push(pattern.slice(at));
  if (names.length === 0) wrong(table, pattern, "It has no placeholder.");
  if (literals.some((literal) => /[{}]/.test(literal))) {
    wrong(table, pattern, "A brace has no counterpart.");
  }
  return { literals: literals.map((literal) => encodeUtf8(literal)), names, rest };
}
