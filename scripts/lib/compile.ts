// The compile suite: the backend against the server headers of every PostgreSQL that Debian's releases carry. The headers are
// unpacked from their packages under build/out; nothing is installed.

import { Release } from "../../build/apt.ts";
import { OUT, ROOT } from "../../build/paths.ts";
import { quickjsSource } from "../../build/quickjs.ts";
import { exists, line, run } from "../../build/run.ts";

/** Which release has which server headers. */
export const HEADERS: { major: number; release: string }[] = [
  { major: 15, release: "bookworm" },
  { major: 17, release: "trixie" },
  { major: 18, release: "sid" },
];

/**
 * The folders of server headers and of the C library's that they were configured for; null when they cannot be had.
 */
async function headers(major: number, releaseName: string): Promise<string[] | null> {
  const root = `${OUT}/headers/${major}`;
  const arch = await line("gcc", "-print-multiarch");
  const folders = [`postgresql/${major}/server`, "", arch].map((folder) => `${root}/usr/include/${folder}`);
  const complete = () => exists(`${root}/complete`);
  if (!(await complete())) {
    // Headers that are only compiled against: an older copy does as well.
    const release = await Release.open(releaseName, true);
    if (release === null) return null;
    for (const name of [`postgresql-server-dev-${major}`, "libc6-dev", "linux-libc-dev"]) {
      if (!(await release.unpack(name, root))) return null;
    }
    await Deno.writeTextFile(`${root}/complete`, "");
  }
  return folders;
}

async function* filesBelow(folder: string, ending: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* filesBelow(path, ending);
    else if (path.endsWith(ending)) yield path;
  }
}

export interface CompileResult {
  major: number;
  /** Null: it compiles without a warning. */
  problem: string | null;
}

async function compileOne(major: number, release: string, quickjs: string | null): Promise<CompileResult> {
  const folders = await headers(major, release);
  if (folders === null) {
    return { major, problem: `the headers of PostgreSQL ${major} could not be had from Debian ${release}` };
  }
  const sources: string[] = [];
  for await (const source of filesBelow(`${ROOT}/src/backend`, ".c")) sources.push(source);
  const flags = [
    "-std=gnu11",
    "-fsyntax-only",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-sign-compare",
  ];
  const engine = quickjs === null ? [] : ["-DETCD_FDW_WITH_QUICKJS", "-isystem", quickjs];
  const args = [
    ...flags,
    "-D_GNU_SOURCE",
    "-I",
    `${ROOT}/src/backend`,
    "-I",
    `${OUT}/gen`,
    ...folders.flatMap((folder) => ["-isystem", folder]),
    ...engine,
    ...sources.sort(),
  ];
  const { code, stderr } = await run("gcc", args, { mayFail: true });
  return { major, problem: code === 0 ? null : stderr };
}

export async function compileAll(): Promise<CompileResult[]> {
  const quickjs = await quickjsSource();
  const results: CompileResult[] = [];
  for (const { major, release } of HEADERS) results.push(await compileOne(major, release, quickjs));
  return results;
}
