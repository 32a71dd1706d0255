// The embedded engine's C source. None of it is in this repository: it comes from Debian's source package, checked by apt's
// own signatures, or from where QUICKJS_SRC says.

import { ensureProgram, Release } from "./apt.ts";
import { OUT } from "./paths.ts";
import { exists, run, StepError } from "./run.ts";

const SOURCES = ["quickjs.c", "libregexp.c", "libunicode.c", "cutils.c", "dtoa.c", "libbf.c"];

async function isSource(directory: string): Promise<boolean> {
  return await exists(`${directory}/quickjs.c`) && await exists(`${directory}/quickjs.h`);
}

/** The C files of QuickJS itself that this copy has; versions differ in which helpers they need. */
export async function quickjsFiles(directory: string): Promise<string[]> {
  const files: string[] = [];
  for (const name of SOURCES) if (await exists(`${directory}/${name}`)) files.push(name);
  return files;
}

/** The folder with QuickJS's source, fetched at the first call; null when it cannot be had, which is said. */
export async function quickjsSource(): Promise<string | null> {
  const named = Deno.env.get("QUICKJS_SRC");
  if (named !== undefined && named !== "") {
    if (!(await isSource(named))) {
      throw new StepError(`QUICKJS_SRC=${named} holds no quickjs.c and quickjs.h`);
    }
    return named;
  }
  const directory = `${OUT}/quickjs`;
  if (await isSource(directory)) return directory;
  console.log("fetching the source of QuickJS from Debian 13");
  const release = await Release.open("trixie");
  const tars = release === null ? null : await release.source("quickjs", `${OUT}/quickjs-download`);
  if (tars === null || tars.length === 0) {
    console.log("no source of QuickJS could be had: this build needs plv8 (QUICKJS_SRC= names a copy)");
    return null;
  }
  // Unpacked beside its place: half of it, after an interruption, would be taken for the whole.
  const unpacked = `${directory}.new`;
  await Deno.remove(unpacked, { recursive: true }).catch(() => {});
  await Deno.mkdir(unpacked, { recursive: true });
  await ensureProgram("xz", ["xz-utils"]);
  await run("tar", ["-xf", tars[0], "-C", unpacked, "--strip-components=1"]);
  if (!(await isSource(unpacked))) throw new StepError(`${tars[0]} holds no quickjs.c`);
  await Deno.remove(directory, { recursive: true }).catch(() => {});
  await Deno.rename(unpacked, directory);
  return directory;
}
