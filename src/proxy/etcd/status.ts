// From the end of a gRPC call to what SQL is told, and to what may be done about it.
//
// The status code alone does not tell who speaks: etcd and the gRPC library use the same codes. etcd's own texts
// begin with "etcdserver: "; without that prefix a status that stands for the connection is taken as the library's.

import { EtcdFdwError, GrpcStatus, sqlstateOfStatus } from "../../base/errors.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import { LateError } from "../handle.ts";
import type { Failure } from "./transport.ts";

const ETCD_PREFIX = "etcdserver: ";

const CONNECTION_CODES: ReadonlySet<number> = new Set([
  GrpcStatus.UNAVAILABLE,
  GrpcStatus.INTERNAL,
  GrpcStatus.CANCELLED,
]);

/** The library's texts for a call that never reached the wire, or that HTTP/2 says was not processed. */
const NEVER_SENT = [
  "No connection established",
  "Channel closed before call started",
  "Stream refused by server",
];

function fromEtcd(failure: Failure): boolean {
  return failure.text.startsWith(ETCD_PREFIX);
}

/** The connection broke, or could not be used. */
export function isConnectionLoss(failure: Failure): boolean {
  return CONNECTION_CODES.has(failure.code) && !fromEtcd(failure);
}

/** etcd has certainly not seen the request. */
export function wasNeverSent(failure: Failure): boolean {
  return isLeaderless(failure) || isLearners(failure) ||
    failure.code === GrpcStatus.UNAVAILABLE && NEVER_SENT.some((text) => failure.text.startsWith(text));
}

/** This program's own deadline ran out; etcd said nothing, or that it has seen the same deadline pass. */
export function isTimeout(failure: Failure): boolean {
  const echoed = failure.code === GrpcStatus.UNKNOWN && failure.text === "context deadline exceeded";
  return echoed || failure.code === GrpcStatus.DEADLINE_EXCEEDED && !fromEtcd(failure);
}

/** This member cannot serve now (no leader, stopping, timed out inside); another one may. */
export function isMemberFailure(failure: Failure): boolean {
  return failure.code === GrpcStatus.UNAVAILABLE && fromEtcd(failure) || isLearners(failure);
}

/** The member has no leader, and has said so before it looked at the request. */
export function isLeaderless(failure: Failure): boolean {
  return failure.code === GrpcStatus.UNAVAILABLE && failure.text === "etcdserver: no leader";
}

/** The member has lost its leader, or has just heard of another one: it answers for itself, and will serve again soon. */
export function isElection(failure: Failure): boolean {
  return isLeaderless(failure) ||
    failure.code === GrpcStatus.UNAVAILABLE && failure.text === "etcdserver: leader changed";
}

/** A learner refuses most calls before it looks at the request. */
function isLearners(failure: Failure): boolean {
  return failure.text === "etcdserver: rpc not supported for learner";
}

/** A new token may help. Neither of these has been applied. */
export function isStaleToken(failure: Failure): boolean {
  // The maintenance service says it without a status of its own.
  return failure.code === GrpcStatus.UNAUTHENTICATED || /^auth: invalid auth token/.test(failure.text) ||
    failure.code === GrpcStatus.INVALID_ARGUMENT &&
      /auth store is old|user name is empty/.test(failure.text);
}

/** What is to be read has not happened yet. */
export function isFuture(failure: Failure): boolean {
  return FUTURE.test(failure.text);
}

const FUTURE = /required revision is a future revision/;

/** What etcd's texts say better than their status code. */
const KNOWN_TEXTS: { pattern: RegExp; sqlstate?: string; message?: string; hint?: string }[] = [
  {
    pattern: /rpc not supported for learner/,
    message: "etcd's member is a learner, which serves little",
    hint: "Let the server's connstr name voting members too.",
  },
  { pattern: FUTURE, message: "required revision is in the future" },
  {
    pattern: /database space exceeded/,
    sqlstate: "53100",
    hint: "Compact and defragment etcd, then disarm its NOSPACE alarm.",
  },
  { pattern: /request is too large/, sqlstate: "54000", hint: "etcd's limit is --max-request-bytes." },
  {
    // The library's own: etcd begins with the library's name.
    pattern: /^Received message larger than max/,
    sqlstate: "54000",
    message: `etcd's answer is larger than ${MAX_FRAME_BYTES} bytes`,
    hint: "Read fewer keys at a time.",
  },
  { pattern: /message larger than max/, sqlstate: "54000", hint: "etcd's limit is --max-request-bytes." },
  {
    pattern: /too many operations in txn request/,
    sqlstate: "54000",
    hint: "etcd's limit is --max-txn-ops.",
  },
  // etcd's status for both of these is that of a condition which does not hold.
  { pattern: /already exists|already granted|is already|already enabled/, sqlstate: "42710" },
  {
    pattern: /(user name|role name|role|permission|member|lease) (is )?not (found|granted)/,
    sqlstate: "42704",
  },
  {
    pattern: /user name is empty/,
    sqlstate: "28000",
    message: "etcd requires authentication",
    hint: "Create a user mapping with username and password.",
  },
];

