// The proxy's stderr is the server log: one line an event, and only what an administrator can act on.

/** Writes one line to the server log. The text must hold no password and no token. */
export function log(message: string): void {
  const line = message.trimEnd().replaceAll(/\s*\n\s*/g, "; ");
  console.error(`etcd_fdw proxy: ${line}`);
}
