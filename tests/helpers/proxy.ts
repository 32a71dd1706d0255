// Finds the proxy processes of one PostgreSQL cluster in /proc.

/** Pids of the Deno processes that serve the cluster in this data directory. */
export async function proxyPids(dataDirectory: string): Promise<number[]> {
  const pids: number[] = [];
  for await (const entry of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(entry.name)) continue;
    try {
      const command = await Deno.readTextFile(`/proc/${entry.name}/cmdline`);
      if (!command.includes("proxy.js\0") || !command.includes("pg_stat_tmp/etcd_fdw/proxy.sock")) continue;
      if (await Deno.realPath(`/proc/${entry.name}/cwd`) === await Deno.realPath(dataDirectory)) {
        pids.push(Number(entry.name));
      }
    } catch {
      // The process ended while it was looked at.
    }
  }
  return pids;
}
