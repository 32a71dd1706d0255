import { equal, match, ok } from "node:assert/strict";
import { createServer } from "node:net";
import { dockerAnswers, dockerApi, etcdImage, LOCAL_IMAGE, whyNoDocker } from "./docker.ts";

/** Runs the test with an environment variable set (null: unset) and puts it back. */
async function withEnv(name: string, value: string | null, test: () => Promise<void>) {
  const before = Deno.env.get(name);
  const put = (v: string | null | undefined) =>
    v === null || v === undefined ? Deno.env.delete(name) : Deno.env.set(name, v);
  put(value);
  try {
    await test();
  } finally {
    put(before);
  }
}

Deno.test("a daemon that is not there is said so, with the reason", async () => {
  await withEnv("DOCKER_HOST", "unix:///no/such/docker.sock", async () => {
    match(
      await whyNoDocker() ?? "",
      /^no Docker daemon answers: .*no\/such\/docker\.sock|ENOENT|No such file/,
    );
    equal(await dockerAnswers(), false);
  });
  await withEnv("DOCKER_HOST", "ssh://somewhere", async () => {
    match(await whyNoDocker() ?? "", /DOCKER_HOST "ssh:\/\/somewhere" is neither/);
  });
});

Deno.test("a daemon that keeps silent is given up within 2 seconds", async () => {
  const server = createServer((socket) => socket.on("error", () => {}).resume());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await withEnv("DOCKER_HOST", `tcp://127.0.0.1:${port}`, async () => {
    const start = performance.now();
    match(await whyNoDocker() ?? "", /did not answer/);
    ok(performance.now() - start < 2000);
  });
  await new Promise((resolve) => server.close(resolve));
});

Deno.test("an image that is named is taken as it is", async () => {
  await withEnv("ETCD_IMAGE", "some/etcd:1", async () => equal(await etcdImage(), "some/etcd:1"));
});

Deno.test("without one, an image is made, and only once", { ignore: !await dockerAnswers() }, async () => {
  await withEnv("ETCD_IMAGE", null, async () => {
    const id = async () => JSON.parse((await dockerApi("GET", `/images/${LOCAL_IMAGE}/json`)).toString()).Id;
    equal(await etcdImage(), LOCAL_IMAGE);
    const first = await id();
    equal(await etcdImage(), LOCAL_IMAGE);
    equal(await id(), first);
  });
});
