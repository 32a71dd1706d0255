import assert from "node:assert/strict";
import type { EtcdFdwError } from "../../base/errors.ts";
import { Method, type TlsPayload } from "../../ipc/frame.ts";
import { TestAuthority } from "../testing_certificates.ts";
import { TestEtcd } from "../testing_etcd.ts";
import { get, put, readRange } from "../testing_requests.ts";
import { Deadline } from "../deadline.ts";
import { REAL } from "../testing_runtime.ts";
import { Cluster } from "./cluster.ts";
import { checkTls } from "./tls.ts";

const terms = () => ({ connect: 3_000, deadline: Deadline.after(REAL, 5_000) });
const text = (path: string) => Deno.readTextFileSync(path);

/** What a read through this endpoint with these options ends in: the value, or the error's detail. */
async function read(endpoint: string, tls?: TlsPayload, user: { username?: string; password?: string } = {}) {
  const cluster = new Cluster({ runtime: REAL, endpoints: [endpoint], ...user, tls, log: () => {} });
  try {
    return readRange(await cluster.call(Method.RANGE, get("/a"), terms())).values[0];
  } catch (error) {
    return (error as { detail: string }).detail;
  } finally {
    cluster.close();
  }
}

Deno.test("TLS: what is checked of either side, and how it is told", async (t) => {
  const authority = await TestAuthority.create();
  const other = await TestAuthority.create();
  const server = await authority.issue("server", "DNS:localhost,DNS:etcd.test,IP:127.0.0.1");
  const named = await authority.issue("named", "DNS:etcd.test");
  const client = await authority.issue("root", "DNS:client");
  const stranger = await other.issue("stranger", "DNS:client");
  const ca = text(authority.ca);
  const own = { ca, cert: text(client.cert), key: text(client.key), verify: true };
  const [etcd, byName] = await Promise.all([
    TestEtcd.start({ ...server, clientCa: authority.ca }),
    TestEtcd.start(named),
  ]);
  try {
    const plain = new Cluster({ runtime: REAL, endpoints: [etcd.endpoint], log: () => {} });
    await plain.call(Method.PUT, put("/a", "1"), terms());
    plain.close();
    await t.step("by name and by address", async () => {
      assert.equal(await read(etcd.secure.name, own), "1");
      assert.equal(await read(etcd.secure.address, own), "1");
      assert.equal(await read(etcd.secure.address, { ...own, servername: "etcd.test" }), "1");
    });
    await t.step("key and certificate in one file", async () => {
      const both = own.cert + own.key;
      assert.equal(await read(etcd.secure.name, { ca, cert: both, verify: true }), "1");
    });
    await t.step("a certificate of another name is refused, unless nothing is verified", async () => {
      assert.match((await read(byName.secure.address, { ca, verify: true }))!, /not in the cert's list/);
      assert.match((await read(byName.secure.name, { ca, verify: true }))!, /not in the cert's altnames/);
      const wrong = { ...own, servername: "elsewhere.test" };
      assert.match((await read(etcd.secure.name, wrong))!, /not in the cert's altnames/);
      assert.equal(await read(byName.secure.name, { ca, servername: "etcd.test", verify: true }), undefined);
      assert.equal(await read(byName.secure.address, { verify: false }), undefined);
    });
    await t.step("an unknown authority is refused, on both sides", async () => {
      assert.match((await read(etcd.secure.name, { ...own, ca: text(other.ca) }))!, /verify/);
      assert.match((await read(etcd.secure.name, { ...own, ca: undefined }))!, /verify/);
      const foreign = { ca, cert: text(stranger.cert), key: text(stranger.key), verify: true };
      assert.notEqual(await read(etcd.secure.name, foreign), "1");
      assert.notEqual(await read(etcd.secure.name, { ca, verify: true }), "1");
    });
    await t.step("TLS to a listener without, and the other way round, ends in an error", async () => {
      assert.ok((await read(etcd.endpoint, own))!.startsWith(etcd.endpoint));
      assert.ok((await read(etcd.secure.address))!.startsWith(etcd.secure.address));
    });
    await t.step("a password is exchanged for a token through the same channel", async () => {
      await byName.ctl("user", "add", "root:s3cret");
      await byName.ctl("user", "grant-role", "root", "root");
      await byName.ctl("auth", "enable");
      const tls = { ca, servername: "etcd.test", verify: true };
      const root = { username: "root", password: "s3cret" };
      assert.equal(await read(byName.secure.address, tls, root), undefined);
      assert.match((await read(byName.secure.address, tls))!, /user name is empty/);
    });
  } finally {
    await Promise.all([etcd.stop(), byName.stop(), authority.remove(), other.remove()]);
  }
});

Deno.test("checkTls: a file that is not what its option needs is named, not quoted", async () => {
  const authority = await TestAuthority.create();
  try {
    const [one, two] = [await authority.issue("one", "DNS:a"), await authority.issue("two", "DNS:b")];
    const cert = text(one.cert);
    checkTls({ ca: text(authority.ca), cert, key: text(one.key), verify: true });
    const cases: [Partial<TlsPayload>, RegExp][] = [
      [{ ca: "s3cret" }, /"cafile" holds no certificate/],
      [{ ca: text(one.key) }, /"cafile" holds no certificate/],
      [{ cert: "s3cret" }, /"certfile" holds no certificate/],
      [{ cert, key: "s3cret" }, /"keyfile" holds no private key/],
      [{ cert }, /"certfile" holds no private key/],
      [{ cert, key: text(two.key) }, /does not belong to the certificate/],
    ];
    for (const [tls, message] of cases) {
      assert.throws(() => checkTls({ verify: true, ...tls }), (error: EtcdFdwError) => {
        assert.equal(error.sqlstate, "22023");
        assert.match(error.message, message);
        assert.doesNotMatch(JSON.stringify(error) + error.message, /s3cret/);
        return true;
      });
    }
  } finally {
    await authority.remove();
  }
});
