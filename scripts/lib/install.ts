// Installs a build: the library, the extension's files, the proxy, and the Deno that runs it.

import { build, makeArguments } from "../../build/build.ts";
import { exists, line, run } from "../../build/run.ts";

/** Hard link where the file system allows it: the executable is large. */
async function place(from: string, to: string): Promise<void> {
  if (await exists(to)) await Deno.remove(to);
  await Deno.link(from, to).catch(() => Deno.copyFile(from, to));
  await Deno.chmod(to, 0o755);
}

/**
 * Builds and installs into the PostgreSQL of a pg_config.
 *
 * @param into The pg_config of the installation, if it is another than the one that is built for
 * @returns Whether the build has the embedded engine
 */
export async function install(pgConfig?: string, into?: string): Promise<boolean> {
  const pg = await build({ pgConfig });
  const target = into ?? pg.pgConfig;
  await run("make", [...await makeArguments({ ...pg, pgConfig: target }, pg.quickjs), "install"], {
    cwd: pg.objects,
  });
  const directory = `${await line(target, "--pkglibdir")}/etcd_fdw`;
  await Deno.mkdir(directory, { recursive: true });
  await place(Deno.execPath(), `${directory}/deno`);
  return pg.quickjs !== null;
}