export interface CallContext {
  endpoint: string;
  writes: boolean;
  /** Milliseconds that there were. */
  timeout: number;
}

/** The error for a call that ended so. */
export function errorOf(failure: Failure, context: CallContext): EtcdFdwError {
  if (isTimeout(failure)) return timeoutError(context);
  if (isConnectionLoss(failure)) return lossError(failure, context);
  return answerError(failure, context);
}

const UNKNOWN_OUTCOME = "Whether the write took effect is not known.";

/** The error for a call that etcd has not answered in time. */
export function timeoutError(context: CallContext): EtcdFdwError {
  const { sqlstate, hint } = sqlstateOfStatus(GrpcStatus.DEADLINE_EXCEEDED);
  return new LateError(
    context.writes ? "08007" : sqlstate,
    `etcd did not answer within ${Math.round(context.timeout)} ms`,
    { detail: `${context.writes ? UNKNOWN_OUTCOME + " " : ""}The endpoint is ${context.endpoint}.`, hint },
  );
}

/** The error for a write that its caller gives up while it waits for others, or together with them. */
export function lateWrite(ms: number, isUnsent: boolean): EtcdFdwError {
  const { sqlstate, hint } = sqlstateOfStatus(GrpcStatus.DEADLINE_EXCEEDED);
  return new LateError(isUnsent ? sqlstate : "08007", `etcd did not answer within ${Math.round(ms)} ms`, {
    detail: isUnsent ? "It had not come to the write, which was not sent." : UNKNOWN_OUTCOME,
    hint,
  });
}

function lossError(failure: Failure, { endpoint, writes }: CallContext): EtcdFdwError {
  const unknown = writes && !wasNeverSent(failure);
  return new EtcdFdwError(unknown ? "08007" : "08006", `lost connection to etcd at "${endpoint}"`, {
    detail: `${unknown ? UNKNOWN_OUTCOME + " " : ""}The cause is: ${failure.text}.`,
    hint: unknown ? "Read the rows concerned before you write them again." : "",
  });
}

/** Statuses that etcd gives when it gave up waiting for its own consensus; the proposal may still be agreed on. */
const UNDECIDED: ReadonlySet<number> = new Set([GrpcStatus.UNAVAILABLE, GrpcStatus.DEADLINE_EXCEEDED]);
/** Statuses that the library, or a proxy on the way, gives as well, when etcd may have done what it was asked. */
const ANYBODYS: ReadonlySet<number> = new Set([GrpcStatus.UNKNOWN, GrpcStatus.RESOURCE_EXHAUSTED]);
/** What etcd, and nobody else, begins a refusal with. */
const REFUSALS = /^(etcdserver: |auth: |grpc: received message larger than max)/;

/** Whether a write may have taken effect all the same. */
function leavesOpen({ code, text }: Failure): boolean {
  return UNDECIDED.has(code) || ANYBODYS.has(code) && !REFUSALS.test(text);
}

function answerError(failure: Failure, { endpoint, writes }: CallContext): EtcdFdwError {
  const text = failure.text.replace(/^etcdserver: (mvcc: )?/, "");
  const known = KNOWN_TEXTS.find(({ pattern }) => pattern.test(failure.text));
  const byCode = sqlstateOfStatus(failure.code);
  const unknown = writes && !wasNeverSent(failure) && leavesOpen(failure);
  return new EtcdFdwError(
    unknown ? "08007" : known?.sqlstate ?? byCode.sqlstate,
    known?.message ?? `etcd: ${text}`,
    {
      detail: `${unknown ? UNKNOWN_OUTCOME + " " : ""}${endpoint} answered "${failure.text}".`,
      hint: known?.hint ?? byCode.hint,
    },
  );
}
