// The one error class of the TypeScript side, and the one table from gRPC status to SQLSTATE.
//
// An error that must reach SQL is a value with four parts. Core returns it from `dispatch`, the proxy sends it
// as the payload of an ERROR frame; the C backend raises it. Messages follow PostgreSQL's style: lower-case,
// no full stop; detail and hint are sentences.

import { decodeUtf8, encodeUtf8 } from "./bytes.ts";

/** What `ereport` needs. `detail` and `hint` are empty when there is nothing to say. */
export interface ErrorFields {
  /** Five characters, as in PostgreSQL's errcodes.txt. */
  sqlstate: string;
  message: string;
  detail: string;
  hint: string;
}

/** What QuickJS and V8 say when an engine's memory is full; they can go on then. */
const NO_ROOM = ["out of memory", "Array buffer allocation failed", "Invalid string length"];

/** An error with a SQLSTATE. Everything thrown on purpose in core, ipc and proxy is one of these. */
export class EtcdFdwError extends Error implements ErrorFields {
  readonly sqlstate: string;
  readonly detail: string;
  readonly hint: string;

  constructor(
    sqlstate: string,
    message: string,
    more: { detail?: string; hint?: string; cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = "EtcdFdwError";
    this.sqlstate = sqlstate;
    this.detail = more.detail ?? "";
    this.hint = more.hint ?? "";
  }

  /**
   * Wraps whatever was thrown. An error of another class is a fault of this program: XX000, and its stack goes
   * into the detail so that a report can name the place.
   */
  static from(thrown: unknown): EtcdFdwError {
    if (thrown instanceof EtcdFdwError) return thrown;
    if (thrown instanceof Error && NO_ROOM.includes(thrown.message)) {
      return new EtcdFdwError("53200", "out of memory in the engine that plans requests to etcd", {
        hint: "Use smaller values.",
        cause: thrown,
      });
    }
    if (thrown instanceof Error) {
      return new EtcdFdwError("XX000", `internal error: ${thrown.message}`, {
        detail: thrown.stack ?? "",
        cause: thrown,
      });
    }
    return new EtcdFdwError("XX000", `internal error: ${String(thrown)}`, { cause: thrown });
  }
}

/** gRPC status codes (google.rpc.Code), by number. */
export const GrpcStatus = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

/** SQLSTATE and hint of each gRPC status, for an etcd that answered with it. */
const STATUS_TABLE: Record<number, { sqlstate: string; hint?: string }> = {
  [GrpcStatus.CANCELLED]: { sqlstate: "57014" },
  [GrpcStatus.UNKNOWN]: { sqlstate: "HV000" },
  [GrpcStatus.INVALID_ARGUMENT]: { sqlstate: "22023" },
  [GrpcStatus.DEADLINE_EXCEEDED]: {
    sqlstate: "08006",
    hint: "Check that etcd has a leader and is not overloaded, or raise the server's request_timeout.",
  },
  [GrpcStatus.NOT_FOUND]: { sqlstate: "42704" },
  [GrpcStatus.ALREADY_EXISTS]: { sqlstate: "42710" },
  [GrpcStatus.PERMISSION_DENIED]: {
    sqlstate: "42501",
    hint: "Grant the etcd user of this server's user mapping a role with permission on the key range.",
  },
  [GrpcStatus.RESOURCE_EXHAUSTED]: { sqlstate: "53000" },
  [GrpcStatus.FAILED_PRECONDITION]: { sqlstate: "55000" },
  [GrpcStatus.ABORTED]: { sqlstate: "40001" },
  [GrpcStatus.OUT_OF_RANGE]: { sqlstate: "22023" },
  [GrpcStatus.UNIMPLEMENTED]: { sqlstate: "0A000", hint: "This etcd is too old for the request." },
  [GrpcStatus.INTERNAL]: { sqlstate: "HV000" },
  [GrpcStatus.UNAVAILABLE]: { sqlstate: "08006" },
  [GrpcStatus.DATA_LOSS]: { sqlstate: "58030" },
  [GrpcStatus.UNAUTHENTICATED]: {
    sqlstate: "28000",
    hint: "Check username and password of the server's user mapping.",
  },
};

/** SQLSTATE (and hint, if there is one to give) for a gRPC status that etcd answered with. */
export function sqlstateOfStatus(code: number): { sqlstate: string; hint?: string } {
  return STATUS_TABLE[code] ?? { sqlstate: "HV000" };
}

/**
 * Payload of an ERROR frame: five bytes of SQLSTATE, then message, detail and hint, each UTF-8 and ended by a
 * NUL. Flat, so that C reads it without a parser.
 */
export function encodeError(error: ErrorFields): Uint8Array {
  const clean = (s: string) => s.replaceAll("\0", "\\0");
  return encodeUtf8(
    `${error.sqlstate}${clean(error.message)}\0${clean(error.detail)}\0${clean(error.hint)}\0`,
  );
}

/** Inverse of {@linkcode encodeError}. Throws EtcdFdwError 08P01 when the payload has another shape. */
export function decodeError(payload: Uint8Array): ErrorFields {
  const text = decodeUtf8(payload);
  const parts = text.slice(5).split("\0");
  if (text.length < 5 || parts.length !== 4) {
    throw new EtcdFdwError("08P01", "malformed error frame from the etcd proxy");
  }
  return { sqlstate: text.slice(0, 5), message: parts[0], detail: parts[1], hint: parts[2] };
}
