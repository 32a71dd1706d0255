import assert from "node:assert/strict";
import { encodeUtf8 } from "./bytes.ts";
import { decodeError, encodeError, EtcdFdwError, GrpcStatus, sqlstateOfStatus } from "./errors.ts";

Deno.test("EtcdFdwError.from: passes its own kind and wraps the rest", () => {
  const own = new EtcdFdwError("22023", "bad", { detail: "D.", hint: "H." });
  assert.equal(EtcdFdwError.from(own), own);
  const cause = new TypeError("oops");
  const wrapped = EtcdFdwError.from(cause);
  assert.deepEqual([wrapped.sqlstate, wrapped.message], ["XX000", "internal error: oops"]);
  assert.equal(wrapped.cause, cause);
  assert.match(wrapped.detail, /errors_test/);
  for (const thrown of [undefined, null, 7, "text", Symbol("s")]) {
    assert.equal(EtcdFdwError.from(thrown).message, `internal error: ${String(thrown)}`);
  }
});

Deno.test("encodeError: all parts survive, and a NUL in a text does not end it", () => {
  const fields = { sqlstate: "08001", message: "ä \u{1f600}", detail: "", hint: "Two\nlines." };
  assert.deepEqual(decodeError(encodeError(fields)), fields);
  const withNul = decodeError(encodeError({ ...fields, message: "a\0b" }));
  assert.equal(withNul.message, "a\\0b");
  assert.equal(withNul.hint, fields.hint);
});

Deno.test("decodeError: another shape is a violation of the protocol", () => {
  for (const text of ["", "0800", "08001", "08001a\0b\0c", "08001a\0b\0c\0d\0"]) {
    assert.throws(() => decodeError(encodeUtf8(text)), { sqlstate: "08P01" }, JSON.stringify(text));
  }
});

Deno.test("sqlstateOfStatus: every status but OK has a SQLSTATE, an unknown one as well", () => {
  for (const code of [...Object.values(GrpcStatus), 99]) {
    assert.match(sqlstateOfStatus(code).sqlstate, /^[0-9A-Z]{5}$/, String(code));
  }
});
