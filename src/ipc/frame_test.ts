import assert from "node:assert/strict";
import { EtcdFdwError } from "../base/errors.ts";
import { encodeFrame, type Frame, FrameDecoder, FrameType, HEADER_BYTES, writeHeader } from "./frame.ts";
import { MAX_FRAME_BYTES } from "./limits.ts";

const FRAMES: Frame[] = [
  { type: FrameType.UNARY, code: 3, channel: 0xfedcba98, id: 0xffffffff, payload: Uint8Array.of(1, 2, 3) },
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
  const bytes = encodeFrame({ ...FRAMES[0], deadline: 30_000 });
  const header = [0, 0, 0, 3, 2, 2, 3, 0, 0xfe, 0xdc, 0xba, 0x98, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x75, 0x30];
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
  for (const size of [1, 2, 3, 19, 20, 21, 23, 500, bytes.length]) {
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
  assert.deepEqual([...decoder.push(bytes.slice(0, 20))], []);
  assert.deepEqual([...decoder.push(new Uint8Array(0))], []);
  assert.equal([...decoder.push(bytes.slice(20))].length, 1);
});

Deno.test("FrameDecoder: a frame that is not complete waits, and is counted", () => {
  const bytes = wire(FRAMES);
  const { frames, rest } = decode(bytes.subarray(0, bytes.length - 1), 64);
  assert.equal(frames.length, 3);
  assert.equal(rest, HEADER_BYTES - 1);
});

Deno.test("FrameDecoder: another version is refused as soon as the header is there", () => {
  const bytes = encodeFrame(FRAMES[0]);
  bytes[4] = 1;
  const decoder = new FrameDecoder();
  assert.deepEqual([...decoder.push(bytes.slice(0, 19))], []);
  assert.throws(() => [...decoder.push(bytes.slice(19, 20))], {
    sqlstate: "08P01",
    message: "frame of protocol version 1, expected 2",
  });
});

Deno.test("FrameDecoder: a payload that is too long is told at once, none of it is kept, and the stream goes on", () => {
  const decoder = new FrameDecoder();
  const header = new Uint8Array(HEADER_BYTES);
  writeHeader(header, FRAMES[0], MAX_FRAME_BYTES + 1);
  const [frame] = [...decoder.push(header)];
  assert.deepEqual([frame.id, frame.refusal?.sqlstate, frame.payload.length], [FRAMES[0].id, "54000", 0]);
  const part = new Uint8Array(64 * 1024 * 1024);
  for (let i = 0; i < 4; i++) assert.deepEqual([...decoder.push(part)], []);
  const next = [...decoder.push(Uint8Array.of(1, ...encodeFrame(FRAMES[1])))];
  assert.deepEqual(next.map(({ type, id, refusal }) => [type, id, refusal]), [[
    FrameType.CLOSE,
    0,
    undefined,
  ]]);
  writeHeader(header, FRAMES[0], 1000);
  assert.deepEqual([...decoder.push(header)], []);
});

Deno.test("FrameDecoder: what is not admitted is refused by itself, whatever the sizes of the chunks", () => {
  const bytes = wire([FRAMES[0], FRAMES[2], { ...FRAMES[1], id: 5 }]);
  for (const size of [1, 7, 20, 23, 500, bytes.length]) {
    const decoder = new FrameDecoder((_, length) => {
      if (length === 1000) throw new EtcdFdwError("53200", "no memory");
    });
    const seen: (string | number)[][] = [];
    for (let i = 0; i < bytes.length; i += size) {
      for (const frame of decoder.push(bytes.slice(i, i + size))) {
        seen.push([frame.id, frame.refusal?.sqlstate ?? "", frame.payload.length]);
      }
    }
    assert.deepEqual(seen, [[0xffffffff, "", 3], [7, "53200", 0], [5, "", 0]], `chunks of ${size}`);
  }
});

Deno.test("FrameDecoder: frames in front of a bad header are still given", () => {
  const bytes = Uint8Array.from([...encodeFrame(FRAMES[1]), ...new Uint8Array(20)]);
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
