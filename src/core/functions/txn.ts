// Txns: as JSON, and the ones that are needed most by name.

import { decodeUtf8, encodeUtf8, fromHex, printable, printableKey, toHex } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import {
  DeleteReply,
  DeleteRequest,
  Header,
  type KeyValueMessage,
  LeaseGrantRequest,
  LeaseReply,
  PutReply,
  PutRequest,
  RangeReply,
} from "../../etcd/api.ts";
import { encodeRangeRequest, type Order, SORT_TARGETS } from "../../etcd/messages.ts";
import { Method } from "../../ipc/frame.ts";
import { prefixRange, toEtcd } from "../../etcd/keyrange.ts";
import { type Input, message } from "../../etcd/schema.ts";
import { type AnyFunction, type Args, type Ask, type SqlFunction, text } from "./call.ts";

const Compare = message({
  result: [1, "int32"],
  target: [2, "int32"],
  key: [3, "bytes"],
  version: [4, "int64"],
  create_revision: [5, "int64"],
  mod_revision: [6, "int64"],
  value: [7, "bytes"],
  lease: [8, "int64"],
  range_end: [64, "bytes"],
});
/** RequestOp and ResponseOp: what is in them is read by itself, since Txns nest. */
const Op = message({ get: [1, "bytes"], put: [2, "bytes"], delete: [3, "bytes"], txn: [4, "bytes"] });
const Txn = message({
  compare: [1, Compare, "repeated"],
  success: [2, Op, "repeated"],
  failure: [3, Op, "repeated"],
});
const TxnReply = message({ header: [1, Header], succeeded: [2, "bool"], responses: [3, Op, "repeated"] });

/** Compare.CompareTarget and .CompareResult */
const TARGETS = ["version", "create_revision", "mod_revision", "value", "lease"] as const;
const RESULTS = ["=", ">", "<", "!="];

type Json = Record<string, unknown>;

const LEAST = -(2n ** 63n);
const MOST = 2n ** 63n - 1n;

function wrong(what: string, hint = ""): never {
  throw new EtcdFdwError("22023", `invalid Txn: ${what}`, { hint });
}

function objectOf(value: unknown, what: string, known: readonly string[]): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) wrong(`${what} is not an object`);
  const unknown = Object.keys(value).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    wrong(`${what} has no field "${unknown}"`, `Its fields are: ${known.join(", ")}.`);
  }
  return value as Json;
}

function listOf(value: unknown, what: string): unknown[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) wrong(`${what} is not an array`);
  return value;
}

/** Text, or {"hex": "..."}. */
function bytesOf(value: unknown, what: string): Uint8Array {
  if (typeof value === "string") return encodeUtf8(value);
  const { hex } = objectOf(value, what, ["hex"]);
  if (typeof hex !== "string" || !/^([0-9a-f]{2})*$/i.test(hex)) {
    wrong(`${what} is neither a string nor {"hex": "..."}`);
  }
  return fromHex(hex.toLowerCase());
}

/** A whole number, or its digits: JSON's numbers do not hold all of 64 bits here. */
function numberOf(value: unknown, what: string): string {
  if (typeof value === "string" && /^-?\d{1,19}$/.test(value)) {
    const number = BigInt(value);
    if (number < LEAST || number > MOST) wrong(`${what} is out of range for bigint`);
    return String(number);
  }
  if (typeof value === "number" && Number.isSafeInteger(value)) return String(value);
  return wrong(`${what} is not a whole number`, "Give numbers beyond 2^53 as strings.");
}

function limitOf(value: unknown): number {
  const limit = Number(numberOf(value, '"limit" of a get'));
  return Number.isSafeInteger(limit) ? limit : wrong('"limit" of a get is out of range');
}

function flagOf(value: unknown, what: string): boolean {
  if (value === undefined || typeof value === "boolean") return value === true;
  return wrong(`${what} is neither true nor false`);
}

const RANGE_FIELDS = ["key", "range_end", "prefix"];

function rangeOf(json: Json, what: string): { key: Uint8Array; rangeEnd: Uint8Array | null } {
  const key = bytesOf(json.key, `"key" of ${what}`);
  if (flagOf(json.prefix, `"prefix" of ${what}`)) return toEtcd(prefixRange(key));
  if (json.range_end === undefined) return { key, rangeEnd: null };
  const end = bytesOf(json.range_end, `"range_end" of ${what}`);
  return { key, rangeEnd: end.length === 0 ? Uint8Array.of(0) : end };
}

