// Users, roles and permissions of etcd.

import { decodeUtf8 } from "../../base/bytes.ts";
import {
  AuthStatusReply,
  NameRequest,
  NamesReply,
  RoleGrantRequest,
  RoleReply,
  RoleRevokeRequest,
  UserRequest,
  UserRoleRequest,
} from "../../etcd/api.ts";
import { Method } from "../../ipc/frame.ts";
import {
  type AnyFunction,
  type Args,
  cellText,
  NOTHING,
  rangeOf,
  type Row,
  simple,
  type SqlFunction,
  text,
} from "./call.ts";
import { arrayLiteral } from "./cluster.ts";

const textOf = (args: Args, name: string) => decodeUtf8(args.bytes(name));

/** A change that answers nothing. */
const change = (method: number, payload: (args: Args) => Uint8Array): AnyFunction =>
  simple((args) => ({ method, payload: payload(args) }), () => [[true]], { writes: true });

interface EachState {
  names: string[];
  at: number;
  rows: (string | null)[][];
}

/** The rows of each name in a list, one after the other. */
function eachName(
  list: number,
  get: number,
  rows: (name: string, reply: Uint8Array) => Row[],
): SqlFunction<EachState | null> {
  const next = (state: EachState) =>
    state.at < state.names.length
      ? { ask: { method: get, payload: NameRequest.encode({ name: state.names[state.at] }) }, state }
      : { rows: state.rows };
  return {
    begin: () => ({ ask: { method: list, payload: NOTHING }, state: null }),
    reply(reply, state) {
      if (state === null) return next({ names: NamesReply.decode(reply).names, at: 0, rows: [] });
      const more = rows(state.names[state.at], reply).map((row) => row.map(cellText));
      return next({ ...state, at: state.at + 1, rows: [...state.rows, ...more] });
    },
  };
}

/** authpb.Permission.Type */
const PERMISSIONS = ["read", "write", "readwrite"];

function grantRequest(args: Args): Uint8Array {
  const given = textOf(args, "permission").toLowerCase();
  const permType = PERMISSIONS.indexOf(given);
  if (permType < 0) {
    args.wrong("permission", `is unknown: "${given}"`, `Give one of ${PERMISSIONS.join(", ")}.`);
  }
  const { key, rangeEnd } = rangeOf(args);
  const perm = { permType, key, ...(rangeEnd === null ? {} : { range_end: rangeEnd }) };
  return RoleGrantRequest.encode({ name: textOf(args, "role"), perm });
}

function revokeRequest(args: Args): Uint8Array {
  const { key, rangeEnd } = rangeOf(args);
  return RoleRevokeRequest.encode({
    role: textOf(args, "role"),
    ...{ key, ...(rangeEnd === null ? {} : { range_end: rangeEnd }) },
  });
}

const nameRequest = (name: string) => (args: Args) => NameRequest.encode({ name: textOf(args, name) });
const userRole = (args: Args) =>
  UserRoleRequest.encode({ user: textOf(args, "username"), role: textOf(args, "role") });

/** A user without a password can log in by certificate alone. */
function userRequest(args: Args): Uint8Array {
  const name = textOf(args, "username");
  return args.has("password")
    ? UserRequest.encode({ name, password: textOf(args, "password") })
    : UserRequest.encode({ name, options: { no_password: true } });
}

export const AUTH: Record<string, AnyFunction> = {
  etcd_auth_enable: change(Method.AUTH_ENABLE, () => NOTHING),
  etcd_auth_disable: change(Method.AUTH_DISABLE, () => NOTHING),
  etcd_auth_status: simple(
    () => ({ method: Method.AUTH_STATUS, payload: NOTHING }),
    (reply) => [[AuthStatusReply.decode(reply).enabled]],
  ),
  etcd_users: eachName(
    Method.USER_LIST,
    Method.USER_GET,
    (name, reply) => [[text(name), arrayLiteral(NamesReply.decode(reply).names)]],
  ),
  etcd_user_add: change(Method.USER_ADD, userRequest),
  etcd_user_delete: change(Method.USER_DELETE, nameRequest("username")),
  etcd_user_password: change(
    Method.USER_PASSWORD,
    (args) => UserRequest.encode({ name: textOf(args, "username"), password: textOf(args, "password") }),
  ),
  etcd_user_grant_role: change(Method.USER_GRANT_ROLE, userRole),
  etcd_user_revoke_role: change(Method.USER_REVOKE_ROLE, userRole),
  etcd_roles: eachName(Method.ROLE_LIST, Method.ROLE_GET, (name, reply) => {
    const { perm } = RoleReply.decode(reply);
    if (perm.length === 0) return [[text(name), null, null, null]];
    return perm.map(({ permType, key, range_end }) => [
      ...[text(name), text(PERMISSIONS[permType] ?? String(permType)), key],
      range_end.length === 0 ? null : range_end,
    ]);
  }),
  etcd_role_add: change(Method.ROLE_ADD, nameRequest("role")),
  etcd_role_delete: change(Method.ROLE_DELETE, nameRequest("role")),
  etcd_role_grant: change(Method.ROLE_GRANT, grantRequest),
  etcd_role_revoke: change(Method.ROLE_REVOKE, revokeRequest),
};
