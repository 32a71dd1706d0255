// Large replies while they arrive. The gRPC library hands a reply over when all of it is here, and how large it will be nobody
// knows before its first bytes have come; so these are looked at where the library makes its streams. Where there is no
// room, the stream is paused, and etcd sends no more than HTTP/2's window.

import type { EventEmitter } from "node:events";
import type { Flow, Room } from "../memory.ts";

type Stream = EventEmitter & Flow;

interface Session {
  request(...args: never[]): Stream;
}

/** What of node:http2 is used here. */
export interface Connects {
  connect: (...args: never[]) => Session;
}

/** In front of each message: whether it is compressed, and its length in four bytes. */
const PREFIX_BYTES = 5;
/** Smaller replies are here with their first bytes. */
const LARGE_BYTES = 256 * 1024;

/** Has all large replies on connections that are made from now on ask for room. */
export function meterReplies(http2: Connects, room: () => Room | null): void {
  const connect = http2.connect;
  http2.connect = (...args) => {
    const session = connect(...args);
    const request = session.request;
    session.request = (...args) => metered(request.apply(session, args), room());
    return session;
  };
}

function metered(stream: Stream, room: Room | null): Stream {
  if (room !== null) stream.once("data", (chunk: Uint8Array) => measure(stream, chunk, room));
  return stream;
}

function measure(stream: Stream, chunk: Uint8Array, room: Room): void {
  if (chunk.length < PREFIX_BYTES) return;
  const bytes = new DataView(chunk.buffer, chunk.byteOffset).getUint32(1);
  if (bytes < LARGE_BYTES) return;
  // The library itself pauses a stream only when a message is complete.
  const gone = room.arrive(bytes, stream);
  stream.once("end", gone);
  stream.once("close", gone);
}
