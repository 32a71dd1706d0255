// scripts/test: everything, or the suites that are named. The last line is "N passed, N failed".

import { findPostgres } from "../../build/postgres.ts";
import { OUT, ROOT } from "../../build/paths.ts";
import { build } from "../../build/build.ts";
import { exists, line, locked, main, run, StepError } from "../../build/run.ts";
import { compileAll } from "./compile.ts";
import { add, type Counts, denoCounts, regressCounts } from "./counts.ts";
import { type Engine, Sandbox } from "./sandbox.ts";

const SUITES = ["gate", "unit", "compile", "regress", "integration", "differential", "faults"] as const;
type Suite = typeof SUITES[number];

/** No suite may hang: far above what each takes. */
const SUITE_MS = 900_000;

const USAGE = `usage: scripts/test [SUITE...] [--engine embedded|plv8]

Suites: ${SUITES.join(", ")}. Those that need PostgreSQL run on each engine that is there.`;

/**
 * Runs a program with its output kept, and shown: as it comes, or when all of it is there, beside another one's. Killed when it
 * takes too long.
 */
async function shown(
  program: string,
  args: string[],
  env: Record<string, string>,
  atOnce: boolean,
): Promise<{ code: number; output: string }> {
  const child = new Deno.Command(program, {
    args,
    env,
    cwd: ROOT,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), SUITE_MS);
  let output = "";
  const pump = async (stream: ReadableStream<Uint8Array>) => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      if (atOnce) Deno.stdout.writeSync(chunk);
      output += decoder.decode(chunk, { stream: true });
    }
  };
  await Promise.all([pump(child.stdout), pump(child.stderr)]);
  const { code } = await child.status;
  clearTimeout(timer);
  if (!atOnce) console.log(output);
  return { code, output };
}

async function denoTest(paths: string[], env: Record<string, string> = {}, atOnce = true): Promise<Counts> {
  const args = ["test", "-A", "--quiet", ...paths];
  const { code, output } = await shown(Deno.execPath(), args, { NO_COLOR: "1", ...env }, atOnce);
  // A run that ended without its closing line, or badly with no failure counted, is a failure itself.
  const counts = denoCounts(output) ?? { passed: 0, failed: 1 };
  return code !== 0 && counts.failed === 0 ? add(counts, { passed: 0, failed: 1 }) : counts;
}

async function compile(): Promise<Counts> {
  const counts = { passed: 0, failed: 0 };
  for (const { major, problem } of await compileAll()) {
    console.log(`PostgreSQL ${major} ... ${problem === null ? "ok" : "FAILED\n" + problem}`);
    if (problem === null) counts.passed++;
    else counts.failed++;
  }
  return counts;
}

/** What `deno task ok` asks for beside the unit tests; each step is a test. */
async function gate(): Promise<Counts> {
  const steps: [string, string[]][] = [
    ["format", ["fmt", "--check", "--quiet"]],
    ["lint", ["lint", "--quiet"]],
    ["types", ["check", "--quiet", "."]],
    ["borders between the parts", ["run", "--allow-read", "build/check_imports.ts"]],
    ["C without warnings", ["run", "-A", "build/build.ts", "--werror"]],
  ];
  const counts = { passed: 0, failed: 0 };
  for (const [title, args] of steps) {
    const options = { cwd: ROOT, env: { NO_COLOR: "1" }, mayFail: true, timeoutMs: SUITE_MS };
    const { code, stdout, stderr } = await run(Deno.execPath(), args, options);
    console.log(`${title} ... ${code === 0 ? "ok" : `FAILED\n${stdout}${stderr}`}`);
    if (code === 0) counts.passed++;
    else counts.failed++;
  }
  return counts;
}

async function regress(engine: Engine): Promise<Counts> {
  const tests: string[] = [];
  for await (const entry of Deno.readDir(`${ROOT}/tests/regress/sql`)) {
    tests.push(entry.name.replace(/\.sql$/, ""));
  }
  const results = `${OUT}/regress-${engine}`;
  await Deno.mkdir(results, { recursive: true });
  // What is left there is looked at afterwards, so that its place has no number in it.
  return await locked(`${results}/lock`, () => regressIn(results, engine, tests));
}

