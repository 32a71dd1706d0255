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
      // grpc-js reads .proto files for two services that the proxy does not offer: channelz and ORCA.
      build.onResolve({ filter: /^@grpc\/proto-loader$/ }, ({ importer }) => {
        return importer.includes("/grpc-js/") ? { path: "no-loader", namespace: "etcd_fdw" } : undefined;
      });
      build.onLoad({ filter: /^no-loader$/, namespace: "etcd_fdw" }, () => ({
        contents:
          'exports.loadSync = () => { throw new Error("etcd_fdw\'s proxy has neither channelz nor ORCA"); };',
      }));
      build.onLoad({ filter: /etcd3\/lib\/connection-pool\.js$/ }, async ({ path }) => {
        // Not load(): it reads what rpc.proto imports in no fixed order, and the bundle would differ from run to run.
        const protos = path.replace(/lib\/connection-pool\.js$/, "proto/rpc.proto");
        const root = new protobuf.Root().loadSync(protos, { keepCase: true });
        return { contents: replaceLoadSync(await Deno.readTextFile(path), root.toJSON()), loader: "js" };
      });
    },
  };
}
