import assert from "node:assert/strict";
import { GrpcStatus } from "../../base/errors.ts";
import {
  errorOf,
  isConnectionLoss,
  isElection,
  isMemberFailure,
  isStaleToken,
  isTimeout,
  wasNeverSent,
} from "./status.ts";

const READ = { endpoint: "h:1", writes: false, timeout: 700 };
const WRITE = { ...READ, writes: true };

Deno.test("status: the same code means one thing from etcd and another from the library", () => {
  const lost = { code: GrpcStatus.UNAVAILABLE, text: "Connection dropped" };
  const leaderless = { code: GrpcStatus.UNAVAILABLE, text: "etcdserver: no leader" };
  assert.ok(isConnectionLoss(lost) && !isMemberFailure(lost));
  assert.ok(!isConnectionLoss(leaderless) && isMemberFailure(leaderless));
  assert.ok(isTimeout({ code: GrpcStatus.DEADLINE_EXCEEDED, text: "Deadline exceeded after 0.7s" }));
  assert.ok(!isTimeout({ code: GrpcStatus.DEADLINE_EXCEEDED, text: "etcdserver: request timed out" }));
});

Deno.test("status: a member that has lost its leader, or has another one, is a member in an election", () => {
  const code = GrpcStatus.UNAVAILABLE;
  for (const text of ["etcdserver: no leader", "etcdserver: leader changed"]) {
    assert.ok(isElection({ code, text }) && isMemberFailure({ code, text }), text);
  }
  assert.ok(
    !isElection({ code, text: "etcdserver: request timed out, possibly due to previous leader failure" }),
  );
  assert.ok(!isElection({ code, text: "etcdserver: server stopped" }));
  assert.ok(!isElection({ code: GrpcStatus.UNKNOWN, text: "election: no leader" }));
});

Deno.test("status: only what HTTP/2 vouches for counts as never sent", () => {
  const code = GrpcStatus.UNAVAILABLE;
  assert.ok(wasNeverSent({ code, text: "No connection established. Last error: x" }));
  assert.ok(wasNeverSent({ code, text: "Stream refused by server" }));
  assert.ok(wasNeverSent({ code, text: "etcdserver: no leader" }));
  assert.ok(wasNeverSent({ code, text: "etcdserver: rpc not supported for learner" }));
  assert.ok(!wasNeverSent({ code, text: "Connection dropped" }));
  assert.ok(!wasNeverSent({ code, text: "etcdserver: leader changed" }));
});

Deno.test("status: a write has an unknown outcome when etcd was silent or gave up", () => {
  const cases: [number, string][] = [
    [GrpcStatus.UNAVAILABLE, "Connection dropped"],
    [GrpcStatus.INTERNAL, "Received RST_STREAM with code 2"],
    [GrpcStatus.UNAVAILABLE, "etcdserver: request timed out"],
    [GrpcStatus.DEADLINE_EXCEEDED, "Deadline exceeded after 0.7s"],
  ];
  for (const [code, text] of cases) {
    assert.equal(errorOf({ code, text }, WRITE).sqlstate, "08007", text);
    assert.match(errorOf({ code, text }, WRITE).detail, /^Whether the write took effect is not known\. /);
    assert.equal(errorOf({ code, text }, READ).sqlstate, "08006", text);
  }
  const refused = ["No connection established. Last error: x", "etcdserver: no leader"];
  for (const text of [...refused, "etcdserver: rpc not supported for learner"]) {
    assert.equal(errorOf({ code: GrpcStatus.UNAVAILABLE, text }, WRITE).sqlstate, "08006", text);
  }
});

Deno.test("status: texts that say more than their code get their own SQLSTATE", () => {
  const cases: [number, string, string][] = [
    [GrpcStatus.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", "53100"],
    [GrpcStatus.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", "54000"],
    [GrpcStatus.INVALID_ARGUMENT, "etcdserver: user name is empty", "28000"],
    [GrpcStatus.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", "22023"],
    [GrpcStatus.PERMISSION_DENIED, "etcdserver: permission denied", "42501"],
    [GrpcStatus.UNKNOWN, "etcdserver: anything", "HV000"],
  ];
  for (const [code, text, sqlstate] of cases) {
    const error = errorOf({ code, text }, WRITE);
    assert.equal(error.sqlstate, sqlstate, text);
    assert.equal(error.detail, `h:1 answered "${text}".`);
  }
  assert.equal(
    errorOf({ code: GrpcStatus.PERMISSION_DENIED, text: "etcdserver: permission denied" }, READ).message,
    "etcd: permission denied",
  );
});

Deno.test("isStaleToken: what a new token can cure", () => {
  assert.ok(isStaleToken({ code: GrpcStatus.UNAUTHENTICATED, text: "etcdserver: invalid auth token" }));
  assert.ok(isStaleToken({ code: GrpcStatus.UNKNOWN, text: "auth: invalid auth token" }));
  const old = "etcdserver: revision of auth store is old";
  assert.ok(isStaleToken({ code: GrpcStatus.INVALID_ARGUMENT, text: old }));
  assert.ok(!isStaleToken({ code: GrpcStatus.PERMISSION_DENIED, text: "etcdserver: permission denied" }));
});

Deno.test("errorOf: a reply that no frame can carry is too large, whoever's limit a request is beyond", () => {
  const of = (text: string) => errorOf({ code: GrpcStatus.RESOURCE_EXHAUSTED, text }, READ);
  const reply = of("Received message larger than max (268435457 vs 268435456)");
  assert.deepEqual([reply.sqlstate, reply.hint], ["54000", "Read fewer keys at a time."]);
  const request = of("grpc: received message larger than max (3000000 vs 2097152)");
  assert.deepEqual([request.sqlstate, request.hint], ["54000", "etcd's limit is --max-request-bytes."]);
});

Deno.test("errorOf: a write was refused where etcd says so, and not where something between may say it", () => {
  const sqlstate = (code: number, text: string) => errorOf({ code, text }, WRITE).sqlstate;
  const { UNKNOWN, RESOURCE_EXHAUSTED } = GrpcStatus;
  assert.equal(sqlstate(UNKNOWN, "Received HTTP status code 500"), "08007");
  assert.equal(sqlstate(RESOURCE_EXHAUSTED, "Bandwidth exhausted or memory limit exceeded"), "08007");
  assert.equal(sqlstate(RESOURCE_EXHAUSTED, "Received message larger than max (9 vs 8)"), "08007");
  assert.notEqual(sqlstate(UNKNOWN, "etcdserver: no such thing"), "08007");
  assert.equal(sqlstate(RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"), "53100");
  assert.equal(sqlstate(RESOURCE_EXHAUSTED, "grpc: received message larger than max (9 vs 8)"), "54000");
  assert.notEqual(sqlstate(UNKNOWN, "auth: invalid auth token"), "08007");
});
