// Calls on a wire beside the same calls by the library: how they end is the same, whatever the server does.

import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import http2, { type ClientHttp2Session, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { GrpcStatus } from "../../base/errors.ts";
import { Deadline } from "../deadline.ts";
import { REAL, VirtualRuntime } from "../testing_runtime.ts";
import { transportBy, type Way } from "./channel.ts";
import { isConnectionLoss, wasNeverSent } from "./status.ts";
import { type Channel, State } from "./transport.ts";
import { Wire } from "./wire.ts";

const within = (ms: number, token: string | null = null) => ({
  login: { token },
  deadline: Deadline.after(REAL, ms),
});

type Serve = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/** A server that is no etcd; calls of "/warm" are answered with nothing in them. */
async function serving(serve: Serve) {
  const server = http2.createServer();
  const sessions = new Set<http2.ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    session.on("error", () => {});
  });
  server.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    if (headers[":path"] === "/warm") answer(stream, frame(0));
    else serve(stream, headers);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    endpoint: `127.0.0.1:${port}`,
    stop() {
      for (const session of sessions) session.destroy();
      server.close();
    },
  };
}

/** A message of so many bytes behind its prefix. */
function frame(length: number, fill = 7): Uint8Array {
  const bytes = new Uint8Array(5 + length).fill(fill, 5);
  new DataView(bytes.buffer).setUint32(1, length);
  return bytes;
}

const HEADERS = { ":status": 200, "content-type": "application/grpc" };

function answer(stream: ServerHttp2Stream, ...parts: Uint8Array[]): void {
  stream.respond(HEADERS, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
  for (const part of parts) stream.write(part);
  stream.end();
}

function withStatus(stream: ServerHttp2Stream, status: string, message: string): void {
  stream.respond(HEADERS, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": status, "grpc-message": message }));
  stream.end();
}

async function connected(channel: Channel): Promise<Channel> {
  await new Promise<void>((resolve) => {
    const follow = (state: State) => state === State.READY ? resolve() : channel.onChange(state, follow);
    follow(channel.connect());
  });
  assert.equal((await channel.call("/warm", new Uint8Array(0), within(5_000))).failure, undefined);
  return channel;
}

async function callAt(way: Way, serve: Serve, payload: Uint8Array = new Uint8Array(3)) {
  const server = await serving(serve);
  const channel = await connected(transportBy(way).dial(server.endpoint));
  try {
    return await channel.call("/x", payload, within(5_000, "t0"));
  } finally {
    channel.close();
    server.stop();
  }
}

const bothAt = async (serve: Serve, payload?: Uint8Array) => [
  await callAt("wire", serve, payload),
  await callAt("library", serve, payload),
];

Deno.test("a wire's calls pass the library by, with what etcd needs to know", async () => {
  const seen: IncomingHttpHeaders[] = [];
  const keep: Serve = (stream, headers) => {
    seen.push(headers);
    answer(stream, frame(0));
  };
  await bothAt(keep);
  const [wire, library] = seen;
  assert.equal(wire["user-agent"], "etcd_fdw");
  assert.match(library["user-agent"]!, /^grpc-node/);
  for (
    const name of ["token", "hasleader", "content-type", "te", ":method", ":path", ":scheme"]
  ) {
    assert.equal(wire[name], library[name], name);
  }
  const timeouts = seen.map((headers) => Number(String(headers["grpc-timeout"]).replace("m", "")));
  assert.ok(Math.abs(timeouts[0] - timeouts[1]) < 1_000, String(timeouts));
});

Deno.test("replies are the same in whatever parts they come", async () => {
  const sizes = [0, 1, 1_000, 300_000];
  for (const size of sizes) {
    const whole = frame(size);
    const cuts: Uint8Array[][] = [
      [whole],
      [whole.subarray(0, 2), whole.subarray(2)],
      [whole.subarray(0, 5), whole.subarray(5)],
      [whole.subarray(0, 6), whole.subarray(6)],
    ];
    for (const parts of cuts) {
      const [wire, library] = await bothAt((stream) => {
        const [first, ...rest] = parts;
        if (rest.length === 0) return answer(stream, first);
        stream.respond(HEADERS, { waitForTrailers: true });
        stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
        stream.write(first);
        setTimeout(() => stream.end(rest[0]), 5);
      });
      assert.equal(wire.reply?.length, size);
      assert.deepEqual(new Uint8Array(wire.reply!), new Uint8Array(library.reply!));
    }
  }
});

Deno.test("requests arrive whole, small and large", async () => {
  for (const size of [0, 10, 16 * 1024, 16 * 1024 + 1, 3_000_000]) {
    const bodies: number[] = [];
    await bothAt((stream) => {
      let length = 0;
      stream.on("data", (chunk: Uint8Array) => length += chunk.length);
      stream.on("end", () => {
        bodies.push(length);
        answer(stream, frame(0));
      });
    }, new Uint8Array(size));
    assert.deepEqual(bodies, [size + 5, size + 5]);
  }
});

const RESETS = [http2.constants.NGHTTP2_CANCEL, http2.constants.NGHTTP2_INTERNAL_ERROR, 11];
const ENDS: Record<string, Serve> = {
  "a status behind the headers": (stream) => withStatus(stream, "5", "etcdserver: no such thing %E2%9C%93"),
  "a status alone": (stream) =>
    stream.respond({ ...HEADERS, "grpc-status": "14", "grpc-message": "etcdserver: no leader" }, {
      endStream: true,
    }),
  "a message that is no encoding": (stream) => withStatus(stream, "3", "50% off"),
  "a status behind a message": (stream) => {
    stream.respond(HEADERS, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "9", "grpc-message": "late" }));
    stream.end(frame(10));
  },
  "an end without a status": (stream) => {
    stream.respond(HEADERS);
    stream.end(frame(3));
  },
  "a page of HTML": (stream) => {
    stream.respond({ ":status": 502, "content-type": "text/html" });
    stream.end("<html>Bad Gateway</html>");
  },
  "a page that is not found": (stream) => stream.respond({ ":status": 404 }, { endStream: true }),
  "a connection that ends": (stream) => stream.session!.destroy(),
  ...Object.fromEntries(RESETS.map((code) => [`a reset with ${code}`, (stream) => stream.close(code)])),
};

