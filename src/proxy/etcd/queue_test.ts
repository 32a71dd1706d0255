import assert from "node:assert/strict";
import { encodeUtf8 } from "../../base/bytes.ts";
import { WatchReply, WatchRequest } from "../../etcd/api.ts";
import type { Place } from "../../etcd/queue.ts";
import { Deadline } from "../deadline.ts";
import { foundKeys } from "../testing_requests.ts";
import { VirtualRuntime } from "../testing_runtime.ts";
import { stand } from "./queue.ts";
import type { Channel, Outcome } from "./transport.ts";

// foundKeys() finds keys of revision 3, at revision 5.
const PLACE: Place = { queue: encodeUtf8("job/"), key: encodeUtf8("job/7"), lease: 7n, revision: 3n };
const DELETED = WatchReply.encode({ events: [{ type: 1, kv: { key: encodeUtf8("job/1") } }] });
const CHANGED = WatchReply.encode({ events: [{ type: 0, kv: { key: encodeUtf8("job/1") } }] });
const CREATED = WatchReply.encode({ created: true });

/** How the wait ends when looks find these keys and watches tell these replies, one list for each; and what was watched. */
async function waited(looks: Uint8Array[], watches: Uint8Array[][], wanted: "FIRST" | "GONE" = "FIRST") {
  const watched: string[] = [];
  const channel = {
    call: () => Promise.resolve({ reply: looks.shift()! }),
    async converse(_path, payloads, _options, heard) {
      for (const payload of payloads) {
        const { key, start_revision } = WatchRequest.decode(payload).create_request!;
        watched.push(`${new TextDecoder().decode(key)} from ${start_revision}`);
      }
      for (const reply of watches.shift()!) if (await heard(reply, () => {})) return { reply };
      return { failure: { code: 14, text: "lost" } };
    },
  } as Partial<Channel> as Channel;
  const options = { login: { token: null }, deadline: Deadline.after(new VirtualRuntime(), 1_000) };
  const { reply, failure }: Outcome<string> = await stand(channel, PLACE, wanted, options);
  return { end: reply ?? failure!.text, watched };
}

const FREE = foundKeys("job/7", null);
const BEHIND = foundKeys("job/7", "job/1");
const GONE = foundKeys(null, "job/1");

Deno.test("stand: who is the first need not wait, who is gone need not either", async () => {
  assert.deepEqual(await waited([FREE], []), { end: "FIRST", watched: [] });
  assert.deepEqual(await waited([GONE], []), { end: "GONE", watched: [] });
});

Deno.test("stand: only a look tells that it is the first, however often the key in front goes", async () => {
  const { end, watched } = await waited([BEHIND, BEHIND, FREE], [[CREATED, CHANGED, DELETED], [DELETED]]);
  assert.equal(end, "FIRST");
  assert.deepEqual(watched.slice(0, 2), ["job/1 from 6", "job/7 from 6"]);
  assert.equal(watched.length, 4);
  assert.equal((await waited([BEHIND, GONE], [[DELETED]])).end, "GONE");
});

Deno.test("stand: for its own end, only its own key is watched", async () => {
  const { end, watched } = await waited([FREE, GONE], [[CREATED, CHANGED, DELETED]], "GONE");
  assert.deepEqual([end, watched], ["GONE", ["job/7 from 6"]]);
});

Deno.test("stand: a compaction is reason to look again, a refusal is an error, and so is a lost stream", async () => {
  const compacted = WatchReply.encode({ canceled: true, compact_revision: "8" });
  assert.equal((await waited([BEHIND, FREE], [[CREATED, compacted]])).end, "FIRST");
  const refused = WatchReply.encode({ created: true, canceled: true });
  assert.match((await waited([BEHIND], [[refused]])).end, /permission denied/);
  assert.equal((await waited([BEHIND], [[CREATED]])).end, "lost");
});
