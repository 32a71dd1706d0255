// How the proxy is started. The background worker (C) repeats this list; main_test.ts starts the proxy with it.

/**
 * Arguments of `deno` in front of the script, for a socket in `directory`, which is relative to the current one.
 * DENO_DIR must be set to a directory that can be written, where Deno keeps the compiled script.
 */
export function denoFlags(directory: string): string[] {
  return [
    "run",
    "--no-prompt",
    "--no-config",
    "--no-remote",
    "--no-npm",
    "--allow-net",
    "--ignore-env",
    `--allow-read=${directory}`,
    `--allow-write=${directory}`,
  ];
}
