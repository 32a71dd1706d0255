// A private PostgreSQL installation for a sandbox, so that trying etcd_fdw never touches the system's.
//
// PostgreSQL finds its libraries and shared files relative to its own executable. So a tree of folders with links to the
// system's files, and real copies of the executables that look for themselves, is an installation of its own: the extension is
// installed there without root, and what should be absent (plv8, for the embedded engine) is just not linked.

import { StepError } from "../../build/run.ts";
import { exists, line } from "../../build/run.ts";

/** Executables that find other files through their own place; a link would lead them to the system's. */
const COPIED = ["postgres", "initdb", "pg_ctl", "pg_config"];

interface Layout {
  bindir: string;
  pkglibdir: string;
  sharedir: string;
}

/** The longest folder that all of these are in. */
export function commonFolder(paths: string[]): string {
  const parts = paths.map((path) => path.split("/"));
  let depth = 0;
  while (parts.every((p) => depth < p.length - 1 && p[depth] === parts[0][depth])) depth++;
  return parts[0].slice(0, depth).join("/");
}

async function linkTree(from: string, to: string, skip: (path: string) => boolean): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for await (const entry of Deno.readDir(from)) {
    const source = `${from}/${entry.name}`;
    if (skip(source)) continue;
    const info = await Deno.stat(source).catch(() => null);
    if (info === null) continue;
    if (info.isDirectory) await linkTree(source, `${to}/${entry.name}`, skip);
    else await Deno.symlink(await Deno.realPath(source), `${to}/${entry.name}`);
  }
}

/**
 * Makes the tree under `root` and returns the pg_config of the copy.
 *
 * @param withPlv8 Link plv8's files in; fails when there are none. Otherwise leave them out.
 */
export async function copyInstallation(pgConfig: string, root: string, withPlv8: boolean): Promise<string> {
  const layout: Layout = {
    bindir: await line(pgConfig, "--bindir"),
    pkglibdir: await line(pgConfig, "--pkglibdir"),
    sharedir: await line(pgConfig, "--sharedir"),
  };
  if (withPlv8 && !(await exists(`${layout.sharedir}/extension/plv8.control`))) {
    throw new StepError(`the PostgreSQL of ${pgConfig} has no plv8; install it, or use --engine embedded`);
  }
  const base = commonFolder(Object.values(layout));
  const place = (path: string) => root + path.slice(base.length ? base.lastIndexOf("/") : 0);
  const isOurs = (path: string) => /\/(etcd_fdw(\.so|\.control|--[^/]*)?)$/.test(path);
  const isPlv8 = (path: string) => /\/plv8[^/]*$/.test(path);
  const skip = (path: string) =>
    isOurs(path) || (!withPlv8 && isPlv8(path)) || COPIED.some((name) => path === `${layout.bindir}/${name}`);
  for (const path of Object.values(layout)) await linkTree(path, place(path), skip);
  for (const name of COPIED) {
    await Deno.copyFile(`${layout.bindir}/${name}`, `${place(layout.bindir)}/${name}`);
  }
  const copy = `${place(layout.bindir)}/pg_config`;
  if (await line(copy, "--sharedir") !== place(layout.sharedir)) {
    throw new StepError(
      `the PostgreSQL of ${pgConfig} cannot be moved: its pg_config does not follow its place`,
    );
  }
  return copy;
}
