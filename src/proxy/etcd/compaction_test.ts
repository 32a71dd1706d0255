import assert from "node:assert/strict";
import { encodeUtf8 } from "../../base/bytes.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import { silentServer } from "../testing_etcd.ts";
import { Deadline } from "../deadline.ts";
import { REAL } from "../testing_runtime.ts";
import { compactedError, isCompacted } from "./compaction.ts";

const FAILURE = { code: 11, text: "etcdserver: mvcc: required revision has been compacted" };

Deno.test("compactedError: an etcd that does not tell costs no more than a second and says what can be done", async () => {
  assert.ok(isCompacted(FAILURE) && !isCompacted({ code: 11, text: "etcdserver: no leader" }));
  const server = silentServer();
  const channel = REAL.etcd.dial(server.endpoint);
  try {
    const payload = encodeRangeRequest({ key: encodeUtf8("/a"), rangeEnd: null, revision: "7" });
    const startedAt = performance.now();
    const error = await compactedError(channel, payload, false, FAILURE, {
      login: { token: null },
      deadline: Deadline.after(REAL, 60_000),
    });
    assert.ok(performance.now() - startedAt < 3_000);
    assert.equal(error.sqlstate, "22023");
    assert.equal(error.message, "revision 7 of etcd has been compacted");
    assert.match(error.hint, /later revision/);
  } finally {
    channel.close();
    server.stop();
  }
});
