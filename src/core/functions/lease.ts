// Leases.

import { EtcdFdwError } from "../../base/errors.ts";
import { LeaseGrantRequest, LeaseReply, LeaseRequest, LeasesReply, LeaseTtlReply } from "../../etcd/api.ts";
import { Ask, Method } from "../../ipc/frame.ts";
import { type AnyFunction, type Args, jsonPayload, jsonReply, simple, type SqlFunction } from "./call.ts";

const grant: SqlFunction = {
  writes: true,
  begin(args) {
    const ttl = args.seconds("ttl");
    if (args.flag("keep")) {
      return { ask: { method: Ask.LEASE_KEEP, payload: jsonPayload({ lease: "0", ttl }) } };
    }
    const id = args.optionalNumber("id");
    const chosen = id === undefined ? {} : { ID: id };
    return {
      ask: { method: Method.LEASE_GRANT, payload: LeaseGrantRequest.encode({ TTL: String(ttl), ...chosen }) },
    };
  },
  reply: (reply, _, args) => ({
    rows: [[args.flag("keep") ? jsonReply(reply) : LeaseReply.decode(reply).ID]],
  }),
};

const leaseOf = (args: Args) => ({ lease: args.number("lease") });
const seconds = (ttl: string | number) => `${ttl} seconds`;

/** etcd's code for a lease that is not there. */
const NOT_FOUND = "42704";

/** One that this session keeps alive is let go first. */
const revoke: SqlFunction<"released" | "revoked"> = {
  writes: true,
  begin: (args) => ({
    ask: { method: Ask.LEASE_RELEASE, payload: jsonPayload(leaseOf(args)) },
    state: "released",
  }),
  reply(_, state, args) {
    if (state === "revoked") return { rows: [[true]] };
    const payload = LeaseRequest.encode({ ID: args.number("lease") });
    return { ask: { method: Method.LEASE_REVOKE, payload, errors: true }, state: "revoked" };
  },
  failed: failing(false),
};

/** Answers with this for a lease that is not there; any other error is one. */
function failing(answer: boolean | null) {
  return (
    { sqlstate, message, detail, hint }: { sqlstate: string; message: string; detail: string; hint: string },
  ) => {
    if (sqlstate !== NOT_FOUND) throw new EtcdFdwError(sqlstate, message, { detail, hint });
    return { rows: [[answer]] };
  };
}

const ttl = simple(
  (args) => ({
    method: Method.LEASE_TTL,
    payload: LeaseRequest.encode({ ID: args.number("lease"), keys: true }),
  }),
  (reply) => {
    const { TTL, grantedTTL, keys } = LeaseTtlReply.decode(reply);
    // etcd's -1 is a lease that is not there.
    if (TTL.startsWith("-")) return [];
    return keys.length === 0
      ? [[seconds(TTL), seconds(grantedTTL), null]]
      : keys.map((key) => [seconds(TTL), seconds(grantedTTL), key]);
  },
);

export const LEASES: Record<string, AnyFunction> = {
  etcd_lease_grant: grant,
  etcd_lease_revoke: revoke,
  etcd_lease_ttl: simple(
    (args) => ({ method: Method.LEASE_TTL, payload: LeaseRequest.encode({ ID: args.number("lease") }) }),
    (reply) => {
      const { TTL } = LeaseTtlReply.decode(reply);
      return [[TTL.startsWith("-") ? null : seconds(TTL)]];
    },
  ),
  etcd_lease_keys: ttl,
  etcd_lease_keepalive: simple(
    (args) => ({
      method: Method.LEASE_KEEPALIVE,
      payload: LeaseRequest.encode({ ID: args.number("lease") }),
    }),
    (reply) => {
      const { TTL } = LeaseReply.decode(reply);
      return [[TTL === "0" ? null : seconds(TTL)]];
    },
    { writes: true },
  ),
  etcd_lease_keep: simple(
    (args) => ({ method: Ask.LEASE_KEEP, payload: jsonPayload({ ...leaseOf(args), ttl: 0 }) }),
    (reply) => [[seconds(jsonReply(reply))]],
    { writes: true },
  ),
  etcd_lease_release: simple(
    (args) => ({ method: Ask.LEASE_RELEASE, payload: jsonPayload(leaseOf(args)) }),
    (reply) => [[jsonReply(reply)]],
  ),
  etcd_leases: simple(
    () => ({ method: Method.LEASES, payload: new Uint8Array(0) }),
    (reply) => LeasesReply.decode(reply).leases.map(({ ID }) => [ID]),
  ),
};
