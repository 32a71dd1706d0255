// From what gRPC reports to the error that reaches SQL.

import type { ServiceError } from "@grpc/grpc-js";
import { EtcdFdwError, GrpcStatus, sqlstateOfStatus } from "../../ipc/errors.ts";

/** etcd's own text, without the name of the part that wrote it. */
function plainText(details: string): string {
  return details.replace(/^etcdserver: (mvcc: )?/, "");
}

/** Whether a unary call threw this, rather than a fault of the program. */
export function isServiceError(thrown: unknown): thrown is ServiceError {
  return thrown instanceof Error && "code" in thrown && "details" in thrown &&
    typeof thrown.code === "number";
}

/** Whether etcd refused the token that went with the call. */
export function isInvalidToken(error: ServiceError): boolean {
  return error.code === GrpcStatus.UNAUTHENTICATED || /invalid auth token/.test(error.details);
}

/** The error of a call that reached, or may have reached, the etcd at `endpoint`. */
export function fromServiceError(
  error: ServiceError,
  endpoint: string,
  requestTimeout: number,
): EtcdFdwError {
  const { code, details } = error;
  const { sqlstate, hint } = sqlstateOfStatus(code);
  const more = { detail: `etcd at ${endpoint}: ${details}`, hint, cause: error };
  if (code === GrpcStatus.DEADLINE_EXCEEDED) {
    return new EtcdFdwError(sqlstate, `etcd at ${endpoint} did not answer within ${requestTimeout} ms`, {
      hint,
    });
  }
  if (code === GrpcStatus.RESOURCE_EXHAUSTED && /larger than max/.test(details)) {
    return new EtcdFdwError("54000", "the reply of etcd is larger than etcd_fdw takes at once", more);
  }
  if (code === GrpcStatus.UNAVAILABLE) {
    return new EtcdFdwError(sqlstate, `lost the connection to etcd at ${endpoint}`, more);
  }
  return new EtcdFdwError(sqlstate, `etcd: ${plainText(details)}`, more);
}

/** The error when no endpoint could be reached: `reasons` in the order of the endpoints. */
export function unreachable(endpoints: string[], reasons: string[]): EtcdFdwError {
  const names = endpoints.map((endpoint) => `"${endpoint}"`).join(", ");
  return new EtcdFdwError("08001", `could not connect to etcd at ${names}`, {
    detail: endpoints.map((endpoint, i) => `${endpoint}: ${reasons[i]}`).join("\n"),
    hint: "Check that etcd runs there, and the server's option connstr.",
  });
}