const endOf = (rangeEnd: Uint8Array | null) => rangeEnd === null ? {} : { range_end: rangeEnd };

function compareOf(value: unknown): Input<typeof Compare.fields> {
  const json = objectOf(value, "a comparison", [...RANGE_FIELDS, "op", ...TARGETS]);
  const targets = TARGETS.filter((target) => json[target] !== undefined);
  if (targets.length !== 1) wrong("a comparison is about one thing", `Give one of ${TARGETS.join(", ")}.`);
  const [target] = targets;
  const result = RESULTS.indexOf(String(json.op ?? "="));
  if (result < 0) {
    wrong(`a comparison has no "op" ${JSON.stringify(json.op)}`, `Give one of ${RESULTS.join(" ")}.`);
  }
  const { key, rangeEnd } = rangeOf(json, "a comparison");
  const operand = target === "value"
    ? { value: bytesOf(json.value, '"value" of a comparison') }
    : { [target]: numberOf(json[target], `"${target}" of a comparison`) };
  return { result, target: TARGETS.indexOf(target), key, ...operand, ...endOf(rangeEnd) };
}

function orderOf(value: unknown): Order | undefined {
  if (value === undefined) return undefined;
  const [target, direction = "asc"] = String(value).toLowerCase().split(/\s+/);
  const known = SORT_TARGETS.find((one) => one === target);
  if (known === undefined || direction !== "asc" && direction !== "desc") {
    wrong(
      `"sort" of a get is ${JSON.stringify(value)}`,
      `Give one of ${SORT_TARGETS.join(", ")}, and asc or desc.`,
    );
  }
  return { target: known, descending: direction === "desc" };
}

function getOf(value: unknown): Uint8Array {
  const json = objectOf(value, "a get", [
    ...RANGE_FIELDS,
    "limit",
    "revision",
    "sort",
    "keys_only",
    "count_only",
  ]);
  return encodeRangeRequest({
    ...rangeOf(json, "a get"),
    ...(json.limit === undefined ? {} : { limit: limitOf(json.limit) }),
    ...(json.revision === undefined ? {} : { revision: numberOf(json.revision, '"revision" of a get') }),
    order: orderOf(json.sort),
    keysOnly: flagOf(json.keys_only, '"keys_only" of a get'),
    countOnly: flagOf(json.count_only, '"count_only" of a get'),
  });
}

function putOf(value: unknown): Uint8Array {
  const json = objectOf(value, "a put", ["key", "value", "lease", "prev", "ignore_value", "ignore_lease"]);
  const ignoreValue = flagOf(json.ignore_value, '"ignore_value" of a put');
  return PutRequest.encode({
    key: bytesOf(json.key, '"key" of a put'),
    ...(ignoreValue ? { ignore_value: true } : { value: bytesOf(json.value, '"value" of a put') }),
    ...(json.lease === undefined ? {} : { lease: numberOf(json.lease, '"lease" of a put') }),
    prev_kv: flagOf(json.prev, '"prev" of a put'),
    ignore_lease: flagOf(json.ignore_lease, '"ignore_lease" of a put'),
  });
}

function deleteOf(value: unknown): Uint8Array {
  const json = objectOf(value, "a delete", [...RANGE_FIELDS, "prev"]);
  const { key, rangeEnd } = rangeOf(json, "a delete");
  return DeleteRequest.encode({ key, ...endOf(rangeEnd), prev_kv: flagOf(json.prev, '"prev" of a delete') });
}

const OPERATIONS: Record<string, (value: unknown) => Uint8Array> = {
  get: getOf,
  put: putOf,
  delete: deleteOf,
  txn: (value) => Txn.encode(txnOf(value)),
};

function operationOf(value: unknown): Input<typeof Op.fields> {
  const names = Object.keys(OPERATIONS);
  const given = Object.entries(objectOf(value, "an operation", names));
  if (given.length !== 1) wrong("an operation is one thing", `Give one of ${names.join(", ")}.`);
  const [[name, operation]] = given;
  return { [name]: OPERATIONS[name](operation) };
}

function txnOf(value: unknown): Input<typeof Txn.fields> {
  const json = objectOf(value, "a Txn", ["compare", "success", "failure"]);
  return {
    compare: listOf(json.compare, '"compare"').map(compareOf),
    success: listOf(json.success, '"success"').map(operationOf),
    failure: listOf(json.failure, '"failure"').map(operationOf),
  };
}

