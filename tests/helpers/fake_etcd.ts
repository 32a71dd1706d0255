// A fake etcd for the faults that a real one cannot be made to show: replies that are no protobuf, statuses at will,
// silence, a connection that breaks in the middle of a reply.
//
// It is a gRPC server that takes all unary methods of etcd and knows none (streams: UNIMPLEMENTED): a handler gets the path and the raw request and answers
// with raw bytes. A TCP relay stands before it, because only there can a connection be cut at a chosen byte.
// It is no model of etcd: what a real etcd can show is tested against a real one.

import { Buffer } from "node:buffer";
import { connect, createServer, type Server as TcpServer, type Socket } from "node:net";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import * as grpc from "@grpc/grpc-js";

/** A call as it arrived. */
export interface FakeRequest {
  /** As in /etcdserverpb.KV/Range. */
  path: string;
  message: Uint8Array;
  /** ASCII metadata, lower-case names: `token` is etcd's auth token. */
  metadata: Record<string, string>;
}

/** What to do with a call. */
export type FakeReply =
  /** The reply's bytes, whatever they are. */
  | Uint8Array
  /** A gRPC status other than OK, in place of a reply. */
  | { status: number; message?: string }
  /** Never answer. */
  | "silence"
  /** Break the connection before answering. */
  | "hangup"
  /** Answer, and break the connection once `afterBytes` more bytes have gone out, HTTP/2 framing included. */
  | { reply: Uint8Array; afterBytes: number };

export type FakeHandler = (request: FakeRequest) => FakeReply | Promise<FakeReply>;

export interface FakeEtcd extends AsyncDisposable {
  /** host:port. */
  endpoint: string;
  /** All calls so far, in order. */
  requests: FakeRequest[];
  /** Ends it and all its connections; idempotent. */
  stop(): Promise<void>;
}

/** Starts a fake on a free loopback port. A handler that throws answers with status INTERNAL and its message. */
export async function startFakeEtcd(handler: FakeHandler): Promise<FakeEtcd> {
  const requests: FakeRequest[] = [];
  const relay = new Relay();
  const server = new grpc.Server({
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
  });
  const { port } = await new Promise<{ port: number }>((resolve, reject) => {
    server.bindAsync(
      "127.0.0.1:0",
      grpc.ServerCredentials.createInsecure(),
      (error, bound) => error ? reject(error) : resolve({ port: bound }),
    );
  });
  answerEveryPath(server, (path, call, callback) => {
    const request: FakeRequest = {
      path,
      message: new Uint8Array(call.request),
      metadata: Object.fromEntries(
        Object.entries(call.metadata.getMap()).map(([name, value]) => [name, value.toString()]),
      ),
    };
    requests.push(request);
    answer(handler, request, relay, callback);
  });
  await relay.listen(port);

  let stopping: Promise<void> | undefined;
  const stop = () => {
    stopping ??= (async () => {
      await relay.close();
      server.forceShutdown();
      // Lets go of the listener, which forceShutdown leaves to the event loop.
      await new Promise((resolve) => setTimeout(resolve, 0));
    })();
    return stopping;
  };
  return { endpoint: `127.0.0.1:${relay.port}`, requests, stop, [Symbol.asyncDispose]: stop };
}

type Unary = grpc.handleUnaryCall<Buffer, Buffer>;

/**
 * Makes the server take every path as a unary method of bytes. grpc-js has handlers by exact path only, so each of
 * etcd's unary methods is registered by name.
 */
function answerEveryPath(
  server: grpc.Server,
  take: (path: string, call: Parameters<Unary>[0], callback: Parameters<Unary>[1]) => void,
): void {
  const bytes = (message: Buffer) => message;
  for (const [service, methods] of Object.entries(UNARY_METHODS)) {
    for (const method of methods) {
      const path = `/etcdserverpb.${service}/${method}`;
      const unary: Unary = (call, callback) => take(path, call, callback);
      server.register(path, unary, bytes, bytes, "unary");
    }
  }
}

/** The unary methods of etcd 3.4's services. */
const UNARY_METHODS: Record<string, string[]> = {
  KV: ["Range", "Put", "DeleteRange", "Txn", "Compact"],
  Lease: ["LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases"],
  Cluster: ["MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"],
  Maintenance: ["Alarm", "Status", "Defragment", "Hash", "HashKV", "MoveLeader"],
  Auth: [
    ...["AuthEnable", "AuthDisable", "AuthStatus", "Authenticate"],
    ...[
      "UserAdd",
      "UserGet",
      "UserList",
      "UserDelete",
      "UserChangePassword",
      "UserGrantRole",
      "UserRevokeRole",
    ],
    ...["RoleAdd", "RoleGet", "RoleList", "RoleDelete", "RoleGrantPermission", "RoleRevokePermission"],
  ],
};

async function answer(
  handler: FakeHandler,
  request: FakeRequest,
  relay: Relay,
  callback: grpc.sendUnaryData<Buffer>,
): Promise<void> {
  let reply: FakeReply;
  try {
    reply = await handler(request);
  } catch (error) {
    reply = { status: grpc.status.INTERNAL, message: error instanceof Error ? error.message : String(error) };
  }
  const send = (message: Uint8Array) =>
    callback(null, Buffer.from(message.buffer, message.byteOffset, message.length));
  if (reply === "silence") return;
  if (reply === "hangup") relay.cutAfter(0);
  else if (reply instanceof Uint8Array) send(reply);
  else if ("status" in reply) callback({ code: reply.status, details: reply.message ?? "" });
  else {
    relay.cutAfter(reply.afterBytes);
    send(reply.reply);
  }
}

