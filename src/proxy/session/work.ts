// What a request asks for, done: by etcd, by the transaction, or by the proxy itself.

import { decodeUtf8 } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { Ask, FrameType, ReadFlag } from "../../ipc/frame.ts";
import { encodeStageReply, StageCode } from "../../ipc/stage.ts";
import { Deadline } from "../deadline.ts";
import type { ClusterHandle } from "../handle.ts";
import type { Runtime } from "../runtime.ts";
import type { Call } from "../txn/transaction.ts";
import type { Asks } from "./asks.ts";
import type { Request } from "./request.ts";

export interface WorkContext {
  runtime: Runtime;
  /** The request has got further: the backend's patience begins anew. */
  progress: () => void;
}

/** The answer's payload. Rejects with what went wrong, at the request's deadline at the latest. */
export async function work(request: Request, asks: Asks, context: WorkContext): Promise<Uint8Array> {
  const { frame, channel, signal, deadline } = request;
  const { handle, error } = channel;
  const flags = frame.flags ?? 0;
  if (error !== null) throw error;
  if (frame.type === FrameType.UNARY && frame.code >= Ask.ENDPOINTS) {
    return await asks.answer(frame.code, frame.payload, handle, { signal, deadline });
  }
  if (handle === null) throw new EtcdFdwError("08003", "channel 0 of the etcd proxy is not open");
  if (frame.type === FrameType.STAGE) return await answerStage(request, handle, context);
  if (flags & ReadFlag.STAGED) return await readStaged(request, handle);
  if (flags & ReadFlag.ENDPOINT) return await callEndpoint(request, handle);
  return await handle.call(frame.code, frame.payload, { signal, deadline });
}

async function readStaged({ frame, channel, signal, deadline }: Request, handle: ClusterHandle) {
  const { code, payload, flags = 0 } = frame;
  if (payload.length < 4) throw new EtcdFdwError("08P01", "malformed read frame");
  const command = new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0);
  const call: Call = (method, payload) => handle.call(method, payload, { signal, deadline });
  const recorded = (flags & ReadFlag.RECORDED) !== 0;
  return await channel.transaction().read(code, payload.subarray(4), command, recorded, call);
}

async function answerStage(request: Request, handle: ClusterHandle, { runtime, progress }: WorkContext) {
  const { frame, channel, signal, deadline } = request;
  const transaction = channel.transaction();
  const call: Call = (method, payload) => handle.call(method, payload, { signal, deadline });
  // A commit may be many Txns. Each answer shows that there is progress, and the next one has the request's full time.
  let answered = false;
  const callAnew: Call = async (method, payload) => {
    const until = answered ? Deadline.after(runtime, deadline.ms) : deadline;
    const reply = await handle.call(method, payload, { signal, deadline: until });
    answered = true;
    progress();
    return reply;
  };
  switch (frame.code) {
    case StageCode.WRITE:
      return encodeStageReply(await transaction.write(frame.payload, call));
    case StageCode.DELETE_RANGE:
      return encodeStageReply(await transaction.deleteRange(frame.payload, call));
    case StageCode.GRANT:
      return encodeStageReply(await transaction.grant(frame.payload, call));
    case StageCode.COMMIT: {
      const reply = await transaction.commit(callAnew);
      handle.noteTransaction();
      // The backend ends a transaction whose commit has failed.
      channel.committed(transaction);
      return encodeStageReply(reply);
    }
    default:
      throw new EtcdFdwError("08P01", `unexpected stage code ${frame.code}`);
  }
}

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
