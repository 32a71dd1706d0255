// etcd3 reads its .proto files from its package folder when it is loaded. A bundle has no such folder: this esbuild plugin
// replaces that one call by the same descriptors, read at build time. A version of etcd3 that does it otherwise fails the
// build instead of the first query.

import type { Plugin } from "esbuild";
import protobuf from "protobufjs";
import { StepError } from "./run.ts";

const CALL = /proto_loader_1\.loadSync\)?\(`\$\{__dirname\}\/\.\.\/proto\/rpc\.proto`,/g;

/** The source with its call of loadSync replaced. Throws StepError unless there is exactly one. */
export function replaceLoadSync(source: string, descriptor: unknown): string {
  const calls = source.match(CALL) ?? [];
  if (calls.length !== 1) {
    throw new StepError(
      `etcd3 loads its .proto files in ${calls.length} places, not one: adapt build/etcd3_protos.ts`,
    );
  }
  const call = calls[0].includes("loadSync)") ? "proto_loader_1.fromJSON)" : "proto_loader_1.fromJSON";
  return source.replace(CALL, () => `${call}(${JSON.stringify(descriptor)},`);
}

export function etcd3Protos(): Plugin {
  return {
    name: "etcd3-protos",
    setup(build) {
      build.onLoad({ filter: /etcd3\/lib\/connection-pool\.js$/ }, async ({ path }) => {
        const root = await new protobuf.Root().load(
          path.replace(/lib\/connection-pool\.js$/, "proto/rpc.proto"),
          {
            keepCase: true,
          },
        );
        return { contents: replaceLoadSync(await Deno.readTextFile(path), root.toJSON()), loader: "js" };
      });
    },
  };
}
