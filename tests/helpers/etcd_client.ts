// The test helpers' own etcd client: unary calls of etcd's API 3.4 with hand-written protobuf, over @grpc/grpc-js.
//
// It shares nothing with src/proxy on purpose: a test that loads and checks data through the code under test proves
// less. Bytes in, bytes out, so keys and values need not be text. It tries one endpoint after the other, because
// tests kill and pause members. A call is repeated when an endpoint fails, also a write: what it writes must bear
// being written twice (a put's version may then be one higher).

import { Buffer } from "node:buffer";
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import * as grpc from "@grpc/grpc-js";
import { delay } from "./wait.ts";

/** Text is sent as UTF-8. */
export type Bytes = string | Uint8Array;

/** mvccpb.KeyValue. */
export interface KeyValue {
  key: Uint8Array;
  value: Uint8Array;
  createRevision: bigint;
  modRevision: bigint;
  version: bigint;
  lease: bigint;
}

/** etcdserverpb.StatusResponse, as far as tests need it. Ids are etcd's member ids; leader is 0 when there is none. */
export interface MemberStatus {
  memberId: bigint;
  leader: bigint;
  version: string;
  revision: bigint;
}

/** etcd's defaults: max-txn-ops, and well below max-request-bytes (1.5 MiB). */
const TXN_OPS = 128;
const TXN_BYTES = 1_000_000;
const TXNS_IN_FLIGHT = 16;

/** One endpoint's answer is awaited this long before the next one is asked. */
const ATTEMPT_MS = 2_500;

const encoder = new TextEncoder();

export function toBytes(value: Bytes): Uint8Array {
  return typeof value === "string" ? encoder.encode(value) : value;
}

// grpc-js calls methods that only a Buffer has.
const toBuffer = (message: Uint8Array) => Buffer.from(message.buffer, message.byteOffset, message.length);
const toArray = (message: Buffer) => new Uint8Array(message);

/** Field numbers to values of one message: varints as bigint, the rest as bytes; the last of a repeated field wins. */
export function readFields(
  message: Uint8Array,
  each?: (field: number, value: bigint | Uint8Array) => void,
): Map<number, bigint | Uint8Array> {
  const fields = new Map<number, bigint | Uint8Array>();
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    let value: bigint | Uint8Array;
    if (wireType === WireType.Varint) value = BigInt(reader.uint64());
    else if (wireType === WireType.LengthDelimited) value = reader.bytes();
    else {
      reader.skip(wireType);
      continue;
    }
    fields.set(field, value);
    each?.(field, value);
  }
  return fields;
}

const number = (fields: Map<number, bigint | Uint8Array>, field: number) =>
  BigInt.asIntN(64, (fields.get(field) ?? 0n) as bigint);
const bytes = (fields: Map<number, bigint | Uint8Array>, field: number) =>
  (fields.get(field) ?? new Uint8Array()) as Uint8Array;

function readKeyValue(message: Uint8Array): KeyValue {
  const fields = readFields(message);
  return {
    key: bytes(fields, 1),
    createRevision: number(fields, 2),
    modRevision: number(fields, 3),
    version: number(fields, 4),
    value: bytes(fields, 5),
    lease: BigInt.asUintN(64, number(fields, 6)),
  };
}

/** Revision in the ResponseHeader, which is field 1 of every reply. */
const headerRevision = (reply: Uint8Array) => number(readFields(bytes(readFields(reply), 1)), 3);

function putRequest(key: Uint8Array, value: Uint8Array): Uint8Array {
  return new BinaryWriter().uint32(1 << 3 | 2).bytes(key).uint32(2 << 3 | 2).bytes(value).finish();
}

/** A client of the endpoints; `usable(i)` lets the owner name those that are down at the moment. */
export class EtcdClient {
  readonly #clients: grpc.Client[];

