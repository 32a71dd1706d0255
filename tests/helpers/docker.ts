// What the tests need of a Docker daemon beside testcontainers: whether one answers, an image of etcd where no registry
// can be reached, and the few calls that testcontainers has no words for (kill, pause). Plain requests to the daemon's
// HTTP API; the docker program is not needed. No daemon is ever started from here.
//
// The daemon is found by DOCKER_HOST (unix:// or tcp:// without TLS), else at its usual socket. It must run on this
// machine and on Linux, since the containers use the host's network.

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { request as httpRequest, type RequestOptions } from "node:http";

/** The image that {@linkcode etcdImage} makes when ETCD_IMAGE does not name another. */
export const LOCAL_IMAGE = "etcd_fdw-test/etcd:local";

/** On every container of these tests: `host:pid` of the test process. */
export const OWNER_LABEL = "etcd_fdw-test.owner";

/** On the image that is made here: SHA-256 of the etcd binary in it. */
const BINARY_LABEL = "etcd_fdw-test.binary";

const PROBE_MS = 1_500;
const CALL_MS = 30_000;
const IMPORT_MS = 120_000;

interface Answer {
  status: number;
  body: Buffer;
}

interface ApiOptions {
  body?: Uint8Array;
  timeoutMs?: number;
}

/** How to reach the daemon. Throws on a DOCKER_HOST of another kind. */
function daemonAddress(): RequestOptions {
  const host = Deno.env.get("DOCKER_HOST") || "unix:///var/run/docker.sock";
  if (host.startsWith("unix://")) return { socketPath: host.slice("unix://".length), host: "docker" };
  const url = URL.parse(host);
  if (url?.protocol === "tcp:" && !Deno.env.get("DOCKER_TLS_VERIFY")) {
    return { host: url.hostname, port: url.port || "2375" };
  }
  throw new Error(`DOCKER_HOST "${host}" is neither unix:// nor tcp:// without TLS`);
}

function send(method: string, path: string, options: ApiOptions): Promise<Answer> {
  const timeoutMs = options.timeoutMs ?? CALL_MS;
  return new Promise((resolve, reject) => {
    const headers: Record<string, string | number> = { "Content-Length": options.body?.length ?? 0 };
    if (options.body) headers["Content-Type"] = "application/x-tar";
    // A connection of its own, so that nothing stays open after the answer.
    const request = httpRequest({ ...daemonAddress(), method, path, headers, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", fail);
      response.on("end", () => {
        clearTimeout(timer);
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) });
      });
    });
    const fail = (error: Error) => {
      clearTimeout(timer);
      reject(error);
    };
    const timer = setTimeout(() => {
      fail(new Error(`the Docker daemon did not answer ${path} within ${timeoutMs} ms`));
      request.destroy();
    }, timeoutMs);
    request.on("error", fail);
    request.end(options.body);
  });
}

/** A call of the daemon's API; its body. Throws with the daemon's message on any status but 2xx and 304. */
export async function dockerApi(method: string, path: string, options: ApiOptions = {}): Promise<Buffer> {
  const { status, body } = await send(method, path, options);
  if (status >= 200 && status < 300 || status === 304) return body;
  throw new Error(`Docker: ${method} ${path}: ${status} ${body.toString().trim()}`);
}

/** Why no Docker daemon can be used, or null when one answers. Takes less than 2 seconds. */
export async function whyNoDocker(): Promise<string | null> {
  try {
    await dockerApi("GET", "/_ping", { timeoutMs: PROBE_MS });
    return null;
  } catch (error) {
    return `no Docker daemon answers: ${(error as Error).message}`;
  }
}

/** Whether a Docker daemon answers. Takes less than 2 seconds. */
export async function dockerAnswers(): Promise<boolean> {
  return await whyNoDocker() === null;
}

interface ImageInfo {
  RepoTags: string[] | null;
  Labels: Record<string, string> | null;
}

async function images(): Promise<ImageInfo[]> {
  return JSON.parse((await dockerApi("GET", "/images/json")).toString());
}

/**
 * The image to run etcd from: ETCD_IMAGE, which testcontainers pulls when it is not there, else one that holds this
 * machine's own etcd, made now unless it was made before from the same binary.
 */
export async function etcdImage(): Promise<string> {
  const named = Deno.env.get("ETCD_IMAGE");
  if (named) return named;
  const binary = await findProgram(Deno.env.get("ETCD_BIN") || "etcd");
  if (binary === null) {
    throw new Error("no program etcd to make an image from: install etcd, or set ETCD_IMAGE");
  }
  const digest = createHash("sha256").update(await Deno.readFile(binary)).digest("hex");
  const made = (await images()).some((image) =>
    image.RepoTags?.includes(LOCAL_IMAGE) && image.Labels?.[BINARY_LABEL] === digest
  );
  if (!made) await importEtcdImage(binary, digest);
  return LOCAL_IMAGE;
}

