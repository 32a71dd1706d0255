// The cluster, its members and their upkeep. Members are named as etcdctl names them, in hexadecimal.

import { decodeUtf8 } from "../../base/bytes.ts";
import {
  AlarmReply,
  AlarmRequest,
  CompactRequest,
  HashKvReply,
  HashKvRequest,
  Member,
  MemberAddReply,
  MemberAddRequest,
  MemberRequest,
  MembersReply,
  MoveLeaderRequest,
  OnlyHeader,
  StatusReply,
} from "../../etcd/api.ts";
import { Ask, Method } from "../../ipc/frame.ts";
import type { Decoded } from "../../etcd/schema.ts";
import {
  type AnyFunction,
  type Args,
  type Ask as Request,
  cellText,
  jsonPayload,
  jsonReply,
  NOTHING,
  type Row,
  simple,
  type SqlFunction,
  text,
} from "./call.ts";

/** A literal of text[]. */
export function arrayLiteral(texts: string[]): string {
  return `{${texts.map((one) => `"${one.replace(/["\\]/g, "\\$&")}"`).join(",")}}`;
}

/** QuickJS puts a zero in front of digits whose highest bit is set. */
const hexId = (id: string) => BigInt(id).toString(16).replace(/^0+(?=.)/, "");

/** Decimal digits of the id that an argument names. */
function idOf(args: Args, name = "member_id"): string {
  const given = decodeUtf8(args.bytes(name));
  if (!/^[0-9a-f]{1,16}$/i.test(given)) {
    args.wrong(name, `is no member id: "${given}"`, "etcd_members() shows the ids, in hexadecimal.");
  }
  return String(BigInt(`0x${given}`));
}

const urlsOf = (args: Args, name: string) => args.list(name).map(decodeUtf8);

function memberRow({ ID, name, peerURLs, clientURLs, isLearner }: Decoded<typeof Member.fields>): Row {
  return [text(hexId(ID)), text(name), arrayLiteral(peerURLs), arrayLiteral(clientURLs), isLearner];
}

interface EachState {
  endpoints: string[];
  at: number;
  /** As the backend takes them. */
  rows: (string | null)[][];
}

/**
 * Asks the endpoints that argument "endpoints" names, or all, one after the other. An endpoint that fails has a row that says so,
 * whose other columns are NULL.
 */
function eachEndpoint(
  ask: (args: Args) => { method: number; payload: Uint8Array },
  columns: (reply: Uint8Array) => Row,
  width: number,
): SqlFunction<EachState | null> {
  const next = (state: EachState, args: Args) =>
    state.at < state.endpoints.length
      ? { ask: { ...ask(args), endpoint: state.endpoints[state.at], errors: true as const }, state }
      : { rows: state.rows };
  const noted = (state: EachState, row: Row, args: Args) => {
    const cells = [text(state.endpoints[state.at]), ...row].map(cellText);
    return next({ ...state, at: state.at + 1, rows: [...state.rows, cells] }, args);
  };
  return {
    begin(args) {
      if (!args.has("endpoints")) {
        return { ask: { method: Ask.ENDPOINTS, payload: jsonPayload({}) }, state: null };
      }
      return next({ endpoints: args.list("endpoints").map(decodeUtf8), at: 0, rows: [] }, args);
    },
    reply(reply, state, args) {
      if (state !== null) return noted(state, [...columns(reply), null], args);
      return next({ endpoints: jsonReply(reply), at: 0, rows: [] }, args);
    },
    failed({ message, detail }, state, args) {
      const error = detail === "" ? message : `${message}: ${detail}`;
      return noted(state!, [...Array(width).fill(null), text(error)], args);
    },
  };
}

const status = eachEndpoint(
  () => ({ method: Method.STATUS, payload: NOTHING }),
  (reply) => {
    const one = StatusReply.decode(reply);
    return [
      ...[
        text(hexId(one.header!.member_id)),
        text(one.version),
        one.header!.member_id === one.leader,
        one.isLearner,
      ],
      ...[
        one.dbSize,
        one.dbSizeInUse,
        one.header!.revision,
        one.raftTerm,
        one.raftIndex,
        one.raftAppliedIndex,
      ],
      arrayLiteral(one.errors),
    ];
  },
  11,
);

const defragment: AnyFunction = {
  ...eachEndpoint(() => ({ method: Method.DEFRAGMENT, payload: NOTHING }), () => [], 0),
  writes: true,
};

const hash = eachEndpoint(
  (args) => ({
    method: Method.HASH_KV,
    payload: HashKvRequest.encode({ revision: args.optionalNumber("revision") ?? "0" }),
  }),
  (reply) => {
    const { header, hash, compact_revision } = HashKvReply.decode(reply);
    return [hash, compact_revision, header!.revision];
  },
  3,
);

interface MoveState {
  endpoints: string[];
  at: number;
}

