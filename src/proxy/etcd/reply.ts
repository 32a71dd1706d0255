// The answer to one unary call of gRPC, as it comes in over HTTP/2: what was heard so far, and how the call has ended by it.
//
// Node's streams may show a first part before the headers that came in front of it.
//
//	state		what comes					becomes
//	SENT		a part of the message		SENT, and it is kept
//	SENT		headers that end it			ENDED, with their status
//	SENT		headers						OPEN, with what was kept
//	OPEN		a part of the message		OPEN; ENDED when it is more than may be, or no message
//	OPEN		trailers with a failure		ENDED
//	OPEN		trailers, all is well		CLOSING; ENDED when the message is whole
//	CLOSING		the rest of the message		ENDED
//	any			the stream is no more		ENDED
//
// gRPC: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

import { Buffer } from "node:buffer";
import { GrpcStatus } from "../../base/errors.ts";
import { MAX_FRAME_BYTES } from "../../ipc/limits.ts";
import type { Outcome } from "./transport.ts";

/** In front of the message: whether it is compressed, and its length in four bytes. */
export const PREFIX_BYTES = 5;
/** Smaller replies are here with their first bytes. */
export const LARGE_BYTES = 256 * 1024;

const NOTHING = new Uint8Array(0);

export type ReplyHeaders = Readonly<Record<string, unknown>>;

/** Codes of RST_STREAM that mean something here. */
export const Reset = { NO_ERROR: 0, REFUSED_STREAM: 7, CANCEL: 8, ENHANCE_YOUR_CALM: 11 } as const;

/** For statuses of HTTP, when no gRPC has answered: a proxy on the way, or no etcd at all. */
const BY_HTTP_STATUS: Record<number, number> = {
  400: GrpcStatus.INTERNAL,
  401: GrpcStatus.UNAUTHENTICATED,
  403: GrpcStatus.PERMISSION_DENIED,
  404: GrpcStatus.UNIMPLEMENTED,
  429: GrpcStatus.UNAVAILABLE,
  502: GrpcStatus.UNAVAILABLE,
  503: GrpcStatus.UNAVAILABLE,
  504: GrpcStatus.UNAVAILABLE,
};

type State = "SENT" | "OPEN" | "CLOSING" | "ENDED";

export class Reply {
  #state: State = "SENT";
  #httpStatus = 200;
  /** What came before the headers, or of the prefix, while that is not whole. */
  #early: Uint8Array = NOTHING;
  /** Of the message; -1 before its prefix is here. */
  #length = -1;
  #parts: Uint8Array[] = [];
  #filled = 0;

  /** Bytes of the message; -1 while that is not known. */
  get length(): number {
    return this.#length;
  }

  /** `isLast`: nothing follows them. */
  headers(headers: ReplyHeaders, isLast: boolean): Outcome | null {
    if (this.#state !== "SENT") return null;
    this.#state = "OPEN";
    this.#httpStatus = Number(headers[":status"] ?? 200);
    if (isLast) return this.trailers(headers);
    const encoding = headers["grpc-encoding"];
    if (encoding !== undefined && encoding !== "identity") return this.#compressed();
    const early = this.#early;
    this.#early = NOTHING;
    return early === NOTHING ? null : this.data(early);
  }

  data(chunk: Uint8Array): Outcome | null {
    if (this.#state === "ENDED") return null;
    if (this.#state === "SENT") {
      this.#early = this.#early === NOTHING ? chunk : joined([this.#early, chunk]);
      return null;
    }
    // Somebody's page of HTML: its status says more, which comes behind it.
    if (this.#httpStatus !== 200) return null;
    let rest = chunk;
    if (this.#length < 0) {
      const prefix = this.#early === NOTHING ? chunk : joined([this.#early, chunk]);
      if (prefix.length < PREFIX_BYTES) {
        this.#early = prefix;
        return null;
      }
      this.#length = new DataView(prefix.buffer, prefix.byteOffset).getUint32(1);
      if (prefix[0] !== 0) return this.#compressed();
      if (this.#length > MAX_FRAME_BYTES) {
        const text = `Received message larger than max (${this.#length} vs ${MAX_FRAME_BYTES})`;
        return this.#end({ failure: { code: GrpcStatus.RESOURCE_EXHAUSTED, text } });
      }
      rest = prefix.subarray(PREFIX_BYTES);
    }
    if (rest.length > 0) this.#parts.push(rest);
    this.#filled += rest.length;
    if (this.#filled > this.#length) {
      return this.#end({
        failure: { code: GrpcStatus.INTERNAL, text: "the reply is longer than one message" },
      });
    }
    return this.#state === "CLOSING" && this.#filled === this.#length ? this.#whole() : null;
  }

  trailers(headers: ReplyHeaders): Outcome | null {
    if (this.#state === "CLOSING" || this.#state === "ENDED") return null;
    const status = headers["grpc-status"];
    if (status === undefined) return this.#end(this.#withoutStatus());
    if (Number(status) !== 0) {
      const text = decoded(String(headers["grpc-message"] ?? ""));
      return this.#end({ failure: { code: Number(status), text } });
    }
    this.#state = "CLOSING";
    return this.#filled === this.#length ? this.#whole() : null;
  }

  /** The stream is no more; `isConnections` when the connection is not, either. */
  closed(reset: number, isConnections: boolean): Outcome | null {
    if (this.#state === "ENDED") return null;
    return this.#end(isConnections ? LOST : this.#withoutEnd(reset));
  }

  #withoutEnd(reset: number): Outcome {
    switch (reset) {
      case Reset.NO_ERROR:
        return this.#withoutStatus();
      case Reset.REFUSED_STREAM:
        return REFUSED;
      case Reset.CANCEL:
        return { failure: { code: GrpcStatus.CANCELLED, text: "Call cancelled" } };
      case Reset.ENHANCE_YOUR_CALM:
        return {
          failure: {
            code: GrpcStatus.RESOURCE_EXHAUSTED,
            text: "Bandwidth exhausted or memory limit exceeded",
          },
        };
      default:
        return { failure: { code: GrpcStatus.INTERNAL, text: `Received RST_STREAM with code ${reset}` } };
    }
  }

  #withoutStatus(): Outcome {
    if (this.#httpStatus === 200) {
      return { failure: { code: GrpcStatus.INTERNAL, text: "the call ended without a status" } };
    }
    return {
      failure: {
        code: BY_HTTP_STATUS[this.#httpStatus] ?? GrpcStatus.UNKNOWN,
        text: `Received HTTP status code ${this.#httpStatus}`,
      },
    };
  }

  #compressed(): Outcome {
    // How much room it takes nobody knows before it is unpacked.
    const text = "the reply is compressed, which was not asked for";
    return this.#end({ failure: { code: GrpcStatus.INTERNAL, text } });
  }

  #whole(): Outcome {
    return this.#end({ reply: this.#parts.length === 1 ? this.#parts[0] : joined(this.#parts) });
  }

  #end(outcome: Outcome): Outcome {
    this.#state = "ENDED";
    this.#parts = [];
    return outcome;
  }
}

const LOST: Outcome = { failure: { code: GrpcStatus.UNAVAILABLE, text: "Connection dropped" } };
/** As status.ts knows it: etcd has not seen the call. */
export const REFUSED: Outcome = {
  failure: { code: GrpcStatus.UNAVAILABLE, text: "Stream refused by server" },
};

/** Quicker than by hand: how the runtime makes room and copies. */
const joined = (parts: Uint8Array[]): Uint8Array => Buffer.concat(parts);

/** Texts are percent-encoded; one that is not is taken as it is. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
