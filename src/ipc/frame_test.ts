import assert from "node:assert/strict";
import { encodeFrame, type Frame, FrameDecoder, FrameType, HEADER_BYTES, writeHeader } from "./frame.ts";
import { MAX_FRAME_BYTES } from "./limits.ts";

const FRAMES: Frame[] = [
  {
    type: FrameType.UNARY,
    code: 3,
    channel: 0xfedcba98,
    id: 0xffffffff,
    deadline: 5000,
    payload: Uint8Array.of(1, 2, 3),
  },
  { type: FrameType.CLOSE, code: 0, channel: 1, id: 0, payload: new Uint8Array(0) },
  { type: FrameType.REPLY, code: 0, channel: 2, id: 7, payload: new Uint8Array(1000).map((_, i) => i) },
  { type: FrameType.CANCEL, code: 0, channel: 2, id: 7, payload: new Uint8Array(0) },
];

function wire(frames: Frame[]): Uint8Array {
  return Uint8Array.from(frames.flatMap((frame) => [...encodeFrame(frame)]));
}

/** Decodes with chunks of this size, each in memory of its own. */
function decode(bytes: Uint8Array, size: number): { frames: Frame[]; rest: number } {
  const decoder = new FrameDecoder();
  const frames: Frame[] = [];
  for (let i = 0; i < bytes.length; i += size) frames.push(...decoder.push(bytes.slice(i, i + size)));
  return { frames, rest: decoder.buffered };
}

Deno.test("encodeFrame: the header is as the file's table says", () => {
  const bytes = encodeFrame(FRAMES[0]);
  const header = [0, 0, 0, 3, 2, 2, 3, 0, 0xfe, 0xdc, 0xba, 0x98, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x13, 0x88];
  assert.deepEqual([...bytes], [...header, 1, 2, 3]);
});

Deno.test("writeHeader: writes where the view begins", () => {
  const memory = new Uint8Array(40).fill(9);
  writeHeader(memory.subarray(8), { type: 1, code: 0, channel: 0, id: 0 }, 5);
  assert.deepEqual([...memory.subarray(6, 14)], [9, 9, 0, 0, 0, 5, 2, 1]);
  assert.equal(memory[8 + HEADER_BYTES], 9);
});

Deno.test("FrameDecoder: gives the same frames whatever the sizes of the chunks", () => {
  const bytes = wire(FRAMES);
  for (const size of [1, 2, 3, 15, 16, 17, 19, 500, bytes.length]) {
    const { frames, rest } = decode(bytes, size);
    assert.deepEqual(
      frames.map((frame) => ({ ...frame, payload: [...frame.payload] })),
      FRAMES.map((frame) => ({
        flags: 0,
        deadline: 0,
        ...frame,
        payload: [...frame.payload],
      })),
      `chunks of ${size}`,
    );
    assert.equal(rest, 0);
  }
});

Deno.test("FrameDecoder: empty chunks change nothing", () => {
  const decoder = new FrameDecoder();
  const bytes = encodeFrame(FRAMES[0]);
  assert.deepEqual([...decoder.push(new Uint8Array(0))], []);
  assert.deepEqual([...decoder.push(bytes.slice(0, 16))], []);
  assert.deepEqual([...decoder.push(new Uint8Array(0))], []);
  assert.equal([...decoder.push(bytes.slice(16))].length, 1);
});

Deno.test("FrameDecoder: a frame that is not complete waits, and is counted", () => {
  const bytes = wire(FRAMES);
  const { frames, rest } = decode(bytes.subarray(0, bytes.length - 1), 64);
  assert.equal(frames.length, 3);
  assert.equal(rest, HEADER_BYTES - 1);
});

Deno.test("FrameDecoder: another version is refused as soon as the header is there", () => {
  const bytes = encodeFrame(FRAMES[0]);
  bytes[4] = 3;
  const decoder = new FrameDecoder();
  assert.deepEqual([...decoder.push(bytes.slice(0, HEADER_BYTES - 1))], []);
  assert.throws(() => [...decoder.push(bytes.slice(HEADER_BYTES - 1, HEADER_BYTES))], {
    sqlstate: "08P01",
    message: "frame of protocol version 3, expected 2",
  });
});

Deno.test("FrameDecoder: a payload that is too long is refused before any of it is kept", () => {
  const header = new Uint8Array(HEADER_BYTES);
  writeHeader(header, FRAMES[0], MAX_FRAME_BYTES + 1);
  assert.throws(() => [...new FrameDecoder().push(header)], { sqlstate: "08P01" });
  writeHeader(header, FRAMES[0], MAX_FRAME_BYTES);
  assert.deepEqual([...new FrameDecoder().push(header)], []);
});

Deno.test("FrameDecoder: frames in front of a bad header are still given", () => {
  const bytes = Uint8Array.from([...encodeFrame(FRAMES[1]), ...new Uint8Array(HEADER_BYTES)]);
  const seen: Frame[] = [];
  assert.throws(() => {
    for (const frame of new FrameDecoder().push(bytes)) seen.push(frame);
  }, { sqlstate: "08P01" });
  assert.equal(seen.length, 1);
});

Deno.test("FrameDecoder: many small chunks of a large frame take time in proportion", () => {
  const bytes = encodeFrame({ ...FRAMES[0], payload: new Uint8Array(4_000_000) });
  const startedAt = performance.now();
  assert.equal(decode(bytes, 64).frames.length, 1);
  assert.ok(performance.now() - startedAt < 5_000);
});
