import assert from "node:assert/strict";
import { GrpcStatus } from "../../base/errors.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import { REFUSED, Reply, Reset } from "./reply.ts";

const OK = { ":status": 200 };
const DONE = { "grpc-status": "0" };

function framed(length: number, ...bytes: number[]): Uint8Array {
  const frame = new Uint8Array([0, 0, 0, 0, 0, ...bytes]);
  new DataView(frame.buffer).setUint32(1, length);
  return frame;
}

Deno.test("Reply: ends with the message and the trailers, in whatever order and parts they come", () => {
  const message = framed(3, 1, 2, 3);
  for (let cut = 0; cut <= message.length; cut++) {
    for (let headersAt = 0; headersAt < 3; headersAt++) {
      for (const trailersAt of [1, 2, 3].filter((at) => at > headersAt)) {
        const reply = new Reply();
        const steps = [message.subarray(0, cut), message.subarray(cut)];
        const ends = [];
        for (let at = 0; at <= 3; at++) {
          if (at === headersAt) ends.push(reply.headers(OK, false));
          if (at === trailersAt) ends.push(reply.trailers(DONE));
          if (at < steps.length) ends.push(reply.data(steps[at]));
        }
        ends.push(reply.closed(Reset.NO_ERROR, false));
        const said = ends.filter((end) => end !== null);
        assert.equal(said.length, 1, `${cut} ${headersAt} ${trailersAt}`);
        assert.deepEqual([...said[0].reply!], [1, 2, 3]);
      }
    }
  }
});

Deno.test("Reply: has a failure's code and its text, and takes nothing behind it", () => {
  const reply = new Reply();
  assert.equal(reply.headers(OK, false), null);
  assert.deepEqual(reply.trailers({ "grpc-status": "14", "grpc-message": "etcdserver: no%20leader" }), {
    failure: { code: GrpcStatus.UNAVAILABLE, text: "etcdserver: no leader" },
  });
  assert.equal(reply.data(framed(0)), null);
  assert.equal(reply.trailers(DONE), null);
  assert.equal(reply.closed(Reset.CANCEL, true), null);
});

Deno.test("Reply: what is no whole message, or none of gRPC's, is a failure", () => {
  const codeOf = (
    act: (reply: Reply) => ReturnType<Reply["data"]>,
    headers: Record<string, unknown> = OK,
  ) => {
    const reply = new Reply();
    const early = reply.headers(headers, false);
    return (early ?? act(reply))?.failure?.code;
  };
  const closed = (reset: number, lost = false) => (reply: Reply) => reply.closed(reset, lost);
  assert.equal(codeOf((reply) => reply.data(framed(MAX_FRAME_BYTES + 1))), GrpcStatus.RESOURCE_EXHAUSTED);
  assert.equal(codeOf((reply) => reply.data(new Uint8Array([1, 0, 0, 0, 0]))), GrpcStatus.INTERNAL);
  assert.equal(codeOf(() => null, { ...OK, "grpc-encoding": "gzip" }), GrpcStatus.INTERNAL);
  assert.equal(codeOf((reply) => reply.data(framed(1, 1, 1))), GrpcStatus.INTERNAL);
  assert.equal(codeOf((reply) => reply.trailers({})), GrpcStatus.INTERNAL);
  assert.equal(codeOf((reply) => reply.trailers({}), { ":status": 404 }), GrpcStatus.UNIMPLEMENTED);
  assert.equal(codeOf((reply) => reply.data(new Uint8Array(9)), { ":status": 404 }), undefined);
  assert.equal(codeOf(closed(Reset.NO_ERROR)), GrpcStatus.INTERNAL);
  assert.equal(codeOf(closed(Reset.NO_ERROR), { ":status": 503 }), GrpcStatus.UNAVAILABLE);
  assert.equal(codeOf(closed(Reset.CANCEL)), GrpcStatus.CANCELLED);
  assert.equal(codeOf(closed(Reset.CANCEL, true)), GrpcStatus.UNAVAILABLE);
  assert.equal(codeOf(closed(Reset.ENHANCE_YOUR_CALM)), GrpcStatus.RESOURCE_EXHAUSTED);
  assert.equal(codeOf(closed(2)), GrpcStatus.INTERNAL);
  const refused = new Reply();
  assert.equal(refused.closed(Reset.REFUSED_STREAM, false), REFUSED);
});