/** Passes bytes between clients and the gRPC server, and breaks all connections at a given byte of the replies. */
class Relay {
  readonly #server: TcpServer;
  readonly #sockets = new Set<Socket>();
  #upstreamPort = 0;
  #left = Infinity;
  port = 0;

  constructor() {
    this.#server = createServer((client) => this.#relay(client));
  }

  listen(upstreamPort: number): Promise<void> {
    this.#upstreamPort = upstreamPort;
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(0, "127.0.0.1", () => {
        this.port = (this.#server.address() as { port: number }).port;
        resolve();
      });
    });
  }

  /** Breaks the connections when this many more bytes have been sent to clients. New connections are whole again. */
  cutAfter(bytes: number): void {
    this.#left = bytes;
    if (bytes === 0) this.#cut();
  }

  #cut(): void {
    this.#left = Infinity;
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  #relay(client: Socket): void {
    const upstream = connect(this.#upstreamPort, "127.0.0.1");
    for (const [socket, other] of [[client, upstream], [upstream, client]]) {
      this.#sockets.add(socket);
      // A reset is one of the faults that are played here, nothing to report.
      socket.on("error", () => {});
      socket.on("close", () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
      socket.on("drain", () => other.resume());
    }
    client.on("data", (chunk: Buffer) => {
      if (!upstream.write(chunk)) client.pause();
    });
    upstream.on("data", (chunk: Buffer) => {
      if (chunk.length < this.#left) {
        this.#left -= chunk.length;
        if (!client.write(chunk)) upstream.pause();
        return;
      }
      // What is allowed still has to leave before the socket is destroyed.
      const rest = chunk.subarray(0, this.#left);
      this.#left = Infinity;
      upstream.pause();
      client.write(rest, () => this.#cut());
    });
  }

  close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#cut();
    return closed;
  }
}

/** mvccpb.KeyValue to build; what is absent is 0, or 1 for the revisions and the version. */
export interface FakeKeyValue {
  key: string | Uint8Array;
  value?: string | Uint8Array;
  createRevision?: number | string;
  modRevision?: number | string;
  version?: number | string;
  lease?: number | string;
}

const bytesOf = (value: string | Uint8Array) =>
  typeof value === "string" ? new TextEncoder().encode(value) : value;

/** The wire form of a KeyValue. */
export function keyValueBytes(kv: FakeKeyValue): Uint8Array {
  const writer = new BinaryWriter().uint32(1 << 3 | 2).bytes(bytesOf(kv.key))
    .uint32(2 << 3).int64(kv.createRevision ?? 1)
    .uint32(3 << 3).int64(kv.modRevision ?? 1)
    .uint32(4 << 3).int64(kv.version ?? 1)
    .uint32(5 << 3 | 2).bytes(bytesOf(kv.value ?? ""));
  if (kv.lease) writer.uint32(6 << 3).int64(kv.lease);
  return writer.finish();
}

/** The wire form of a ResponseHeader. */
export function headerBytes(revision: number | string = 1): Uint8Array {
  return new BinaryWriter().uint32(1 << 3).uint64(1).uint32(2 << 3).uint64(2)
    .uint32(3 << 3).int64(revision).uint32(4 << 3).uint64(1).finish();
}

/** The wire form of a RangeResponse. `count` is the number of keys given unless it is named. */
export function rangeResponse(
  kvs: FakeKeyValue[],
  more: { revision?: number | string; more?: boolean; count?: number | string } = {},
): Uint8Array {
  const writer = new BinaryWriter().uint32(1 << 3 | 2).bytes(headerBytes(more.revision));
  for (const kv of kvs) writer.uint32(2 << 3 | 2).bytes(keyValueBytes(kv));
  if (more.more) writer.uint32(3 << 3).bool(true);
  return writer.uint32(4 << 3).int64(more.count ?? kvs.length).finish();
}

/** Damaged RangeResponses, by what is wrong with them. None is a valid message, but for the two that say so. */
export const damagedReplies: Record<string, () => Uint8Array> = {
  "cut in a value": () => keyValueInResponse().slice(0, -6),
  "cut in a tag's varint": () => join(rangeResponse([]), [0x82]),
  "varint of eleven bytes": () => join(rangeResponse([]), [0x20, ...Array(10).fill(0xff), 1]),
  "length beyond the end": () => join(rangeResponse([]), [0x12, 0x7f, 0x0a, 1, 97]),
  "length of 2^64 - 1": () => join(rangeResponse([]), [0x12, ...Array(9).fill(0xff), 1]),
  "key longer than its KeyValue": () => join(rangeResponse([]), [0x12, 4, 0x0a, 9, 97, 98, 0x2a, 1, 97]),
  "wire type 7": () => join(rangeResponse([]), [0x17, 1]),
  "field number 0": () => join(rangeResponse([]), [0x02, 0]),
  "kvs as a varint": () => join(rangeResponse([]), [0x10, 1]),
  "noise": () => Uint8Array.from({ length: 64 }, (_, i) => (i * 73 + 129) & 0xff | 0x80),
  "valid, more without keys": () => rangeResponse([], { more: true, count: 5 }),
  "valid, empty message": () => new Uint8Array(),
};

/** A reply whose last field is the KeyValue, so that cutting its end cuts the value. */
function keyValueInResponse(): Uint8Array {
  const kv = keyValueBytes({ key: "/a", value: "a value of some length" });
  return new BinaryWriter().uint32(1 << 3 | 2).bytes(headerBytes()).uint32(2 << 3 | 2).bytes(kv).finish();
}

function join(message: Uint8Array, tail: number[]): Uint8Array {
  return Uint8Array.of(...message, ...tail);
}