/** Where the library says something else, or one thing or the other: a large message for text, an internal error for a loss. */
const BETTER: Record<string, number> = {
  "a page of HTML": GrpcStatus.UNAVAILABLE,
  "a connection that ends": GrpcStatus.UNAVAILABLE,
};

for (const [name, serve] of Object.entries(ENDS)) {
  Deno.test(`a call ends alike: ${name}`, async () => {
    const [wire, library] = await bothAt(serve);
    const code = BETTER[name] ?? library.failure?.code;
    assert.equal(wire.failure?.code, code, JSON.stringify([wire, library]));
    if (BETTER[name] === undefined) {
      assert.equal(isConnectionLoss(wire.failure!), isConnectionLoss(library.failure!));
    }
    assert.equal(wasNeverSent(wire.failure!), wasNeverSent(library.failure!));
    if (name.includes("status alone") || name.includes("status behind")) assert.deepEqual(wire, library);
  });
}

Deno.test("half a reply, and more than one, are failures of the call", async () => {
  const half = await callAt("wire", (stream) => answer(stream, frame(100).subarray(0, 50)));
  assert.equal(half.failure?.code, GrpcStatus.INTERNAL);
  const two = await callAt("wire", (stream) => answer(stream, frame(1), frame(1)));
  assert.equal(two.failure?.code, GrpcStatus.INTERNAL);
});

Deno.test("what a server has refused goes by the library, which sends it again", async () => {
  for (const way of ["wire", "library"] as const) {
    let calls = 0;
    const server = await serving((stream) => {
      if (++calls === 1) stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
      else answer(stream, frame(1));
    });
    const channel = await connected(transportBy(way).dial(server.endpoint));
    assert.equal((await channel.call("/x", new Uint8Array(0), within(5_000))).reply?.length, 1, way);
    assert.equal(calls, 2);
    channel.close();
    server.stop();
  }
});

Deno.test("a new connection takes the place of one that has ended", async () => {
  const agents: string[] = [];
  const server = await serving((stream, headers) => {
    agents.push(headers["user-agent"]!);
    if (agents.length === 1) stream.session!.destroy();
    else answer(stream, frame(1));
  });
  const channel = await connected(transportBy("wire").dial(server.endpoint));
  const lost = await channel.call("/x", new Uint8Array(0), within(5_000));
  assert.equal(lost.failure?.code, GrpcStatus.UNAVAILABLE);
  await connected(channel);
  assert.equal((await channel.call("/x", new Uint8Array(0), within(5_000))).reply?.length, 1);
  assert.deepEqual(agents, ["etcd_fdw", "etcd_fdw"]);
  channel.close();
  server.stop();
});

