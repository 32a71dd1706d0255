// The whole build: bundles, generated files, and the backend for one PostgreSQL.
//
//   deno run -A build/build.ts [--werror] [--pg-config PATH]

import { bundle } from "./bundle.ts";
import { writeConstants } from "./constants.ts";
import { embed } from "./embed.ts";
import { generateExtension } from "./extension.ts";
import { OUT, ROOT } from "./paths.ts";
import { findPostgres, type Postgres } from "./postgres.ts";
import { quickjsFiles, quickjsSource } from "./quickjs.ts";
import { ensureProgram } from "./apt.ts";
import { locked, main, run } from "./run.ts";

export interface BuildOptions {
  werror?: boolean;
  pgConfig?: string;
}

/** The arguments that every call of the Makefile needs. */
export async function makeArguments(pg: Postgres, quickjs: string | null): Promise<string[]> {
  const files = quickjs === null ? [] : await quickjsFiles(quickjs);
  return [
    "-s",
    `-f${ROOT}/build/Makefile`,
    `PG_CONFIG=${pg.pgConfig}`,
    `ROOT=${ROOT}`,
    `OUT=${OUT}`,
    `QUICKJS=${quickjs ?? ""}`,
    `QUICKJS_FILES=${files.join(" ")}`,
  ];
}

/** Bundles, SQL and C arrays: what does not depend on a PostgreSQL but for the compiler that makes bytecode. */
export async function generate(pg: Postgres): Promise<string | null> {
  await Deno.mkdir(`${OUT}/gen`, { recursive: true });
  await ensureProgram("make", ["make"]);
  await ensureProgram("gcc", ["gcc", "libc6-dev"]);
  await bundle();
  await generateExtension();
  await writeConstants();
  await embed("etcd_fdw_core_source", `${OUT}/core.js`, `${OUT}/gen/core_source.c`);
  const quickjs = await quickjsSource();
  if (quickjs !== null) {
    await Deno.mkdir(pg.objects, { recursive: true });
    await run("make", [...await makeArguments(pg, quickjs), "-j2", "qjs_compile"], { cwd: pg.objects });
    await run(`${pg.objects}/qjs_compile`, [`${OUT}/core.js`, `${OUT}/gen/core.bytecode`]);
    await embed("etcd_fdw_core_bytecode", `${OUT}/gen/core.bytecode`, `${OUT}/gen/core_bytecode.c`);
  }
  return quickjs;
}

/** The PostgreSQL that was built for, and where the embedded engine's sources are. */
export type Built = Postgres & { quickjs: string | null };

/** Builds for one PostgreSQL and says which. Nobody else builds before `use` has done with what was built. */
export async function build(
  options: BuildOptions = {},
  use: (built: Built) => Promise<void> = () => Promise.resolve(),
): Promise<Built> {
  await Deno.mkdir(OUT, { recursive: true });
  return await locked(`${OUT}/lock`, async () => {
    const built = await buildAlone(options);
    await use(built);
    return built;
  });
}

async function buildAlone(options: BuildOptions): Promise<Built> {
  const pg = await findPostgres(options.pgConfig);
  const quickjs = await generate(pg);
  await Deno.mkdir(pg.objects, { recursive: true });
  const args = [...await makeArguments(pg, quickjs), "-j2"];
  if (options.werror) args.push("WERROR=1");
  // Other flags than last time: make sees no change in the files. What was compiled without a warning need not be compiled
  // again without --werror.
  const flavour = (werror: boolean) => JSON.stringify([werror, quickjs]);
  const stamp = `${pg.objects}/flavour`;
  const built = await Deno.readTextFile(stamp).catch(() => "");
  const again = built !== flavour(true) && (options.werror || built !== flavour(false));
  if (again) await run("sh", ["-c", "rm -f *.o */*.o etcd_fdw.so"], { cwd: pg.objects });
  else if ((await run("make", [...args, "-q", "all"], { cwd: pg.objects, mayFail: true })).code === 0) {
    return { ...pg, quickjs };
  }
  await run("make", [...args, "all"], { cwd: pg.objects });
  await Deno.writeTextFile(stamp, flavour(options.werror ?? false));
  return { ...pg, quickjs };
}

if (import.meta.main) {
  await main(async () => {
    const at = Deno.args.indexOf("--pg-config");
    const pg = await build({
      werror: Deno.args.includes("--werror"),
      pgConfig: at >= 0 ? Deno.args[at + 1] : undefined,
    });
    console.log(
      `built for PostgreSQL ${pg.major} in ${pg.objects}${
        pg.quickjs ? "" : " (without the embedded engine)"
      }`,
    );
  });
}
