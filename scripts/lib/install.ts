// Installs a build: the library, the extension's files, the proxy, and the Deno that runs it.

import { build, type Built, makeArguments } from "../../build/build.ts";
import { line, run } from "../../build/run.ts";

/** What to install where. */
export interface InstallOptions {
  /** Of the PostgreSQL to build for. */
  pgConfig?: string;
  /** The pg_config of the installation, if it is another than the one that is built for. */
  into?: string;
  /**
   * Link the Deno executable instead of copying it: quick, and right only for a throwaway installation. A server must not run
   * a file that belongs to, and can be changed by, the user who once installed it.
   */
  link?: boolean;
}

async function place(from: string, to: string, link: boolean): Promise<void> {
  if (link && await isSameFile(from, to)) return;
  // Beside it and then renamed: a proxy may run the one that is there.
  const next = `${to}.new`;
  await Deno.remove(next).catch(() => {});
  const copy = async () => {
    await Deno.copyFile(from, next);
    await Deno.chmod(next, 0o755);
  };
  if (link) await Deno.link(from, next).catch(copy);
  else await copy();
  await Deno.rename(next, to);
}

async function isSameFile(a: string, b: string): Promise<boolean> {
  const [one, other] = await Promise.all([a, b].map((path) => Deno.stat(path).catch(() => null)));
  return one !== null && other !== null && one.ino === other.ino && one.dev === other.dev;
}

/**
 * Builds and installs.
 *
 * @returns Whether the build has the embedded engine
 */
export async function install(options: InstallOptions = {}): Promise<boolean> {
  const copied = async (pg: Built) => {
    const args = await makeArguments({ ...pg, pgConfig: options.into ?? pg.pgConfig }, pg.quickjs);
    await run("make", [...args, "install"], { cwd: pg.objects });
  };
  const pg = await build({ pgConfig: options.pgConfig }, copied);
  const target = options.into ?? pg.pgConfig;
  const directory = `${await line(target, "--pkglibdir")}/etcd_fdw`;
  await Deno.mkdir(directory, { recursive: true });
  await place(await Deno.realPath(Deno.execPath()), `${directory}/deno`, options.link ?? false);
  return pg.quickjs !== null;
}