/** A connection whose other end says nothing. */
class Silence extends EventEmitter {
  closed = false;
  destroyed = false;
  connecting = false;
  pings: ((error: Error | null) => void)[] = [];
  streams: EventEmitter[] = [];

  request(): EventEmitter {
    const stream = Object.assign(new EventEmitter(), { write() {}, end() {}, close() {}, rstCode: 0 });
    this.streams.push(stream);
    return stream;
  }

  ping(done: (error: Error | null) => void): boolean {
    this.pings.push(done);
    return true;
  }

  destroy(): void {
    this.destroyed = true;
    for (const stream of this.streams) stream.emit("close");
  }
}

function silence() {
  const runtime = new VirtualRuntime();
  const session = new Silence();
  const connection = {
    session: session as unknown as ClientHttp2Session,
    request: () => session.request() as http2.ClientHttp2Stream,
  };
  return { runtime, session, wire: new Wire(runtime, connection, () => null) };
}

Deno.test("a connection that stays silent while calls wait is pinged, and given up when it says nothing", async () => {
  const { runtime, session, wire } = silence();
  const ended: unknown[] = [];
  wire.send({}, new Uint8Array(0), (outcome) => ended.push(outcome));
  await runtime.pass(5_900);
  assert.equal(session.pings.length, 0);
  await runtime.pass(200);
  assert.equal(session.pings.length, 1);
  session.pings[0](null);
  await runtime.pass(5_900);
  assert.equal(session.pings.length, 1);
  await runtime.pass(200);
  assert.equal(session.pings.length, 2);
  assert.equal(session.destroyed, false);
  await runtime.pass(3_000);
  assert.equal(session.destroyed, true);
  assert.deepEqual(ended, [{ failure: { code: GrpcStatus.UNAVAILABLE, text: "Connection dropped" } }]);
  assert.equal(runtime.timers, 0);
});

Deno.test("nobody pings for calls that have ended, for a connection that speaks, or beside the library's own streams", async () => {
  const idle = silence();
  idle.wire.send({}, new Uint8Array(0), () => {});
  idle.session.streams[0].emit("response", { "grpc-status": "5" }, http2.constants.NGHTTP2_FLAG_END_STREAM);
  await idle.runtime.pass(60_000);
  assert.deepEqual([idle.session.pings.length, idle.runtime.timers], [0, 0]);

  const busy = silence();
  busy.wire.send({}, new Uint8Array(0), () => {});
  const length = new Uint8Array([0, 0, 1, 0, 0]);
  busy.session.streams[0].emit("data", length);
  for (let i = 0; i < 20; i++) {
    await busy.runtime.pass(5_000);
    busy.session.streams[0].emit("data", new Uint8Array(1));
  }
  assert.equal(busy.session.pings.length, 0);

  const shared = silence();
  const stream = shared.session.request();
  shared.wire.streams(stream as http2.ClientHttp2Stream);
  shared.wire.send({}, new Uint8Array(0), () => {});
  await shared.runtime.pass(60_000);
  assert.equal(shared.session.pings.length, 0);
  stream.emit("close");
  await shared.runtime.pass(6_000);
  assert.equal(shared.session.pings.length, 1);
});

Deno.test("a large reply asks for room with its first bytes, and gives it back when it is here or given up", () => {
  const { session } = silence();
  const room = { taken: 0, given: 0 };
  const connection = {
    session: session as unknown as ClientHttp2Session,
    request: () => session.request() as http2.ClientHttp2Stream,
  };
  const arrive = (bytes: number) => {
    room.taken += bytes;
    return () => void (room.given += bytes);
  };
  const wire = new Wire(new VirtualRuntime(), connection, () => ({ arrive }));
  const size = 300_000;
  const call = (ended: unknown[]) => {
    wire.send({}, new Uint8Array(0), (outcome) => ended.push(outcome));
    const stream = session.streams.at(-1)!;
    stream.emit("response", { ":status": 200 }, 0);
    stream.emit("data", frame(size).subarray(0, 5));
    return stream;
  };
  const whole: { reply?: Uint8Array }[] = [];
  const stream = call(whole);
  assert.deepEqual(room, { taken: size, given: 0 });
  stream.emit("data", frame(size).subarray(5));
  stream.emit("trailers", { "grpc-status": "0" });
  assert.equal(whole[0].reply?.length, size);
  assert.equal(room.given, size);
  call([]).emit("close");
  assert.equal(room.given, 2 * size);
});
