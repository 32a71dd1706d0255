// A member that is cut off from its cluster, with three real members and authentication: it still takes connections, and
// answers what it knows by itself.

import assert from "node:assert/strict";
import { encodeUtf8 } from "../../base/bytes.ts";
import { LeaseGrantRequest, LeaseReply, LeaseRequest } from "../../etcd/api.ts";
import { decodeClaim, encodeClaim } from "../../etcd/queue.ts";
import { encodeRangeRequest } from "../../etcd/messages.ts";
import { Method } from "../../ipc/frame.ts";
import { Deadline } from "../deadline.ts";
import { relay, TestMembers } from "../testing_members.ts";
import { errorFrom, get, put, readRange } from "../testing_requests.ts";
import { REAL } from "../testing_runtime.ts";
import { Cluster } from "./cluster.ts";
import { stand } from "./queue.ts";

const terms = (ms: number, retries = 2) => ({ connect: 3_000, retries, deadline: Deadline.after(REAL, ms) });
const USER = { username: "root", password: "s3cret" };
const CTL_USER = ["--user", `${USER.username}:${USER.password}`];

/** The endpoint that calls go to now. */
const active = (cluster: Cluster) =>
  cluster.stream((channel) => Promise.resolve({ reply: channel.endpoint }), terms(5_000));