/** Only the leader hands its leadership over, so that it is looked for first. */
const moveLeader: SqlFunction<MoveState | "moved" | null> = {
  writes: true,
  begin: () => ({ ask: { method: Ask.ENDPOINTS, payload: jsonPayload({}) }, state: null }),
  reply(reply, state, args) {
    if (state === "moved") return { rows: [[true]] };
    if (state === null) return askStatus({ endpoints: jsonReply(reply), at: 0 }, args);
    const { header, leader } = StatusReply.decode(reply);
    if (header!.member_id !== leader) return askStatus({ ...state, at: state.at + 1 }, args);
    const payload = MoveLeaderRequest.encode({ targetID: idOf(args) });
    return {
      ask: { method: Method.MOVE_LEADER, payload, endpoint: state.endpoints[state.at] },
      state: "moved",
    };
  },
  failed: (_, state, args) => askStatus({ ...(state as MoveState), at: (state as MoveState).at + 1 }, args),
};

function askStatus(state: MoveState, args: Args): { ask: Request; state: MoveState } {
  const endpoint = state.endpoints[state.at];
  if (endpoint === undefined) {
    args.wrong(
      "member_id",
      "cannot be reached",
      "None of the server's endpoints is the leader of the cluster.",
    );
  }
  return { ask: { method: Method.STATUS, payload: NOTHING, endpoint, errors: true }, state };
}

/** etcdserverpb.AlarmType and AlarmRequest.AlarmAction */
const ALARMS = ["NONE", "NOSPACE", "CORRUPT"];
const DEACTIVATE = 2;

const alarmRows = (reply: Uint8Array): Row[] =>
  AlarmReply.decode(reply).alarms.map(({ memberID, alarm }) => [
    text(hexId(memberID)),
    text(ALARMS[alarm] ?? String(alarm)),
  ]);

interface DisarmState {
  /** Member and alarm, of those that are still to be disarmed. */
  left: [string, number][];
  rows: (string | null)[][];
}

/** Each alarm that is active is disarmed by itself: etcd has no call for all of them. */
const disarm: SqlFunction<DisarmState | null> = {
  writes: true,
  begin: () => ({ ask: { method: Method.ALARM, payload: NOTHING }, state: null }),
  reply(reply, state) {
    const { left, rows } = state ?? {
      left: AlarmReply.decode(reply).alarms.map(({ memberID, alarm }): [string, number] => [memberID, alarm]),
      rows: alarmRows(reply).map((row) => row.map(cellText)),
    };
    if (left.length === 0) return { rows };
    const [[memberID, alarm], ...others] = left;
    const payload = AlarmRequest.encode({ action: DEACTIVATE, memberID, alarm });
    return { ask: { method: Method.ALARM, payload }, state: { left: others, rows } };
  },
};

/** One call that changes a member and shows what the members are then. */
const memberCall = (method: number, urls: boolean): AnyFunction =>
  simple(
    (args) => ({
      method,
      payload: MemberRequest.encode({ ID: idOf(args), ...(urls ? { peerURLs: urlsOf(args, "urls") } : {}) }),
    }),
    (reply) => MembersReply.decode(reply).members.map(memberRow),
    { writes: true },
  );

const askSnapshot = (first: boolean): { ask: Request } => ({
  ask: { method: Ask.SNAPSHOT, payload: jsonPayload({ first }), rows: "bytes" },
});

const snapshot: SqlFunction = { begin: () => askSnapshot(true), page: () => askSnapshot(false) };

export const CLUSTER: Record<string, AnyFunction> = {
  etcd_status: status,
  etcd_version: simple(
    () => ({ method: Method.STATUS, payload: NOTHING }),
    (reply) => [[text(StatusReply.decode(reply).version)]],
  ),
  etcd_members: simple(
    () => ({ method: Method.MEMBER_LIST, payload: NOTHING }),
    (reply) => MembersReply.decode(reply).members.map(memberRow),
  ),
  etcd_member_add: simple(
    (args) => ({
      method: Method.MEMBER_ADD,
      payload: MemberAddRequest.encode({
        peerURLs: urlsOf(args, "peer_urls"),
        isLearner: args.flag("learner"),
      }),
    }),
    (reply) => [[text(hexId(MemberAddReply.decode(reply).member!.ID))]],
    { writes: true },
  ),
  etcd_member_remove: memberCall(Method.MEMBER_REMOVE, false),
  etcd_member_promote: memberCall(Method.MEMBER_PROMOTE, false),
  etcd_member_update: memberCall(Method.MEMBER_UPDATE, true),
  etcd_move_leader: moveLeader,
  etcd_alarms: simple(() => ({ method: Method.ALARM, payload: NOTHING }), alarmRows),
  etcd_alarm_disarm: disarm,
  etcd_compact: simple(
    (args) => ({
      method: Method.COMPACT,
      payload: CompactRequest.encode({ revision: args.number("revision"), physical: args.flag("physical") }),
    }),
    (reply) => [[OnlyHeader.decode(reply).header!.revision]],
    { writes: true },
  ),
  etcd_defragment: defragment,
  etcd_hash: hash,
  etcd_snapshot: snapshot,
  etcd_snapshot_chunks: snapshot,
};
