// The borders between the parts, as a check: who may import or include whom, and what runs in the engines must do without.
//
//   deno run --allow-read build/check_imports.ts

const ROOT = decodeURIComponent(new URL("..", import.meta.url).pathname);

/** Which parts of src/ a part may import. */
const PARTS: Record<string, string[]> = {
  base: ["base"],
  etcd: ["etcd", "base"],
  ipc: ["ipc", "etcd", "base"],
  core: ["core", "ipc", "etcd", "base"],
  proxy: ["proxy", "ipc", "etcd", "base"],
};

/** The parts that run in the engines. */
const IN_ENGINES = ["base", "etcd", "ipc", "core"];

/** The backend's folders: each may include its own headers and those of the ones before it. */
const BACKEND = [
  "base",
  "etcd",
  "core",
  "server",
  "ipc",
  "txn",
  "scan",
  "plan",
  "modify",
  "function",
  "watch",
];

/** Packages for which there is one folder. */
const GRPC = ["@grpc/grpc-js", "etcd3"];
const GRPC_FOLDER = "src/proxy/etcd/";

/** Where the proxy may meet the world; all else in it has a Runtime. A simulator takes the place of these files. */
const REAL_WORLD = ["src/proxy/runtime.ts"].concat(
  ["channel", "arrivals", "wire", "certificates"].map((name) => `src/proxy/etcd/${name}.ts`),
);
/** tls.ts takes checks of names from node:tls and node:net, and no socket. */
const SOCKETS_CHECKED = [...REAL_WORLD, "src/proxy/etcd/tls.ts"];
const WORLD =
  /(?<![.\w$])(Date\.now|new Date(?=\(\))|performance\.now|setTimeout|setInterval|setImmediate|clearTimeout|clearInterval|Math\.random|crypto)\b/g;
const WORLD_PACKAGES = /^node:(net|tls|dns|http2?|https|timers|fs)(\/|$)/;

/** Where transactions are decided; what decides does not wait. One file waits for it. */
const DECIDES = "src/proxy/txn/";
const DECIDES_DRIVER = "src/proxy/txn/driver.ts";
const WAITS = /(?<![.\w$])(async|await|Promise)\b/g;

/** What core and what lies below it may take from outside: it must run in engines that have nothing but ES2022. */
const ENGINE_PACKAGES = ["@bufbuild/protobuf/wire"];
const ENGINE_LACKS =
  /(?<![.\w$])(TextEncoder|TextDecoder|setTimeout|setInterval|setImmediate|queueMicrotask|console|Promise|async|await|Deno|process|atob|btoa|structuredClone|performance|crypto|fetch)\b(?!\s*:)/g;

/** The source without comments and without what stands in strings; templates lose their text, not their expressions. */
export function codeOnly(source: string): string {
  const pattern =
    /\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\$]|\\.|\$(?!\{))*`/g;
  return source.replace(pattern, (match) => match.startsWith("/") ? " " : '""');
}

/** What a source imports or exports from. */
export function importsOf(source: string): string[] {
  const withoutComments = source.replace(/^\s*\/\/[^\n]*$/gm, "").replace(/\/\*[\s\S]*?\*\//g, "");
  const pattern =
    /(?:^|\n)\s*(?:import|export)\b[^"';]*?\bfrom\s*["']([^"']+)["']|\bimport\s*\(?\s*["']([^"']+)["']/g;
  return [...withoutComments.matchAll(pattern)].map((match) => match[1] ?? match[2]);
}

/** src/core/modify.ts + ../base/bytes.ts = src/base/bytes.ts */
function resolve(file: string, specifier: string): string {
  return new URL(specifier, `file:///${file}`).pathname.slice(1);
}

/** Every breach in one file of src/, in words. */
export function breaches(file: string, source: string): string[] {
  const part = file.split("/")[1];
  const allowed = PARTS[part] ?? [];
  const isEngine = IN_ENGINES.includes(part);
  const found: string[] = [];
  for (const specifier of importsOf(source)) {
    if (specifier.startsWith(".")) {
      const target = resolve(file, specifier).split("/");
      if (target[0] !== "src" || !allowed.includes(target[1])) {
        found.push(`${file}: ${part} may not import ${specifier}`);
      }
    } else if (isEngine && !ENGINE_PACKAGES.includes(specifier)) {
      found.push(`${file}: ${part} may not import ${specifier}: the engines have no packages`);
    } else if (
      GRPC.some((name) => specifier === name || specifier.startsWith(`${name}/`)) &&
      !file.startsWith(GRPC_FOLDER)
    ) {
      found.push(`${file}: only ${GRPC_FOLDER} may import ${specifier}`);
    } else if (part === "proxy" && WORLD_PACKAGES.test(specifier) && !SOCKETS_CHECKED.includes(file)) {
      found.push(`${file}: the proxy has ${specifier} from its Runtime alone`);
    }
  }
  if (part === "proxy" && !REAL_WORLD.includes(file)) {
    for (const [, name] of codeOnly(source).matchAll(WORLD)) {
      found.push(`${file}: the proxy has ${name} from its Runtime alone`);
    }
  }
  if (file.startsWith(DECIDES) && file !== DECIDES_DRIVER) {
    for (const [, name] of codeOnly(source).matchAll(WAITS)) {
      found.push(`${file}: only ${DECIDES_DRIVER} may wait (${name})`);
    }
  }
  if (isEngine) {
    for (const [, name] of codeOnly(source).matchAll(ENGINE_LACKS)) {
      found.push(`${file}: the engines have no ${name}`);
    }
  }
  return found;
}

/** Every breach in one C file of src/backend/, in words. The module itself, above the folders, may include all. */
export function includeBreaches(file: string, source: string): string[] {
  const own = file.split("/").length > 3 ? BACKEND.indexOf(file.split("/")[2]) : BACKEND.length;
  if (own < 0) return [`${file}: the folder is not in the list of build/check_imports.ts`];
  return [...source.matchAll(/^#include "(\w+)\/\w+\.h"/gm)]
    .filter(([, folder]) => BACKEND.indexOf(folder) > own)
    .map(([, folder]) => `${file}: may not include the headers of ${folder}`);
}

async function* sources(folder: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(ROOT + folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* sources(path);
    else if (/\.[ch]$/.test(path)) yield path;
    else if (path.endsWith(".ts") && !/_test\.ts$|\/testing_[^/]*$/.test(path)) yield path;
  }
}

if (import.meta.main) {
  const found: string[] = [];
  for await (const file of sources("src")) {
    const source = await Deno.readTextFile(ROOT + file);
    found.push(...(file.endsWith(".ts") ? breaches : includeBreaches)(file, source));
  }
  for (const breach of found) console.error(breach);
  if (found.length > 0) Deno.exit(1);
}
