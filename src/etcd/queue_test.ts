import assert from "node:assert/strict";
import { decodeUtf8, encodeUtf8 } from "../base/bytes.ts";
import { Header, RangeReply } from "./api.ts";
import { type Claim, decodeClaim, decodeLook, encodeClaim, encodeFirstAt, encodeLook } from "./queue.ts";
import { decodeRangeRequest } from "./ranges.ts";
import { encodeReadResponses, readsOf } from "./txn.ts";

const CLAIM: Claim = { name: encodeUtf8("job"), lease: 0x1fn, value: encodeUtf8("v"), patient: true };
const KEY = "job/1f";

/** A reply in which each read has found these keys, by key and create_revision. */
function reply(...found: [string, string][][]): Uint8Array {
  const ranges = found.map((kvs) =>
    RangeReply.encode({
      kvs: kvs.map(([key, revision]) => ({ key: encodeUtf8(key), create_revision: revision })),
    })
  );
  return encodeReadResponses(Header.encode({ revision: "9" }), ranges);
}

Deno.test("queue: a claim tells the place and whether it is the first; without patience others are reason enough", () => {
  const told = decodeClaim(CLAIM, reply([[KEY, "5"]], [[KEY, "5"]]))!;
  assert.equal(decodeUtf8(told.place.key), KEY);
  assert.deepEqual([told.place.revision, told.standing], [5n, "FIRST"]);
  assert.equal(decodeClaim(CLAIM, reply([[KEY, "5"]], [["job/2", "3"]]))!.standing, "BEHIND");
  assert.equal(decodeClaim(CLAIM, reply([], [["job/2", "3"]])), null);
  assert.throws(() => decodeClaim(CLAIM, reply([])), { sqlstate: "08P01" });
  const [patient, hasty] = [true, false].map((patient) => encodeClaim({ ...CLAIM, patient }));
  assert.ok(hasty.length > patient.length, "it compares the whole queue");
});

Deno.test("queue: a look asks for the key itself and for the youngest before it", () => {
  const { place } = decodeClaim(CLAIM, reply([[KEY, "5"]], [[KEY, "5"]]))!;
  const [own, before] = readsOf(encodeLook(place)).map(decodeRangeRequest);
  assert.equal(decodeUtf8(own.key), KEY);
  assert.deepEqual([decodeUtf8(before.key), decodeUtf8(before.rangeEnd!)], ["job/", "job0"]);
  assert.deepEqual([before.maxCreateRevision, before.limit, before.order], [
    "4",
    1,
    { target: "create_revision", descending: true },
  ]);
  const standing = (...found: [string, string][][]) => decodeLook(place, reply(...found)).standing;
  assert.equal(standing([[KEY, "5"]], []), "FIRST");
  assert.equal(standing([[KEY, "5"]], [["job/2", "3"]]), "BEHIND");
  assert.equal(standing([], []), "GONE");
  assert.equal(standing([[KEY, "7"]], []), "GONE", "it was made anew");
  assert.deepEqual(decodeLook(place, reply([[KEY, "5"]], [["job/2", "3"]])), {
    ...{ standing: "BEHIND", revision: 9n, ahead: encodeUtf8("job/2") },
  });
});

Deno.test("queue: who was the first at a revision", () => {
  const { revision, limit, order } = decodeRangeRequest(encodeFirstAt(CLAIM.name, 8n));
  assert.deepEqual([revision, limit, order], ["8", 1, { target: "create_revision", descending: false }]);
});
