// What a request asks for, done: by etcd, by the transaction, or by the proxy itself.

import { decodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { Ask, FrameType, ReadFlag } from "../../ipc/frame.ts";
import { Deadline } from "../deadline.ts";
import type { ClusterHandle } from "../handle.ts";
import { type Runtime, sleep } from "../runtime.ts";
import type { Link, Pace } from "../txn/driver.ts";
import type { Asks } from "./asks.ts";
import type { Request } from "./request.ts";

export interface WorkContext {
  runtime: Runtime;
  /** The request has got further: the backend's patience begins anew. */
  progress: () => void;
  /** As WatchRequest has it. */
  turn: (bytes: number) => Promise<void> | null;
}

/** The answer's payload. Rejects with what went wrong, at the request's deadline at the latest. */
export async function work(request: Request, asks: Asks, context: WorkContext): Promise<Uint8Array> {
  const { frame, channel, signal, deadline } = request;
  const { handle, error } = channel;
  const flags = frame.flags ?? 0;
  if (error !== null) throw error;
  if (frame.type === FrameType.UNARY && frame.code >= Ask.ENDPOINTS) {
    return await asks.answer(frame.code, frame.payload, handle, { signal, deadline, turn: context.turn });
  }
  if (handle === null) throw new EtcdFdwError("08003", "channel 0 of the etcd proxy is not open");
  const link = linkOf(request, handle, context);
  if (frame.type === FrameType.STAGE) {
    return await channel.transactions().answer(frame.code, frame.payload, link);
  }
  if (flags & ReadFlag.STAGED) {
    return await channel.transactions().read(frame.code, flags, frame.payload, link);
  }
  if (flags & ReadFlag.ENDPOINT) return await callEndpoint(request, handle);
  return await handle.call(frame.code, frame.payload, { signal, deadline });
}

/** What the request lends to the transaction. Each answer to a commit shows progress, and the Txn behind it has the full time. */
function linkOf(
  { signal, deadline }: Request,
  handle: ClusterHandle,
  { runtime, progress }: WorkContext,
): Link {
  let answered = false;
  return {
    signal,
    progress,
    call: (method, payload) => handle.call(method, payload, { signal, deadline }),
    async callAfresh(method, payload) {
      const until = answered ? Deadline.after(runtime, deadline.ms) : deadline;
      const reply = await handle.call(method, payload, { signal, deadline: until });
      answered = true;
      return reply;
    },
  };
}

/** How transactions take turns with all else. */
export const paceOf = (runtime: Runtime): Pace => ({
  now: () => runtime.now(),
  turn: () => sleep(runtime, 0),
});

/** The payload begins with the endpoint's name. */
async function callEndpoint({ frame, signal, deadline }: Request, handle: ClusterHandle) {
  const { code, payload } = frame;
  const length = payload.length < 2 ? Infinity : payload[0] << 8 | payload[1];
  if (payload.length < 2 + length) throw new EtcdFdwError("08P01", "malformed frame for an endpoint");
  const endpoint = decodeUtf8(payload.subarray(2, 2 + length));
  if (!handle.endpoints.includes(endpoint)) {
    throw new EtcdFdwError("22023", `"${endpoint}" is no endpoint of the server`, {
      hint: `Its endpoints are: ${handle.endpoints.join(", ")}.`,
    });
  }
  return await handle.call(code, payload.subarray(2 + length), { signal, deadline, endpoint });
}