/** JSON whose numbers are written out: digits of 64 bits stay what they are. */
class Digits {
  readonly digits: string;
  constructor(digits: string) {
    this.digits = digits;
  }
}

function toJson(value: unknown): string {
  if (value instanceof Digits) return value.digits;
  if (value instanceof Uint8Array) return bytesJson(value);
  if (Array.isArray(value)) return `[${value.map(toJson).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{${
    Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}:${toJson(one)}`).join(",")
  }}`;
}

/** As they are taken: text where jsonb can hold it. */
function bytesJson(bytes: Uint8Array): string {
  const asText = decodeUtf8(bytes);
  const same = !bytes.includes(0) && toHex(encodeUtf8(asText)) === toHex(bytes);
  return JSON.stringify(same ? asText : { hex: toHex(bytes) });
}

function kvJson(kv: KeyValueMessage) {
  const { key, value, create_revision, mod_revision, version, lease } = kv;
  return {
    ...{ key, value, create_revision: new Digits(create_revision), mod_revision: new Digits(mod_revision) },
    ...{ version: new Digits(version), lease: new Digits(lease) },
  };
}

interface Reply {
  succeeded: boolean;
  revision?: Digits;
  responses: Record<string, unknown>[];
}

/** The answers, each under the name of its operation. */
function replyJson(reply: Uint8Array, json: Json): Reply {
  const { header, succeeded, responses } = TxnReply.decode(reply);
  const operations = listOf(succeeded ? json.success : json.failure, "");
  return {
    succeeded,
    ...(header === null ? {} : { revision: new Digits(header.revision) }),
    responses: responses.map((response, i) => {
      const operation = operations[i] as Json;
      if ("get" in operation) {
        const { kvs, more, count } = RangeReply.decode(response.get);
        return { get: { count: new Digits(count), more, kvs: kvs.map(kvJson) } };
      }
      if ("put" in operation) {
        const { prev_kv } = PutReply.decode(response.put);
        return { put: prev_kv === null ? {} : { prev: kvJson(prev_kv) } };
      }
      if ("delete" in operation) {
        const { deleted, prev_kvs } = DeleteReply.decode(response.delete);
        return { delete: { deleted: new Digits(deleted), prev: prev_kvs.map(kvJson) } };
      }
      return { txn: replyJson(response.txn, operation.txn as Json) };
    }),
  };
}

/** Whether all its operations only read, in either branch. */
const isReadonly = ({ success = [], failure = [] }: { success?: Json[]; failure?: Json[] }): boolean =>
  [...success, ...failure].every((operation) =>
    "get" in operation || "txn" in operation && isReadonly(operation.txn as Json)
  );

interface TxnJson extends Json {
  compare?: Json[];
  success?: Json[];
  failure?: Json[];
}

const operationsIn = ({ success = [], failure = [] }: TxnJson): Json[] => [...success, ...failure];
const innerTxns = (json: TxnJson) =>
  operationsIn(json).flatMap(({ txn }) => txn === undefined ? [] : [txn as TxnJson]);

/** Operations that need the rights that a Txn and those within it need. */
function rightsTo(json: TxnJson): Json[] {
  const named = ({ key, range_end, prefix }: Json) => ({ key, range_end, prefix });
  const compared = (json.compare ?? []).map((one) => ({ get: { ...named(one), limit: 1 } }));
  const made = operationsIn(json).flatMap(({ get, put, delete: deleted }) => {
    const written = (put ?? deleted) as Json | undefined;
    const read = (get ?? (written?.prev === true ? written : undefined)) as Json | undefined;
    return [
      ...(read === undefined ? [] : [{ get: { ...named(read), limit: 1 } }]),
      ...(written === undefined ? [] : [{ delete: named(written) }]),
    ];
  });
  return [...compared, ...made, ...innerTxns(json).flatMap(rightsTo)];
}

/**
 * etcd looks at rights to what stands on the first level alone. So a Txn with others in it goes within one more, whose other
 * side, which is never taken, names their keys.
 */
const enclosed = (json: TxnJson): TxnJson => ({
  success: [{ txn: json }],
  failure: rightsTo(json),
});

const txn: SqlFunction = {
  writes: true,
  begin(args) {
    const json = args.json("txn") as Json;
    const checked = txnOf(json);
    const payload = Txn.encode(innerTxns(json).length === 0 ? checked : txnOf(enclosed(json)));
    // One that only reads may be asked again when its answer is lost.
    return {
      ask: isReadonly(json)
        ? { method: Method.READ_TXN, payload, readonly: true }
        : { method: Method.TXN, payload },
    };
  },
  reply(reply, _, args) {
    const json = args.json("txn") as TxnJson;
    if (innerTxns(json).length === 0) return { rows: [[toJson(replyJson(reply, json))]] };
    const { revision, responses } = replyJson(reply, enclosed(json));
    return { rows: [[toJson({ ...responses[0].txn as Reply, revision })]] };
  },
};

const askTxn = (request: Input<typeof Txn.fields>): Ask => ({
  method: Method.TXN,
  payload: Txn.encode(request),
});
const absent = (key: Uint8Array) => ({ result: 0, target: TARGETS.indexOf("version"), key, version: "0" });
const succeeded = (reply: Uint8Array) => TxnReply.decode(reply).succeeded;

/** An expected NULL is a key that is not there, a new NULL deletes. */
const cas: SqlFunction = {
  writes: true,
  begin(args) {
    const key = args.bytes("key");
    const expected = args.optionalBytes("expected");
    const value = args.optionalBytes("new");
    const compare = expected === null
      ? absent(key)
      : { result: 0, target: TARGETS.indexOf("value"), key, value: expected };
    const operation = value === null
      ? { delete: DeleteRequest.encode({ key }) }
      : { put: PutRequest.encode({ key, value }) };
    return { ask: askTxn({ compare: [compare], success: [operation] }) };
  },
  reply: (reply) => ({ rows: [[succeeded(reply)]] }),
};

function askCreate(args: Args, lease: string | undefined): Ask {
  const key = args.bytes("key");
  const put = PutRequest.encode({
    key,
    value: args.bytes("value"),
    ...(lease === undefined ? {} : { lease }),
  });
  return askTxn({ compare: [absent(key)], success: [{ put }] });
}

const create: SqlFunction<{ granted: true } | null> = {
  writes: true,
  begin(args) {
    if (!args.has("ttl")) return { ask: askCreate(args, args.optionalNumber("lease")) };
    if (args.has("lease")) args.wrong("ttl", "cannot be given together with lease");
    const payload = LeaseGrantRequest.encode({ TTL: String(args.seconds("ttl")) });
    return { ask: { method: Method.LEASE_GRANT, payload }, state: { granted: true } };
  },
  reply(reply, state, args) {
    if (state === null) return { rows: [[succeeded(reply)]] };
    return { ask: askCreate(args, LeaseReply.decode(reply).ID), state: null };
  },
};

/** What is written, null while the number is still read. */
interface IncrState {
  next: string | null;
}

const askNumber = (args: Args) => ({
  ask: { method: Method.RANGE, payload: encodeRangeRequest({ key: args.bytes("key"), rangeEnd: null }) },
  state: { next: null },
});

/** Reads, and writes if nobody has written meanwhile; otherwise again. A key that is not there counts from 0. */
const incr: SqlFunction<IncrState> = {
  writes: true,
  begin: askNumber,
  reply(reply, { next }, args) {
    if (next !== null) return succeeded(reply) ? { rows: [[next]] } : askNumber(args);
    const key = args.bytes("key");
    const [kv] = RangeReply.decode(reply).kvs;
    const now = kv === undefined ? "0" : decodeUtf8(kv.value);
    if (!/^-?\d{1,19}$/.test(now)) {
      throw new EtcdFdwError(
        "22P02",
        `the value of key "${printableKey(key)}" in etcd is not a whole number`,
        {
          detail: `It is "${printable(kv.value.subarray(0, 40))}".`,
        },
      );
    }
    const sum = BigInt(now) + BigInt(args.number("by"));
    if (sum < LEAST || sum > MOST) {
      throw new EtcdFdwError(
        "22003",
        `the value of key "${printableKey(key)}" in etcd is out of range for bigint`,
      );
    }
    const compare = kv === undefined
      ? absent(key)
      : { result: 0, target: TARGETS.indexOf("mod_revision"), key, mod_revision: kv.mod_revision };
    const put = PutRequest.encode({
      key,
      value: text(String(sum)),
      ...(kv === undefined ? {} : { ignore_lease: true }),
    });
    return { ask: askTxn({ compare: [compare], success: [{ put }] }), state: { next: String(sum) } };
  },
};

export const TXN: Record<string, AnyFunction> = {
  etcd_txn: txn,
  etcd_cas: cas,
  etcd_create: create,
  etcd_incr: incr,
};
