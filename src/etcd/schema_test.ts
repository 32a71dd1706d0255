import assert from "node:assert/strict";
import { encodeUtf8, toHex } from "../base/bytes.ts";
import { EtcdFdwError } from "../base/errors.ts";
import { message } from "./schema.ts";

const Inner = message({ id: [1, "uint64"], name: [2, "string"] });
const Outer = message({
  key: [1, "bytes"],
  count: [2, "int64"],
  flag: [3, "bool"],
  inner: [4, Inner],
  many: [5, Inner, "repeated"],
  texts: [6, "string", "repeated"],
  kind: [7, "int32"],
  far: [64, "bytes"],
});

Deno.test("message: what is written is what is read, to the last of 64 bits", () => {
  const value = {
    key: encodeUtf8("k"),
    count: "-9223372036854775808",
    flag: true,
    inner: { id: "18446744073709551615", name: "ü" },
    many: [{ id: "1", name: "" }, { id: "0", name: "b" }],
    texts: ["", "x"],
    kind: 3,
    far: encodeUtf8("z"),
  };
  assert.deepEqual(Outer.decode(Outer.encode(value)), value);
});

Deno.test("message: what is absent is zero, and what is given is sent even if it is that", () => {
  const none = Outer.decode(new Uint8Array(0));
  assert.deepEqual(none, {
    ...{ key: new Uint8Array(0), count: "0", flag: false, inner: null, many: [], texts: [], kind: 0 },
    far: new Uint8Array(0),
  });
  assert.equal(toHex(Outer.encode({})), "");
  // An empty range_end is not the same as none.
  assert.equal(toHex(Outer.encode({ far: new Uint8Array(0) })), "820400");
});

Deno.test("message: unknown fields are skipped, damaged bytes are an error", () => {
  const Known = message({ kind: [7, "int32"] });
  assert.deepEqual(Known.decode(Outer.encode({ key: encodeUtf8("k"), kind: 5, flag: true })), { kind: 5 });
  for (const bytes of [[0x0a, 5, 1], [0x22, 2, 0x0a], [0xff]]) {
    assert.throws(
      () => Outer.decode(Uint8Array.from(bytes)),
      (error) => error instanceof EtcdFdwError && error.sqlstate === "08P01",
    );
  }
});
