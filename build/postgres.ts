// Which PostgreSQL to build for, and what it is.

import { aptInstall } from "./apt.ts";
import { OUT } from "./paths.ts";
import { exists, line, run, StepError, which } from "./run.ts";

export interface Postgres {
  pgConfig: string;
  major: number;
  bindir: string;
  /** Where objects built for it go. */
  objects: string;
}

/** "PostgreSQL 15.18 (Debian …)" and "PostgreSQL 18beta1" as 15 and 18. */
export function majorVersion(text: string): number {
  const match = /^PostgreSQL (\d+)/.exec(text);
  if (match === null) throw new StepError(`not the version of a PostgreSQL: ${text}`);
  return Number(match[1]);
}

async function describe(pgConfig: string): Promise<Postgres> {
  const major = majorVersion(await line(pgConfig, "--version"));
  return { pgConfig, major, bindir: await line(pgConfig, "--bindir"), objects: `${OUT}/pg${major}` };
}

async function debianServers(): Promise<number[]> {
  const majors: number[] = [];
  try {
    for await (const entry of Deno.readDir("/usr/lib/postgresql")) {
      if (/^\d+$/.test(entry.name) && await exists(`/usr/lib/postgresql/${entry.name}/bin/postgres`)) {
        majors.push(Number(entry.name));
      }
    }
  } catch {
    // No PostgreSQL of Debian's.
  }
  return majors.sort((a, b) => b - a);
}

async function hasHeaders(pgConfig: string): Promise<boolean> {
  const { code, stdout } = await run(pgConfig, ["--includedir-server"], { mayFail: true });
  return code === 0 && await exists(`${stdout.trim()}/postgres.h`);
}

/**
 * The PostgreSQL of `pgConfig`, else of PG_CONFIG, else the newest of Debian's on this machine, else the one on PATH, else
 * Debian's default, which is then installed. Server and headers are made sure of.
 */
export async function findPostgres(pgConfig = Deno.env.get("PG_CONFIG")): Promise<Postgres> {
  if (pgConfig !== undefined && pgConfig !== "") {
    if (!(await hasHeaders(pgConfig))) {
      throw new StepError(
        `${pgConfig} names no PostgreSQL with server headers; install postgresql-server-dev for it`,
      );
    }
    return await describe(pgConfig);
  }
  if ((await debianServers()).length === 0) {
    // One that somebody built: Debian's pg_config on PATH, without a server, speaks of the client library.
    const other = await which("pg_config");
    if (
      other !== null && await hasHeaders(other) && await exists(`${await line(other, "--bindir")}/postgres`)
    ) {
      return await describe(other);
    }
    await aptInstall(["postgresql"], "PostgreSQL");
  }
  const [major] = await debianServers();
  if (major === undefined) throw new StepError("no PostgreSQL found; name its pg_config with PG_CONFIG=");
  const found = `/usr/lib/postgresql/${major}/bin/pg_config`;
  if (!(await hasHeaders(found))) {
    await aptInstall([`postgresql-server-dev-${major}`], "the server headers of PostgreSQL");
  }
  return await describe(found);
}