async function regressIn(results: string, engine: Engine, tests: string[]): Promise<Counts> {
  const sandbox = await Sandbox.own(`regress-${engine}`, { engine });
  try {
    const pg = await findPostgres();
    const { code, output } = await shown(
      `${await line(pg.pgConfig, "--pkglibdir")}/pgxs/src/test/regress/pg_regress`,
      [
        "--use-existing",
        "--dbname=etcd_fdw",
        `--bindir=${pg.bindir}`,
        `--inputdir=${ROOT}/tests/regress`,
        `--outputdir=${results}`,
        ...tests.sort(),
      ],
      sandbox.env(),
      false,
    );
    if (code !== 0) console.log(await Deno.readTextFile(`${results}/regression.diffs`).catch(() => ""));
    const counts = regressCounts(output);
    return code !== 0 && counts.failed === 0 ? add(counts, { passed: 0, failed: 1 }) : counts;
  } finally {
    await sandbox.down();
  }
}

async function hasPlv8(): Promise<boolean> {
  const pg = await findPostgres();
  return await exists(`${await line(pg.pgConfig, "--sharedir")}/extension/plv8.control`);
}

async function engines(only: string | undefined): Promise<Engine[]> {
  if (only !== undefined && only !== "embedded" && only !== "plv8") {
    throw new StepError(`unknown engine "${only}"`);
  }
  if (only === "plv8" && !(await hasPlv8())) throw new StepError("the PostgreSQL of PG_CONFIG has no plv8");
  const { quickjs } = await build();
  const there: Engine[] = [];
  if (quickjs !== null && only !== "plv8") there.push("embedded");
  if (only !== "embedded" && await hasPlv8()) there.push("plv8");
  if (there.length === 0) {
    throw new StepError("neither plv8 nor the embedded engine is there: nothing can be tested");
  }
  return there;
}

async function runSuite(suite: Suite, engine: Engine | null): Promise<Counts> {
  const env: Record<string, string> = engine === null ? {} : { ETCD_FDW_ENGINE: engine };
  switch (suite) {
    case "gate":
      return await gate();
    case "unit":
      return await denoTest(["src", "build", "scripts", "tests/helpers", "tests/bench"]);
    case "compile":
      return await compile();
    case "regress":
      return await regress(engine!);
    default:
      return await denoTest([`tests/${suite}`], env, false);
  }
}

const isPerEngine = (suite: Suite) => !["gate", "unit", "compile"].includes(suite);

await main(async () => {
  const args = [...Deno.args];
  const at = args.indexOf("--engine");
  const [, only] = at >= 0 ? args.splice(at, 2) : [];
  if (args.some((arg) => !(SUITES as readonly string[]).includes(arg))) {
    console.log(USAGE);
    Deno.exit(args.includes("--help") ? 0 : 2);
  }
  const chosen = SUITES.filter((suite) => args.length === 0 || args.includes(suite));
  const ran = await engines(only);
  let total: Counts = { passed: 0, failed: 0 };
  const summary: string[] = [];
  const one = async (suite: Suite, engine: Engine | null) => {
    const title = engine === null ? suite : `${suite} on ${engine}`;
    console.log(`\n== ${title}`);
    const started = performance.now();
    const counts = await runSuite(suite, engine).catch((error) => {
      console.error(error instanceof StepError ? error.message : error);
      return { passed: 0, failed: 1 };
    });
    total = add(total, counts);
    const seconds = Math.round((performance.now() - started) / 1000);
    summary.push(`${title}: ${counts.passed} passed, ${counts.failed} failed, ${seconds} s`);
  };
  for (const suite of chosen) {
    // The engines side by side: their tests wait more than they work, and share nothing.
    await Promise.all((isPerEngine(suite) ? ran : [null]).map((engine) => one(suite, engine)));
  }
  // What a suite that was killed left behind; other runs may be under way.
  await Sandbox.removeAbandoned();
  console.log(`\n== summary (engines: ${ran.join(", ")})\n${summary.join("\n")}\n`);
  console.log(`${total.passed} passed, ${total.failed} failed`);
  Deno.exit(total.failed === 0 && total.passed > 0 ? 0 : 1);
});
