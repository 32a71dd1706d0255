// Running other programs from build and scripts: output caught, shown only when it fails.

/** A step that failed, with the one thing to do; printed without a stack. */
export class StepError extends Error {
  override name = "StepError";
}

export interface RunOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** Shown as it comes instead of being caught. */
  inherit?: boolean;
  /** Failing is an answer too: no error is thrown. */
  mayFail?: boolean;
  /** Only `env` and nothing of this process's environment. */
  clearEnv?: boolean;
  /** Milliseconds after which the program is killed; its exit code is then 124, as of timeout(1). */
  timeoutMs?: number;
  stdin?: string;
}

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end. Throws StepError with its output when it fails, unless it may. */
export async function run(command: string, args: string[], options: RunOptions = {}): Promise<RunResult> {
  const { cwd, env, clearEnv, inherit, mayFail, stdin, timeoutMs } = options;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let timedOut = false;
  let result: RunResult;
  try {
    const mode = inherit ? "inherit" : "piped";
    const child = new Deno.Command(command, {
      args,
      cwd,
      env,
      clearEnv,
      stdin: stdin === undefined ? (inherit ? "inherit" : "null") : "piped",
      stdout: mode,
      stderr: mode,
    }).spawn();
    if (timeoutMs !== undefined) {
      timer = setTimeout(() => {
        timedOut = true;
        child.kill("SIGKILL");
      }, timeoutMs);
    }
    if (stdin !== undefined) {
      const writer = child.stdin.getWriter();
      await writer.write(new TextEncoder().encode(stdin));
      await writer.close();
    }
    if (inherit) {
      result = { code: (await child.status).code, stdout: "", stderr: "" };
    } else {
      const output = await child.output();
      const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      result = { code: output.code, stdout: decode(output.stdout), stderr: decode(output.stderr) };
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    result = { code: 127, stdout: "", stderr: `${command}: command not found` };
  } finally {
    clearTimeout(timer);
  }
  if (timedOut) {
    const said = `${result.stderr}\n${command} was stopped after ${timeoutMs! / 1000} s\n`;
    result = { ...result, code: 124, stderr: said };
  }
  if (result.code !== 0 && !mayFail) {
    const said = (result.stdout + result.stderr).trim().split("\n").slice(-40).join("\n");
    throw new StepError(`${command} ${args.join(" ")} failed with exit code ${result.code}\n${said}`);
  }
  return result;
}

/** The first line that a program prints, trimmed. */
export async function line(command: string, ...args: string[]): Promise<string> {
  return (await run(command, args)).stdout.trim().split("\n")[0];
}

/** Does something while no other process does what this file stands for. The lock ends with the process, however that ends. */
export async function locked<T>(path: string, body: () => Promise<T>): Promise<T> {
  using file = await Deno.open(path, { create: true, write: true });
  await file.lock(true);
  return await body();
}

/** Where a program is on PATH, or null. */
export async function which(program: string): Promise<string | null> {
  const { code, stdout } = await run("sh", ["-c", `command -v "$0"`, program], { mayFail: true });
  return code === 0 ? stdout.trim() : null;
}

/** Writes a file unless it holds the same already: an untouched time stamp tells make that nothing is to do. */
export async function writeIfChanged(path: string, content: string): Promise<void> {
  if (await Deno.readTextFile(path).catch(() => null) !== content) await Deno.writeTextFile(path, content);
}

export async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** Runs a script's main function; a StepError is a message and exit code 1. */
export async function main(body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (error) {
    if (!(error instanceof StepError)) throw error;
    console.error(`error: ${error.message}`);
    Deno.exit(1);
  }
}
