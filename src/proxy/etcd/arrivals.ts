// Large replies while they arrive. The gRPC library hands a reply over when all of it is here, and how large it will be nobody
// knows before its first bytes have come; so these are looked at where the library makes its streams. Where there is no
// room, the stream is paused, and etcd sends no more than HTTP/2's window.

//
// A compressed reply is refused: how much room it takes nobody knows before it is unpacked, and etcd compresses nothing that
// it was not asked to.

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

/** Has all large replies on connections that are made from now on ask for room, and compressed ones fail. */
export function meterReplies(http2: Connects, room: () => Room | null): void {
  const connect = http2.connect;
  http2.connect = (...args) => {
    const session = connect(...args);
    const request = session.request;
    session.request = (...args) => plain(metered(request.apply(session, args), room()));
    return session;
  };
}

function metered(stream: Stream, room: Room | null): Stream {
  if (room !== null) stream.once("data", (chunk: Uint8Array) => measure(stream, chunk, room));
  return stream;
}

/** HTTP/2's flag of headers behind which nothing follows; gRPC's status INTERNAL. */
const END_STREAM = 1;
const REFUSAL = {
  ":status": 200,
  "grpc-status": "13",
  "grpc-message": "the reply is compressed, which was not asked for",
};

/** Has a call whose messages may be compressed end with its headers; the library then resets the stream. */
function plain(stream: Stream): Stream {
  const emit = stream.emit;
  stream.emit = (event: string, ...args: unknown[]) => {
    const encoding = event === "response" ? (args[0] as Record<string, unknown>)["grpc-encoding"] : undefined;
    return encoding === undefined || encoding === "identity"
      ? emit.call(stream, event, ...args)
      : emit.call(stream, event, REFUSAL, END_STREAM);
  };
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