async function importEtcdImage(etcd: string, digest: string): Promise<void> {
  const programs: Record<string, string> = { etcd };
  const etcdctl = await findProgram(Deno.env.get("ETCDCTL_BIN") || "etcdctl");
  if (etcdctl !== null) programs.etcdctl = etcdctl;
  const [repo, tag] = LOCAL_IMAGE.split(":");
  const query = new URLSearchParams({ fromSrc: "-", repo, tag });
  query.append("changes", "ENV PATH=/usr/bin");
  query.append("changes", `LABEL ${BINARY_LABEL}=${digest}`);
  query.append("changes", 'CMD ["etcd"]');
  const reply = await dockerApi("POST", `/images/create?${query}`, {
    body: await programsTar(programs),
    timeoutMs: IMPORT_MS,
  });
  // The status is sent before the work is done: an error comes as a line of its own.
  if (reply.includes('"error"')) {
    throw new Error(`Docker: import of ${LOCAL_IMAGE} failed: ${reply.toString()}`);
  }
}

/** A tar archive of the programs in /usr/bin and of the shared libraries they load, where their loader looks. */
async function programsTar(programs: Record<string, string>): Promise<Uint8Array> {
  const root = await Deno.makeTempDir({ prefix: "etcd_fdw-image-" });
  try {
    for (const [name, path] of Object.entries(programs)) {
      await copyInto(path, `${root}/usr/bin/${name}`);
      for (const library of await sharedLibraries(path)) await copyInto(library, root + library);
    }
    return await capture("tar", ["-c", "--numeric-owner", "--owner=0", "--group=0", "-C", root, "."]);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
}

async function copyInto(from: string, to: string): Promise<void> {
  await Deno.mkdir(to.slice(0, to.lastIndexOf("/")), { recursive: true });
  // Follows links, so that a library is a file under the name it is loaded by.
  await Deno.copyFile(from, to);
}

/** Absolute paths out of ldd's lines: `name => /path (0x…)` and `/path (0x…)`. None for a static program. */
async function sharedLibraries(program: string): Promise<string[]> {
  const text = new TextDecoder().decode(await capture("ldd", [program]).catch(() => new Uint8Array()));
  return [...text.matchAll(/(?:^|\s)(\/\S+) \(0x/gm)].map((match) => match[1]);
}

/** Standard output of a program. Throws when it fails. */
async function capture(program: string, args: string[]): Promise<Uint8Array> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args, stdin: "null" }).output();
  if (!success) throw new Error(`${program} failed: ${new TextDecoder().decode(stderr).trim()}`);
  return stdout;
}

/** The path of a program that is given by path or found on PATH, or null. */
async function findProgram(name: string): Promise<string | null> {
  const folders = name.includes("/") ? [""] : (Deno.env.get("PATH") ?? "").split(":").map((dir) => `${dir}/`);
  for (const folder of folders) {
    const info = await Deno.stat(folder + name).catch(() => null);
    if (info?.isFile && (info.mode ?? 0) & 0o111) return folder + name;
  }
  return null;
}

/**
 * Settles what testcontainers would find out wrongly here; what the caller has set stays.
 * - Its own cleaner (Ryuk) is off unless its image is here: fetching it would fail, slowly, without a registry.
 * - The daemon's host is 127.0.0.1, as for all containers on the host's network. Its own search asks the network
 *   "bridge" when the machine looks like a container, and gives up when the daemon runs without one.
 */
export async function prepareTestcontainers(): Promise<void> {
  setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1");
  const image = Deno.env.get("RYUK_CONTAINER_IMAGE") || "testcontainers/ryuk:";
  const here = (await images()).some(({ RepoTags }) => RepoTags?.some((tag) => tag.includes(image)));
  if (!here) setDefault("TESTCONTAINERS_RYUK_DISABLED", "true");
}

function setDefault(name: string, value: string): void {
  if (Deno.env.get(name) === undefined) Deno.env.set(name, value);
}

/** The value of {@linkcode OWNER_LABEL} for this process. */
export function ownerLabel(): string {
  return `${Deno.hostname()}:${Deno.pid}`;
}

/** Removes containers that test processes of this machine left behind when they died. */
export async function removeOrphans(): Promise<void> {
  const filters = encodeURIComponent(JSON.stringify({ label: [OWNER_LABEL] }));
  const list: { Id: string; Labels: Record<string, string> }[] = JSON.parse(
    (await dockerApi("GET", `/containers/json?all=1&filters=${filters}`)).toString(),
  );
  for (const { Id, Labels } of list) {
    const [host, pid] = Labels[OWNER_LABEL].split(":");
    if (host !== Deno.hostname() || !/^\d+$/.test(pid)) continue;
    const alive = await Deno.stat(`/proc/${pid}`).then(() => true, () => false);
    // Another process may be removing the same one.
    if (!alive) await dockerApi("DELETE", `/containers/${Id}?force=1&v=1`).catch(() => {});
  }
}

/** What a container has written, both streams, in order. */
export async function containerLog(id: string): Promise<string> {
  const raw = await dockerApi("GET", `/containers/${id}/logs?stdout=1&stderr=1`);
  // Frames of an 8-byte header, whose last four bytes are the length, and the text.
  const parts: Buffer[] = [];
  for (let at = 0; at + 8 <= raw.length;) {
    const length = raw.readUInt32BE(at + 4);
    parts.push(raw.subarray(at + 8, at + 8 + length));
    at += 8 + length;
  }
  return Buffer.concat(parts).toString();
}
