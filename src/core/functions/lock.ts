// Locks and elections: the proxy holds them for the session.

import { decodeUtf8, fromHex, toHex } from "../../base/bytes.ts";
import { LeaderReply, LeaderRequest } from "../../etcd/api.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { Ask, Method } from "../../ipc/frame.ts";
import type { FailedInput } from "../protocol.ts";
import {
  type AnyFunction,
  type Args,
  jsonPayload,
  jsonReply,
  keyRow,
  type Row,
  simple,
  type SqlFunction,
  text,
} from "./call.ts";

/** What HELD answers with; names and keys in hexadecimal, times to live in seconds. */
interface Held {
  kind: string;
  name: string;
  key: string;
  lease: string;
  ttl: number;
  lost: boolean;
}

/** Throws EtcdFdwError 22023 for an empty one: its keys would be all that begin with a slash. */
function nameBytes(args: Args): Uint8Array {
  const name = args.bytes("name");
  if (name.length === 0) args.wrong("name", "must not be empty");
  return name;
}

const nameOf = (args: Args) => ({ name: toHex(nameBytes(args)) });

const waiting = (args: Args) => ({
  patience: args.patience("wait"),
  ttl: args.seconds("ttl"),
});

/** Waits at most as long as `wait` says, and as long as it takes without. */
const lock = simple(
  (args) => ({
    method: Ask.LOCK,
    waits: args.patience("wait"),
    payload: jsonPayload({ ...nameOf(args), ...waiting(args) }),
  }),
  (reply) => [[jsonReply(reply) !== null]],
  { writes: true },
);

const tryLock = simple(
  (args) => ({
    method: Ask.LOCK,
    payload: jsonPayload({ ...nameOf(args), patience: 0, ttl: args.seconds("ttl") }),
  }),
  (reply) => [[jsonReply(reply) !== null]],
  { writes: true },
);

/** What is given back was taken through a connection: that there is none now is the failure of that one. */
function notGivenBack({ sqlstate, message, detail, hint }: FailedInput): never {
  throw new EtcdFdwError(sqlstate === "08001" ? "08006" : sqlstate, message, { detail, hint });
}

/** What is not held is told as PostgreSQL tells it of advisory locks. */
const unlock: SqlFunction = {
  begin: (args) => ({ ask: { method: Ask.UNLOCK, payload: jsonPayload(nameOf(args)), errors: true } }),
  failed: notGivenBack,
  reply(reply, _, args) {
    const held = jsonReply(reply) as boolean;
    const name = decodeUtf8(args.bytes("name"));
    return { rows: [[held]], warning: held ? "" : `you do not hold the etcd lock "${name}"` };
  },
};

function leaderRow(reply: Uint8Array): Row[] {
  const { kv } = LeaderReply.decode(reply);
  return kv === null ? [] : [keyRow(kv)];
}

const leader: SqlFunction = {
  begin: (args) => ({
    ask: { method: Method.LEADER, payload: LeaderRequest.encode({ name: nameBytes(args) }), errors: true },
  }),
  reply: (reply) => ({ rows: leaderRow(reply) }),
  failed({ sqlstate, message, detail, hint }) {
    if (/election: no leader/.test(message)) return { rows: [] };
    throw new EtcdFdwError(sqlstate, message, { detail, hint });
  },
};

const observe = simple(
  (args) => ({
    method: Ask.OBSERVE,
    waits: args.patience("wait"),
    payload: jsonPayload({
      ...nameOf(args),
      patience: args.patience("wait"),
      revision: args.optionalNumber("after_revision") ?? "0",
    }),
  }),
  (reply) => reply.length === 0 ? [] : leaderRow(reply),
);

export const LOCKS: Record<string, AnyFunction> = {
  etcd_lock: lock,
  etcd_try_lock: tryLock,
  etcd_unlock: unlock,
  etcd_campaign: simple(
    (args) => ({
      method: Ask.CAMPAIGN,
      waits: args.patience("wait"),
      payload: jsonPayload({ ...nameOf(args), value: toHex(args.bytes("value")), ...waiting(args) }),
    }),
    (reply) => [[jsonReply(reply)]],
    { writes: true },
  ),
  etcd_proclaim: simple(
    (args) => ({
      method: Ask.PROCLAIM,
      payload: jsonPayload({ ...nameOf(args), value: toHex(args.bytes("value")) }),
    }),
    (reply) => [[jsonReply(reply)]],
    { writes: true },
  ),
  etcd_resign: {
    begin: (args) => ({ ask: { method: Ask.RESIGN, payload: jsonPayload(nameOf(args)), errors: true } }),
    failed: notGivenBack,
    reply: (reply) => ({ rows: [[jsonReply(reply)]] }),
  },
  etcd_leader: leader,
  etcd_observe: observe,
  etcd_held: simple(
    () => ({ method: Ask.HELD, payload: jsonPayload({}) }),
    (reply) =>
      (jsonReply(reply) as Held[]).map(({ kind, name, key, lease, ttl, lost }) => [
        text(kind),
        ...(name === "" ? [null, null] : [fromHex(name), fromHex(key)]),
        ...[lease, `${ttl} seconds`, lost],
      ]),
  ),
};