Deno.test("a member that is cut off from its cluster", async (t) => {
  const members = await TestMembers.start();
  const { endpoints } = members;
  const lines: string[] = [];
  const open = (at = endpoints) =>
    new Cluster({ runtime: REAL, endpoints: at, ...USER, log: (line) => lines.push(line) });
  const all: Cluster[] = [];
  const opened = (at?: string[]) => {
    const cluster = open(at);
    all.push(cluster);
    return cluster;
  };
  const serializable = encodeRangeRequest({ key: encodeUtf8("/a"), rangeEnd: null, serializable: true });
  const read = async (cluster: Cluster, ms: number) =>
    readRange(await cluster.call(Method.RANGE, get("/a"), terms(ms))).values;
  /** A cluster whose active member is then cut off, and that member; it leads or follows where that is said. */
  const cutOff = async (leads?: boolean) => {
    const cluster = opened();
    await cluster.call(Method.PUT, put("/a", "1"), terms(10_000));
    const endpoint = await active(cluster);
    const member = endpoints.indexOf(endpoint);
    if (leads !== undefined) await members.lead(member, leads, CTL_USER);
    members.cut(member);
    return { cluster, endpoint, member };
  };
  const waitUntilLeaderless = async (cluster: Cluster) => {
    for (let attempt = 0; attempt < 10; attempt++) {
      const error = await errorFrom(cluster.call(Method.RANGE, get("/a"), terms(1_000, 0)));
      if (error.message === "etcd: no leader") return;
    }
    assert.fail("some member has a leader still");
  };
  /** All members serve again. */
  const mend = async () => {
    members.mend();
    for (const i of [0, 1, 2]) await members.served(i, CTL_USER);
  };
  try {
    await members.ctl(0, "user", "add", "root:s3cret");
    await members.ctl(0, "user", "grant-role", "root", "root");
    await members.ctl(0, "auth", "enable");

    for (const leads of [true, false]) {
      const role = leads ? "leader" : "follower";
      await t.step(`is left, though it answers another session's serializable reads: a ${role}`, async () => {
        const { cluster, endpoint, member } = await cutOff(leads);
        let answers = 0;
        let over = false;
        const others = (async () => {
          while (!over) {
            await cluster.call(Method.RANGE, serializable, terms(5_000));
            answers++;
          }
        })().then(() => null, (error) => error);
        try {
          // At first it does not know itself, and lets calls wait; later it refuses.
          const error = await errorFrom(cluster.call(Method.RANGE, get("/a"), terms(400, 0)));
          assert.equal(error.sqlstate, "08006");
          assert.ok(answers > 0, "it has answered others");
          assert.ok(
            lines.some((line) => line === `leaving etcd at "${endpoint}": it does not answer`),
            lines.join(),
          );
          // How long the others need to elect a leader is etcd's affair.
          const elected = members.served((member + 1) % 3, CTL_USER).then(() => performance.now());
          const ready = cluster.call(Method.RANGE, get("/a"), { ...terms(15_000, 10), backoff: 200 })
            .then((reply) => [readRange(reply).values, performance.now()] as const);
          const [servedAt, [values, readAt]] = await Promise.all([elected, ready]);
          assert.deepEqual(values, ["1"]);
          assert.ok(readAt - servedAt < 1_500, `${readAt - servedAt} ms later than the others`);
          assert.notEqual(await active(cluster), endpoint);
        } finally {
          over = true;
          await others;
        }
        assert.equal(await others, null);
      });
      await mend();
    }

    await t.step(
      "refuses at once when it knows that it has no leader, so that writes go on elsewhere",
      async () => {
        const { cluster, endpoint } = await cutOff();
        await new Promise((resolve) => setTimeout(resolve, 3_000));
        const begun = performance.now();
        await cluster.call(Method.PUT, put("/a", "2"), terms(5_000));
        assert.ok(performance.now() - begun < 2_000, `${performance.now() - begun} ms`);
        assert.notEqual(await active(cluster), endpoint);
        assert.deepEqual(await read(cluster, 5_000), ["2"]);
        // The member itself can still be asked about itself.
        const status = cluster.callEndpoint(endpoint, Method.STATUS, new Uint8Array(0), terms(2_000));
        assert.ok((await status).length > 0);
      },
    );
    await mend();

    await t.step("is left by who waits for a lock there, which keeps the place in the queue", async () => {
      const owner = opened();
      const grant = async (cluster: Cluster) =>
        LeaseReply.decode(
          await cluster.call(Method.LEASE_GRANT, LeaseGrantRequest.encode({ TTL: "60" }), terms(5_000)),
        ).ID;
      const lock = async (cluster: Cluster, lease: string) => {
        const claim = {
          ...{ name: encodeUtf8("job"), value: encodeUtf8(""), lease: BigInt(lease) },
          patient: true,
        };
        const reply = await cluster.call(Method.CLAIM, encodeClaim(claim), terms(5_000));
        const { place } = decodeClaim(claim, reply)!;
        return await cluster.stream((channel, options) => stand(channel, place, "FIRST", options), {
          ...terms(60_000),
          waits: true,
        });
      };
      const held = await grant(owner);
      await lock(owner, held);
      const cluster = opened();
      const lease = await grant(cluster);
      const waiting = lock(cluster, lease);
      // When something else fails before, that is what is told.
      waiting.catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 500));
      members.cut(endpoints.indexOf(await active(cluster)));
      await new Promise((resolve) => setTimeout(resolve, 3_000));
      // What renews the lease finds out.
      await cluster.call(Method.LEASE_KEEPALIVE, LeaseRequest.encode({ ID: lease }), terms(10_000));
      await owner.call(Method.LEASE_REVOKE, LeaseRequest.encode({ ID: held }), terms(20_000));
      const begun = performance.now();
      assert.equal(await waiting, "FIRST");
      assert.ok(performance.now() - begun < 3_000, `${performance.now() - begun} ms`);
    });
    await mend();

    await t.step("without any leader, what a member knows by itself is read all the same", async () => {
      const cluster = opened();
      await read(cluster, 5_000);
      members.cut("all");
      await waitUntilLeaderless(cluster);
      const reply = await cluster.call(Method.RANGE, serializable, terms(2_000));
      assert.deepEqual(readRange(reply).values, ["2"]);
      const error = await errorFrom(cluster.call(Method.PUT, put("/a", "3"), terms(2_000)));
      assert.deepEqual([error.sqlstate, error.message], ["08006", "etcd: no leader"]);
    });
    await mend();

    await t.step("is left when a login fails there, and is no first choice after that", async () => {
      const cut = 1;
      members.cut(cut);
      // The others are slower, so that the one that is cut off wins the race.
      const relays = endpoints.map((endpoint, i) =>
        i === cut ? null : relay(Number(endpoint.split(":")[1]), 150)
      );
      const slower = endpoints.map((endpoint, i) =>
        relays[i] === null ? endpoint : `127.0.0.1:${relays[i].port}`
      );
      try {
        const cluster = opened(slower);
        const begun = performance.now();
        assert.deepEqual(await read(cluster, 15_000), ["2"]);
        assert.ok(performance.now() - begun < 10_000, `${performance.now() - begun} ms`);
        assert.ok(
          lines.some((line) => line.startsWith(`leaving etcd at "${endpoints[cut]}"`)),
          lines.join("\n"),
        );
        assert.notEqual(await active(cluster), endpoints[cut]);
      } finally {
        for (const one of relays) one?.stop();
      }
    });
    assert.doesNotMatch(lines.join("\n"), /s3cret/);
  } finally {
    for (const cluster of all) cluster.close();
    await members.stop();
  }
});
