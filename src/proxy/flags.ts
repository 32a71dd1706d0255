// How the proxy is started. The background worker (C) repeats this list.

/**
 * Arguments of `deno` in front of the script, for a socket at this path, which may be relative to the current
 * directory. The script must be the bundle, which imports nothing. DENO_DIR must name a directory that can be
 * written: Deno keeps the compiled script there, which halves the time to start.
 */
export function denoFlags(socket: string): string[] {
  const files = `${socket},${socket}.new`;
  return [
    "run",
    "--no-prompt",
    "--no-config",
    "--no-remote",
    "--no-npm",
    "--allow-net",
    "--ignore-env",
    `--allow-read=${files}`,
    `--allow-write=${files}`,
  ];
}