  constructor(
    readonly endpoints: string[],
    private readonly usable: (member: number) => boolean = () => true,
  ) {
    this.#clients = endpoints.map((endpoint) =>
      new grpc.Client(endpoint, grpc.credentials.createInsecure(), {
        "grpc.max_receive_message_length": -1,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 500,
        // One connection for each helper, so that closing it leaves nothing behind.
        "grpc.use_local_subchannel_pool": 1,
      })
    );
  }

  close(): void {
    for (const client of this.#clients) client.close();
  }

  /** One call to one endpoint. Rejects with grpc.ServiceError. `path` as in /etcdserverpb.KV/Range. */
  callMember(member: number, path: string, request: Uint8Array, timeoutMs = ATTEMPT_MS): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.#clients[member].makeUnaryRequest(
        path,
        toBuffer,
        toArray,
        request,
        new grpc.Metadata(),
        { deadline: Date.now() + timeoutMs },
        (error, reply) => error ? reject(error) : resolve(reply!),
      );
    });
  }

  /** A call to the first endpoint that answers, within 20 seconds. Rejects with the last grpc.ServiceError. */
  async call(path: string, request: Uint8Array): Promise<Uint8Array> {
    const deadline = Date.now() + 20_000;
    for (;;) {
      let last: unknown = new Error("no member of this etcd cluster is up");
      for (let member = 0; member < this.endpoints.length; member++) {
        if (!this.usable(member)) continue;
        try {
          return await this.callMember(member, path, request);
        } catch (error) {
          if (!isPassing(error)) throw error;
          last = error;
        }
      }
      if (Date.now() > deadline) throw last;
      await delay(50);
    }
  }

  /** Watches a range at a member; tells how many events each response has. The call ends it. */
  watch(member: number, key: string, rangeEnd: string, heard: (events: number) => void): () => void {
    const stream = this.#clients[member].makeBidiStreamRequest(
      "/etcdserverpb.Watch/Watch",
      toBuffer,
      toArray,
      new grpc.Metadata(),
    );
    stream.on("data", (message: Uint8Array) => {
      let events = 0;
      readFields(message, (field) => events += Number(field === 11));
      heard(events);
    });
    stream.on("error", () => {});
    const create = new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(toBytes(key))
      .tag(2, WireType.LengthDelimited).bytes(toBytes(rangeEnd)).finish();
    stream.write(new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(create).finish());
    return () => stream.cancel();
  }

  /** Revision of the put. */
  async put(key: Bytes, value: Bytes): Promise<bigint> {
    return headerRevision(await this.call("/etcdserverpb.KV/Put", putRequest(toBytes(key), toBytes(value))));
  }

  /**
   * Writes many keys, in Txns of 128 and several of these at once: in no order. Throws when a key comes twice,
   * since which value stays would be chance.
   */
  async putMany(entries: Iterable<readonly [Bytes, Bytes]>): Promise<void> {
    const txns = packTxns(entries);
    const worker = async () => {
      for (const txn of txns) await this.call("/etcdserverpb.KV/Txn", txn);
    };
    // All workers draw from the one generator; an error in one ends it for the others as well.
    await Promise.all(Array.from({ length: TXNS_IN_FLIGHT }, worker));
  }

  async get(key: Bytes): Promise<KeyValue | null> {
    const request = new BinaryWriter().uint32(1 << 3 | 2).bytes(toBytes(key)).finish();
    const kv = readFields(await this.call("/etcdserverpb.KV/Range", request)).get(2);
    return kv instanceof Uint8Array ? readKeyValue(kv) : null;
  }

  /** All keys that start with the prefix (every key for the empty one), in etcd's order. */
  async list(prefix: Bytes): Promise<KeyValue[]> {
    const out: KeyValue[] = [];
    readFields(await this.call("/etcdserverpb.KV/Range", prefixRange(toBytes(prefix))), (field, value) => {
      if (field === 2) out.push(readKeyValue(value as Uint8Array));
    });
    return out;
  }

  /** How many keys start with the prefix. */
  async count(prefix: Bytes): Promise<number> {
    const request = new BinaryWriter().raw(prefixRange(toBytes(prefix))).uint32(9 << 3).bool(true).finish();
    return Number(number(readFields(await this.call("/etcdserverpb.KV/Range", request)), 4));
  }

  /** Deletes a key by one call to one member. Rejects with grpc.ServiceError; it may have taken place then, or still will. */
  async deleteOnce(key: Bytes): Promise<void> {
    const request = new BinaryWriter().uint32(1 << 3 | 2).bytes(toBytes(key)).finish();
    const member = this.endpoints.findIndex((_, i) => this.usable(i));
    await this.callMember(Math.max(member, 0), "/etcdserverpb.KV/DeleteRange", request);
  }

  /** Number of keys deleted: 1 or 0. */
  async delete(key: Bytes): Promise<number> {
    const request = new BinaryWriter().uint32(1 << 3 | 2).bytes(toBytes(key)).finish();
    return Number(number(readFields(await this.call("/etcdserverpb.KV/DeleteRange", request)), 2));
  }

  /** Number of keys deleted of those that start with the prefix; the empty prefix deletes all. */
  async deletePrefix(prefix: Bytes): Promise<number> {
    const reply = await this.call("/etcdserverpb.KV/DeleteRange", prefixRange(toBytes(prefix)));
    return Number(number(readFields(reply), 2));
  }

  /** The store's revision now. */
  async revision(): Promise<bigint> {
    const request = new BinaryWriter().uint32(1 << 3 | 2).bytes(Uint8Array.of(0)).finish();
    return headerRevision(await this.call("/etcdserverpb.KV/Range", request));
  }

  /** Compacts the history up to the revision and waits until it is gone from the disk. */
  async compact(revision: bigint | number): Promise<void> {
    const request = new BinaryWriter().uint32(1 << 3).int64(revision).uint32(2 << 3).bool(true).finish();
    await this.call("/etcdserverpb.KV/Compact", request);
  }

  /** What one member says of itself. */
  async status(member: number): Promise<MemberStatus> {
    const reply = readFields(
      await this.callMember(member, "/etcdserverpb.Maintenance/Status", new Uint8Array()),
    );
    const header = readFields(bytes(reply, 1));
    return {
      memberId: BigInt.asUintN(64, number(header, 2)),
      revision: number(header, 3),
      version: new TextDecoder().decode(bytes(reply, 2)),
      leader: BigInt.asUintN(64, number(reply, 4)),
    };
  }
}

