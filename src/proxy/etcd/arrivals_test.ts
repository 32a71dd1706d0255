// Replies of a real etcd, and of one that is none, as the gRPC library takes them.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import zlib from "node:zlib";
import { Deadline } from "../deadline.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import { Budget, Expectations, type Flow } from "../memory.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { get, getPrefix, put } from "../testing_requests.ts";
import { REAL } from "../testing_runtime.ts";
import { transportBy, type Way } from "./channel.ts";

/** Replies on a wire, and on the library's own streams. */
function bothWays(name: string, test: (way: Way) => Promise<void>): void {
  for (const way of ["wire", "library"] as const) Deno.test(`by ${way}: ${name}`, () => test(way));
}

const within = (ms: number) => ({ login: { token: null }, deadline: Deadline.after(REAL, ms) });
const soon = () => new Promise((resolve) => setTimeout(resolve, 200));

bothWays(
  "a large reply is counted while it arrives, and waits for room, which holds up nothing else",
  async (way) => {
    const etcd = await TestEtcd.start();
    const channel = transportBy(way).dial(etcd.endpoint);
    const budget = new Budget(16 * 1024 * 1024);
    const expectations = new Expectations(budget);
    const seen: number[] = [];
    REAL.etcd.meter!({
      arrive(bytes: number, flow: Flow) {
        const gone = expectations.arrive(bytes, flow);
        seen.push(budget.used);
        return gone;
      },
    });
    try {
      const call = (method: string, payload: Uint8Array, ms = 20_000) =>
        channel.call(`/etcdserverpb.KV/${method}`, payload, within(ms));
      for (let i = 0; i < 12; i++) await call("Put", put(`/large/${i}`, "x".repeat(1_000_000)));
      const read = (ms?: number) => call("Range", getPrefix("/large/"), ms);
      const size = (await read()).reply!.length;
      assert.ok(size > 12_000_000);
      assert.deepEqual(seen, [size], "small replies are not looked at");
      assert.equal(budget.used, 0);

      // Somebody else's reply is on its way, and there is room for it alone.
      const gone = expectations.arrive(size, { pause: () => {}, resume: () => {} });
      let here = 0;
      const replies = [read(), read()].map((reply) => reply.then(({ reply }) => (here++, reply!.length)));
      await soon();
      assert.equal(here, 0);
      assert.equal((await call("Range", get("/large/none"), 1_000)).failure, undefined);
      assert.equal((await read(100)).failure?.code, 4, "who is paused has his deadline still");
      assert.equal(budget.used, size);
      gone();
      assert.deepEqual(await Promise.all(replies), [size, size]);
      await soon();
      assert.ok(budget.used <= size, "what nobody waits for any more may still come");
    } finally {
      REAL.etcd.meter!(new Expectations(new Budget(2 ** 40)));
      channel.close();
      await etcd.stop();
    }
  },
);

/** A server that answers every call with this message, in as many parts. */
async function answering(encoding: string, prefix: Uint8Array, parts: Uint8Array[]) {
  const server = http2.createServer();
  server.on("stream", (stream) => {
    stream.on("error", () => {});
    stream.respond({ ":status": 200, "content-type": "application/grpc", "grpc-encoding": encoding }, {
      waitForTrailers: true,
    });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.write(prefix);
    for (const part of parts) stream.write(part);
    stream.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { endpoint: `127.0.0.1:${port}`, stop: () => server.close() };
}

function prefixOf(compressed: number, length: number): Uint8Array {
  const prefix = Buffer.alloc(5);
  prefix[0] = compressed;
  prefix.writeUInt32BE(length, 1);
  return prefix;
}

bothWays(
  "a compressed reply is refused before any of it is unpacked, and so is one that no frame can carry",
  async (way) => {
    const packed = zlib.gzipSync(Buffer.alloc(64 * 1024 * 1024));
    const cases: [string, Uint8Array, Uint8Array[], number, RegExp][] = [
      ["gzip", prefixOf(1, packed.length), [packed], 13, /compressed/],
      [
        "identity",
        prefixOf(0, MAX_FRAME_BYTES + 1),
        [new Uint8Array(1000)],
        8,
        /^Received message larger than max/,
      ],
    ];
    for (const [encoding, prefix, parts, code, text] of cases) {
      const server = await answering(encoding, prefix, parts);
      const channel = transportBy(way).dial(server.endpoint);
      const path = "/etcdserverpb.KV/Range";
      const { failure } = await channel.call(path, get("/a"), within(5_000));
      assert.equal(failure?.code, code);
      assert.match(failure.text, text);
      const told = await channel.converse(path, [get("/a")], within(5_000), () => true);
      assert.equal(told.failure?.code, code);
      channel.close();
      server.stop();
    }
  },
);
