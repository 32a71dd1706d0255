// Connections where the gRPC library makes them, and large replies on its streams while they arrive. The library hands a reply
// over when all of it is here, and how large it will be nobody knows before its first bytes have come; so these are looked at
// where the library makes its streams. Where there is no room, the stream is paused, and etcd sends no more than HTTP/2's
// window.
//
// A compressed reply is refused: how much room it takes nobody knows before it is unpacked, and etcd compresses nothing that
// it was not asked to.

import type { EventEmitter } from "node:events";
import type { ClientHttp2Session, ClientHttp2Stream } from "node:http2";
import type { Flow, Room } from "../memory.ts";
import { LARGE_BYTES, PREFIX_BYTES } from "./reply.ts";
import type { Connection } from "./wire.ts";

type Stream = EventEmitter & Flow;

/** What of node:http2 is used here. */
export interface Connects {
  connect: (authority: string, options: { maxSessionMemory?: number }) => ClientHttp2Session;
}

export interface Watcher {
  room(): Room | null;
  /**
   * A connection is made, with the library's number for the memory of a session, which it hands through. What is returned
   * hears of each stream that the library makes on it.
   */
  made(connection: Connection, memory: number | undefined): ((stream: ClientHttp2Stream) => void) | undefined;
}

/** Has all large replies on connections that are made from now on ask for room, and compressed ones fail. */
export function watchConnections(http2: Connects, watcher: Watcher): void {
  const connect = http2.connect;
  http2.connect = (authority, options) => {
    const session = connect(authority, options);
    const request = session.request.bind(session);
    const heard = watcher.made({ session, request }, options.maxSessionMemory);
    session.request = (...args) => {
      const stream = request(...args);
      heard?.(stream);
      plain(metered(stream, watcher.room()));
      return stream;
    };
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