/** Whether another endpoint, or the same one a little later, may answer better. */
function isPassing(error: unknown): boolean {
  const code = (error as grpc.ServiceError).code;
  return code === grpc.status.UNAVAILABLE || code === grpc.status.DEADLINE_EXCEEDED ||
    code === grpc.status.CANCELLED || code === grpc.status.UNKNOWN;
}

/** The first key behind all that start with the prefix; a single NUL, etcd's "to the end", when there is none. */
export function prefixEnd(prefix: Uint8Array): Uint8Array {
  let length = prefix.length;
  while (length > 0 && prefix[length - 1] === 0xff) length--;
  if (length === 0) return Uint8Array.of(0);
  const end = prefix.slice(0, length);
  end[length - 1]++;
  return end;
}

function prefixRange(prefix: Uint8Array): Uint8Array {
  const key = prefix.length === 0 ? Uint8Array.of(0) : prefix;
  return new BinaryWriter().uint32(1 << 3 | 2).bytes(key).uint32(2 << 3 | 2).bytes(prefixEnd(prefix))
    .finish();
}

function* packTxns(entries: Iterable<readonly [Bytes, Bytes]>): Generator<Uint8Array> {
  const seen = new Set<string>();
  let writer = new BinaryWriter();
  let ops = 0;
  let size = 0;
  for (const [key, value] of entries) {
    const keyBytes = toBytes(key);
    const name = Array.from(keyBytes, (byte) => String.fromCharCode(byte)).join("");
    if (seen.has(name)) throw new Error(`putMany: key ${Deno.inspect(key)} comes twice`);
    seen.add(name);
    const put = putRequest(keyBytes, toBytes(value));
    if (ops > 0 && (ops === TXN_OPS || size + put.length > TXN_BYTES)) {
      yield writer.finish();
      writer = new BinaryWriter();
      ops = size = 0;
    }
    const op = new BinaryWriter().uint32(2 << 3 | 2).bytes(put).finish();
    writer.uint32(2 << 3 | 2).bytes(op);
    ops++;
    size += put.length;
  }
  if (ops > 0) yield writer.finish();
}
