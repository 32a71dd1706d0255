// Waiting in the queue for a lock or a leadership. etcd has calls for that, but a member that notices late that nobody waits
// there any more deletes the key which another member has meanwhile found to be the first.

import { GrpcStatus } from "../../base/errors.ts";
import { WatchReply, WatchRequest } from "../../etcd/api.ts";
import { decodeLook, encodeLook, type Place, type Standing } from "../../etcd/queue.ts";
import type { CallOptions, Channel, Failure, Outcome } from "./transport.ts";

const TXN = "/etcdserverpb.KV/Txn";
const WATCH = "/etcdserverpb.Watch/Watch";

const DENIED: Failure = { code: GrpcStatus.PERMISSION_DENIED, text: "etcdserver: permission denied" };

/** etcd's enum of events. */
const DELETION = 1;

/** Waits until the place stands so, or is gone: on another connection it is looked at again. */
export async function stand(
  channel: Channel,
  place: Place,
  wanted: "FIRST" | "GONE",
  options: CallOptions,
): Promise<Outcome<Standing>> {
  for (;;) {
    // Each time anew: this also tells whether the token is good still, which a watch does not.
    const looked = await channel.call(TXN, encodeLook(place), options);
    if (looked.failure !== undefined) return looked;
    const { standing, ahead, revision } = decodeLook(place, looked.reply);
    if (standing === "GONE" || standing === wanted) return { reply: standing };
    const keys = wanted === "FIRST" && ahead !== null ? [ahead, place.key] : [place.key];
    const watches = keys.map((key) =>
      WatchRequest.encode({ create_request: { key, start_revision: String(revision + 1n) } })
    );
    const told = await channel.converse(WATCH, watches, options, (reply) => {
      const { canceled, events } = WatchReply.decode(reply);
      return canceled || events.some(({ type }) => type === DELETION);
    });
    if (told.failure !== undefined) return told;
    const { canceled, compact_revision } = WatchReply.decode(told.reply);
    if (canceled && compact_revision === "0") return { failure: DENIED };
  }
}
